//! Warm-up: the policy runs on the pinned thread, with real shapes, until its tail is stable.
//!
//! libtorch specialises per thread and the processor's caches and predictors are cold; the first calls say nothing
//! about the later ones. The tail measured at the end decides whether the agent may be armed.

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
    /// Calls in one round.
    pub round: u32,
    /// The time after which no further round begins.
    pub limit: Nanos,
    /// The share of a round's calls (0 to 1) whose latency counts as the tail.
    pub quantile: f64,
}

/// What the warm-up found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WarmUp {
    /// Calls made in all rounds.
    pub calls: u64,
    /// The last round's tail, at the quantile asked for.
    pub tail: Nanos,
    /// The last round's latencies.
    pub latency_ns: Percentiles,
    /// Whether the tail of the last two rounds agreed, or the time ran out first.
    pub stable: bool,
    /// Calls of the last round that faulted.
    pub faults: u64,
}

/// Two rounds agree when the later one's tail is at most this much longer, in percent.
const STABLE_WITHIN_PERCENT: u64 = 10;

impl<C: Clock> Engine<C> {
    /// Prepares the calling thread for the policy and warms it up. The carried state of a recurrent policy is back at
    /// its initial value afterwards. Allocates: it belongs before the real-time boundary.
    ///
    /// # Errors
    /// When the policy cannot be prepared for this thread.
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
                // Under the guard's eyes, where there is one already: a policy may hang here, too.
                self.pipeline.responder.grant(Nanos(u64::MAX));
                let called = self.pipeline.clock.now();
                let answer = policy.infer(observation, action);
                let returned = self.pipeline.clock.now();
                let back = self.pipeline.responder.take_back();
                debug_assert!(back, "nobody takes what has no deadline");
                histogram.record(returned.since(called).0);
                faults += u64::from(answer.is_err());
                calls += 1;
                if returned.since(begun) >= spec.limit {
                    break;
                }
            }
            self.pipeline.clock.discipline();
            on_round(self);
            let tail = Nanos(histogram.quantile_ns(spec.quantile));
            let stable = previous_tail
                .is_some_and(|before: Nanos| tail.0 * 100 <= before.0 * (100 + STABLE_WITHIN_PERCENT));
            if stable || self.pipeline.clock.now().since(begun) >= spec.limit {
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
    /// The tail of one round of calls on the calling thread, by the rules of a warm-up: what a policy that is to replace
    /// another one takes on this machine. CarriedState state is back at its initial value afterwards.
    ///
    /// # Errors
    /// When the policy cannot be prepared for this thread.
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
            // A fault is the golden vectors' business; here it is about time.
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

/// `count` made-up observations of `width` elements, uniform in -1 to 1; the same ones every time.
pub fn synthetic_observations(width: usize, count: usize) -> Vec<Vec<f32>> {
    let bounds = Bounds::unlimited(width);
    let mut source = Observations::new();
    let mut observations = vec![vec![0.0; width]; count];
    observations.iter_mut().for_each(|observation| source.next_into(observation, &bounds));
    observations
}

/// Made-up observations: uniform within a feature's limits where both are finite, else within -1 to 1, clamped to the
/// limit there is. Every warm-up sees the same ones.
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
