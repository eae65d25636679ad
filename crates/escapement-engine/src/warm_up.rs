//! Warm-up: the policy runs on the pinned thread, with real shapes, until its tail is stable. Then it runs at
//! the rate of the observations to come.
//!
//! libtorch specialises for each thread, and the processor's caches and predictors are cold, so the first
//! calls say nothing about later ones. Calls back to back say little about calls with pauses between them,
//! in which the core goes cold again. So the tail of the paced calls decides whether the agent may be armed.

use super::checks::Bounds;
use super::dry_run::TRIALS;
use super::keep_warm::KeepWarm;
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
    /// No further round begins after this time. The paced calls may take as long once more.
    pub limit: Nanos,
    /// The share of calls (0 to 1) whose latency counts as the tail.
    pub quantile: f64,
    /// The calls at the expected rate, after the rounds.
    pub paced: PacedSpec,
}

/// Calls that are as far apart as the observations to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacedSpec {
    /// The number of calls. None are made if it is zero.
    pub calls: u32,
    /// Calls a second.
    pub rate: u32,
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
    /// The calls at the expected rate; `None` if there were none.
    pub paced: Option<PacedCalls>,
    /// The number of calls of the last round, and of the paced ones, that faulted.
    pub faults: u64,
}

/// What calls at the expected rate took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacedCalls {
    /// The rate that was asked for, in calls a second.
    pub rate: u32,
    /// Their tail, at the quantile that was asked for.
    pub tail: Nanos,
    /// Their latencies.
    pub latency_ns: Percentiles,
}

/// What the calls of a policy took that is to replace another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// The tail of the paced calls, or of the calls back to back if none were paced.
    pub tail: Nanos,
    /// The latencies of the calls back to back.
    pub latency_ns: Percentiles,
}

impl WarmUp {
    /// Returns the tail that decides whether the agent may be armed: that of the paced calls, if there were
    /// any.
    pub fn deciding_tail(&self) -> Nanos {
        self.paced.map_or(self.tail, |paced| paced.tail)
    }
}

/// Two rounds agree if the later one's tail is longer by at most this many percent.
const STABLE_WITHIN_PERCENT: u64 = 10;
/// How long the paced calls go without telling the caller.
const TELL_EVERY: Nanos = Nanos::from_micros(500);

impl<C: Clock> Engine<C> {
    /// Prepares the calling thread for the policy and warms it up. Calls `on_round` after each round, and at
    /// least twice a millisecond between the paced calls. Resets the carried state of a recurrent policy
    /// afterwards. Allocates, so the caller must do it before the real-time boundary.
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
        let (latency_ns, tail, stable, mut faults) = loop {
            let mut histogram = Histogram::new();
            let mut faults = 0;
            for _ in 0..spec.round.max(1) {
                let call = self.warm_up_call(&mut observations);
                histogram.record(call.returned.since(call.called).0);
                faults += call.faults;
                calls += 1;
                if call.returned.since(begun) >= spec.limit {
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
                break (histogram.percentiles(), tail, stable, faults);
            }
            previous_tail = Some(tail);
        };
        // What dry runs answer until there is a real observation.
        self.sample_observation();
        self.learn_dry_length(Nanos(latency_ns.p50));
        let paced = self.paced_calls(spec, &mut observations, &mut faults, &mut on_round);
        self.pipeline.policies.policy.reset();
        if let Some(fallback) = &mut self.pipeline.policies.fallback {
            fallback.reset();
        }
        Ok(WarmUp { calls, tail, latency_ns, stable, paced, faults })
    }

    /// Makes the dry runs that show how long one takes. Observations that come fast may leave no pause for
    /// them later. `typical` is what a call of the policy takes.
    fn learn_dry_length(&mut self, typical: Nanos) {
        self.dry.call = Some(typical);
        self.dry.plan(&self.pipeline.settings);
        if self.dry.is_ever_due() {
            for _ in 0..TRIALS {
                self.run_dry();
            }
        }
    }

    /// Calls the policy at the expected rate, and keeps the engine warm in between as it will be kept later.
    fn paced_calls(
        &mut self,
        spec: WarmUpSpec,
        observations: &mut Observations,
        faults: &mut u64,
        on_round: &mut impl FnMut(&Self),
    ) -> Option<PacedCalls> {
        let mut pacer = Pacer::new(spec, self.pipeline.clock.now())?;
        let mut histogram = Histogram::new();
        let mut now = pacer.begun;
        let mut told = now;
        loop {
            match pacer.next(now) {
                Turn::Ended => return Some(paced(&histogram, spec)),
                Turn::Due => {
                    let call = self.warm_up_call(observations);
                    histogram.record(call.returned.since(call.called).0);
                    *faults += call.faults;
                    now = call.returned;
                    self.dry.busy_until = now;
                }
                Turn::Idle => now = self.idle_work(now),
            }
            if now.since(told) >= TELL_EVERY {
                on_round(self);
                told = now;
            }
        }
    }

    /// Does what the engine does while there is no observation. Returns when it was done.
    fn idle_work(&mut self, now: Nanos) -> Nanos {
        match self.keep_warm(now) {
            Some(ended) => ended,
            None => {
                core::hint::spin_loop();
                self.pipeline.clock.now()
            }
        }
    }

    fn warm_up_call(&mut self, observations: &mut Observations) -> Call {
        let Policies { policy, fallback, observation, action, spare } = &mut self.pipeline.policies;
        observations.next_into(observation, &self.pipeline.settings.observation_bounds);
        let mut faults = 0;
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
        faults += u64::from(answer.is_err());
        Call { called, returned, faults }
    }
}

/// One call of a warm-up.
struct Call {
    called: Nanos,
    returned: Nanos,
    faults: u64,
}

fn paced(histogram: &Histogram, spec: WarmUpSpec) -> PacedCalls {
    let tail = Nanos(histogram.quantile_ns(spec.quantile));
    PacedCalls { rate: spec.paced.rate, tail, latency_ns: histogram.percentiles() }
}

/// Says when the next paced call is due.
struct Pacer {
    begun: Nanos,
    until: Nanos,
    period: Nanos,
    due: Nanos,
    left: u32,
    made: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Turn {
    /// A call is due.
    Due,
    /// Nothing is due yet.
    Idle,
    /// All calls are made, or the time is over.
    Ended,
}

impl Pacer {
    /// Returns `None` if no paced calls are wanted.
    fn new(spec: WarmUpSpec, begun: Nanos) -> Option<Self> {
        let PacedSpec { calls, rate } = spec.paced;
        if calls == 0 || rate == 0 {
            return None;
        }
        let period = Nanos(1_000_000_000 / u64::from(rate));
        let until = begun.plus(spec.limit.max(period));
        Some(Self { begun, until, period, due: begun.plus(period), left: calls, made: 0 })
    }

    /// A call that comes late does not make the following ones come closer together. At least one call is
    /// made, however late.
    fn next(&mut self, now: Nanos) -> Turn {
        if self.left == 0 || now > self.until && self.made > 0 {
            Turn::Ended
        } else if now >= self.due {
            self.left -= 1;
            self.made += 1;
            self.due = now.plus(self.period);
            Turn::Due
        } else {
            Turn::Idle
        }
    }
}

impl Policies {
    /// Measures calls on the calling thread by the rules of a warm-up, one round back to back and then the
    /// paced ones: what a policy that is to replace another one takes on this machine. Stays warm between the
    /// paced calls by calls of the policy, as often as an engine with this setting and this shortest
    /// deadline. Resets the carried state afterwards.
    ///
    /// # Errors
    /// Fails if the policy cannot be prepared for this thread.
    pub fn measure(
        &mut self,
        clock: &impl Clock,
        spec: WarmUpSpec,
        bounds: &Bounds,
        keep_warm: KeepWarm,
        shortest_deadline: Nanos,
    ) -> Result<Measured, PolicyError> {
        let _flush = FlushDenormals::enter();
        self.enter_thread(0)?;
        let begun = clock.now();
        let mut observations = Observations::new();
        let mut histogram = Histogram::new();
        let mut call = |policies: &mut Self| {
            observations.next_into(&mut policies.observation, bounds);
            let called = clock.now();
            // The golden vectors have shown that it answers; only the time matters here.
            let _ = policies.policy.infer(&policies.observation, &mut policies.action);
            (called, clock.now())
        };
        for _ in 0..spec.round.max(1) {
            let (called, returned) = call(self);
            histogram.record(returned.since(called).0);
            if returned.since(begun) >= spec.limit {
                break;
            }
        }
        let latency_ns = histogram.percentiles();
        let mut tail = Nanos(histogram.quantile_ns(spec.quantile));
        if let Some(mut pacer) = Pacer::new(spec, clock.now()) {
            // The policy has not answered an observation yet, so there are no carried states to save.
            let interval = keep_warm.interval(Nanos(latency_ns.p50), shortest_deadline);
            let interval = interval.filter(|_| self.can_run_dry());
            let mut histogram = Histogram::new();
            let mut now = pacer.begun;
            let mut busy_until = now;
            loop {
                match pacer.next(now) {
                    Turn::Ended => break,
                    Turn::Due => {
                        let (called, returned) = call(self);
                        histogram.record(returned.since(called).0);
                        (now, busy_until) = (returned, returned);
                    }
                    Turn::Idle if interval.is_some_and(|interval| now.since(busy_until) >= interval) => {
                        let _ = self.policy.infer(&self.observation, &mut self.action);
                        now = clock.now();
                        busy_until = now;
                    }
                    Turn::Idle => {
                        core::hint::spin_loop();
                        now = clock.now();
                    }
                }
            }
            tail = paced(&histogram, spec).tail;
        }
        self.policy.reset();
        Ok(Measured { tail, latency_ns })
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
