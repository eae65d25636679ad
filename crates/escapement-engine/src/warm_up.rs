//! Warm-up: the policy runs on the pinned thread, with real shapes, until its tail is stable.
//!
//! libtorch specialises for each thread, and the processor's caches and predictors are cold, so the first
//! calls say nothing about later ones. The tail measured at the end decides whether the agent may be armed.

use super::checks::Bounds;
use super::policies::Policies;
use super::tick::Engine;
use crate::telemetry::{Histogram, Percentiles};
use escapement_policy::PolicyError;
use escapement_policy::denormals::FlushDenormals;
use escapement_policy::random::SplitMix64;
use escapement_ring::clock::{Clock, Nanos};

/// How long to warm up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WarmUpSpec {
    /// The number of calls in one round.
    pub round: u32,
    /// No further round begins after this time.
    pub limit: Nanos,
    /// The share of a round's calls (0 to 1) whose latency counts as the tail.
    pub quantile: f64,
}

/// The result of a warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WarmUp {
    /// The number of calls in all rounds.
    pub calls: u64,
    /// The last round's tail, at the quantile that was asked for.
    pub tail: Nanos,
    /// The last round's latencies.
    pub latency_ns: Percentiles,
    /// True if the tails of the last two rounds agreed; false if the time ran out first.
    pub stable: bool,
    /// The number of calls of the last round that faulted.
    pub faults: u64,
}

/// Two rounds agree if the later one's tail is longer by at most this many percent.
const STABLE_WITHIN_PERCENT: u64 = 10;

impl<C: Clock> Engine<C> {
    /// Prepares the calling thread for the policy and warms it up. Resets the carried state of a recurrent
    /// policy afterwards. Allocates, so the caller must do it before the real-time boundary.
    ///
    /// # Errors
    /// Fails if the policy cannot be prepared for this thread.
    pub fn warm_up(
        &mut self,
        spec: WarmUpSpec,
        mut on_round: impl FnMut(&Self),
    ) -> Result<WarmUp, PolicyError> {
        let _flush = FlushDenormals::enter();
        self.pipeline.policies.enter_thread(0)?;
        let begun = self.pipeline.clock.now();
        let mut observations = Observations::new();
        let mut calls = 0;
        let mut previous_tail = None;
        loop {
            let mut histogram = Histogram::new();
            let mut faults = 0;
            for _ in 0..spec.round.max(1) {
                let Policies { policy, fallback, observation, action, spare } = &mut self.pipeline.policies;
                observations.next_into(observation, &self.pipeline.settings.observation_bounds);
                if let Some(fallback) = fallback {
                    faults += u64::from(fallback.infer(observation, spare).is_err());
                }
                // Granted, so that the guard notices a policy that hangs here.
                self.pipeline.session.responder.grant(Nanos(u64::MAX));
                let called = self.pipeline.clock.now();
                let answer = policy.infer(observation, action);
                let returned = self.pipeline.clock.now();
                let back = self.pipeline.session.responder.take_back();
                debug_assert!(back, "a lease without a deadline is never claimed");
                histogram.record(returned.since(called).0);
                faults += u64::from(answer.is_err());
                calls += 1;
                if returned.since(begun) >= spec.limit {
                    break;
                }
            }
            // A fault stays, and the loop finds it again before it answers anything for long.
            _ = self.pipeline.clock.discipline();
            on_round(self);
            let tail = Nanos(histogram.quantile_ns(spec.quantile));
            let stable = previous_tail
                .is_some_and(|before: Nanos| tail.0 * 100 <= before.0 * (100 + STABLE_WITHIN_PERCENT));
            if stable || self.pipeline.clock.now().since(begun) >= spec.limit {
                self.sample_observation();
                self.pipeline.policies.policy.reset();
                if let Some(fallback) = &mut self.pipeline.policies.fallback {
                    fallback.reset();
                }
                return Ok(WarmUp { calls, tail, latency_ns: histogram.percentiles(), stable, faults });
            }
            previous_tail = Some(tail);
        }
    }
}

impl Policies {
    /// Measures one round of calls on the calling thread by the rules of a warm-up, and returns its tail: the
    /// time that a policy which is to replace another one takes on this machine. Resets the carried state
    /// afterwards.
    ///
    /// # Errors
    /// Fails if the policy cannot be prepared for this thread.
    pub fn measure(
        &mut self,
        clock: &impl Clock,
        spec: WarmUpSpec,
        bounds: &Bounds,
    ) -> Result<Nanos, PolicyError> {
        let _flush = FlushDenormals::enter();
        self.enter_thread(0)?;
        let begun = clock.now();
        let mut observations = Observations::new();
        let mut histogram = Histogram::new();
        for _ in 0..spec.round.max(1) {
            observations.next_into(&mut self.observation, bounds);
            let called = clock.now();
            // The golden vectors have shown that it answers; only the time matters here.
            let _ = self.policy.infer(&self.observation, &mut self.action);
            let returned = clock.now();
            histogram.record(returned.since(called).0);
            if returned.since(begun) >= spec.limit {
                break;
            }
        }
        self.policy.reset();
        Ok(Nanos(histogram.quantile_ns(spec.quantile)))
    }
}

/// Returns `count` synthetic observations of `width` elements, uniform in -1 to 1. They are the same every
/// time.
pub fn synthetic_observations(width: usize, count: usize) -> Vec<Vec<f32>> {
    let bounds = Bounds::unlimited(width);
    let mut source = Observations::new();
    let mut observations = vec![vec![0.0; width]; count];
    observations.iter_mut().for_each(|observation| source.next_into(observation, &bounds));
    observations
}

/// Synthetic observations: uniform within a feature's limits if both are finite, else within -1 to 1 and
/// clamped to the one limit there is. Every warm-up sees the same ones.
struct Observations {
    random: SplitMix64,
}

impl Observations {
    fn new() -> Self {
        Self { random: SplitMix64::new(0) }
    }

    fn next_into(&mut self, observation: &mut [f32], bounds: &Bounds) {
        for (index, value) in observation.iter_mut().enumerate() {
            let (low, high) = bounds.of(index);
            let share = self.uniform();
            *value = if low.is_finite() && high.is_finite() {
                // Not low + (high - low) * share: the difference of two finite limits may be infinite.
                low * (1.0 - share) + high * share
            } else {
                (2.0 * share - 1.0).clamp(low, high)
            };
        }
    }

    fn uniform(&mut self) -> f32 {
        (self.random.next_word() >> 40) as f32 / (1u32 << 24) as f32
    }
}
