//! The policy under measurement, with its observations.

use super::LatencyError;
use crate::evidence::Interval;
use crate::policy::Policy;
use escapement_engine::StateCopy;
use escapement_engine::telemetry::{Histogram, Percentiles};
use escapement_ring::clock::{Clock, Nanos};

/// Calls before the first timed one, at the least.
const WARM_UP_CALLS: u64 = 1_000;

/// Calls a policy, and times the calls.
pub(super) struct Caller<'a> {
    policy: &'a mut dyn Policy,
    observations: &'a [Vec<f32>],
    calls: u64,
    /// What the policy is called with. Like the engine, the caller copies each observation here first.
    pub(super) observation: Box<[f32]>,
    action: Box<[f32]>,
    /// The carried states, while the policy is called to stay warm.
    states: StateCopy,
}

impl<'a> Caller<'a> {
    /// Prepares the thread and the policy.
    pub(super) fn enter(
        policy: &'a mut dyn Policy,
        observations: &'a [Vec<f32>],
    ) -> Result<Self, LatencyError> {
        assert!(!observations.is_empty(), "there is nothing to call the policy with");
        policy.enter_thread()?;
        policy.reset();
        Ok(Self {
            observations,
            calls: 0,
            observation: vec![0.0; policy.dimensions().observation].into(),
            action: vec![0.0; policy.dimensions().action].into(),
            states: StateCopy::for_policies([&mut *policy]),
            policy,
        })
    }

    pub(super) fn backend(&self) -> &'static str {
        self.policy.backend()
    }

    pub(super) fn can_run_dry(&self) -> bool {
        self.policy.can_run_dry()
    }

    /// Calls the policy before `calls` timed calls, and returns what that took.
    pub(super) fn warm_up(&mut self, clock: &impl Clock, calls: u64) -> Result<Percentiles, LatencyError> {
        let mut taken = Histogram::new();
        for _ in 0..WARM_UP_CALLS.max(calls / 10) {
            self.take_next();
            taken.record(self.call(clock)?.length());
        }
        Ok(taken.percentiles())
    }

    /// Takes the next of the given observations.
    pub(super) fn take_next(&mut self) {
        let next = (self.calls % self.observations.len() as u64) as usize;
        self.observation.copy_from_slice(&self.observations[next]);
    }

    /// Calls the policy with the observation that was taken.
    #[inline]
    pub(super) fn call(&mut self, clock: &impl Clock) -> Result<Interval, LatencyError> {
        let called = clock.now();
        let answer = self.policy.infer(&self.observation, &mut self.action);
        let returned = clock.now();
        let call = self.calls;
        self.calls += 1;
        match answer {
            Ok(()) => Ok(Interval::new(called.0, returned.0)),
            Err(fault) => {
                Err(LatencyError::Fault { call, fault, detail: self.policy.last_fault().map(str::to_owned) })
            }
        }
    }

    /// Calls the policy again with the last observation, and puts its carried states back. Returns when it
    /// began and ended.
    #[inline]
    pub(super) fn call_to_stay_warm(&mut self, clock: &impl Clock) -> (Nanos, Nanos) {
        let begun = clock.now();
        self.states.save([&mut *self.policy]);
        // The same call has succeeded before. If it fails now, the next timed one will tell.
        let _ = self.policy.infer(&self.observation, &mut self.action);
        self.states.restore([&mut *self.policy]);
        (begun, clock.now())
    }
}
