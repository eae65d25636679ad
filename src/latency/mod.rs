//! L3. Measures how long calls of a policy take on this core, with enforcement off. `escapement validate` and
//! `Agent::validate_slo_compliance` use it.
//!
//! Calls of the policy alternate with *hiccups*: busy loops of the length of a typical call. Their excess
//! over that length is what the machine adds (timer ticks, hypervisor, other processes). Both are measured by
//! the same clock on the same core in the same run, so a tail only in the calls is the policy's own.
//!
//! These are service times of a closed loop: the next call begins when the last one has returned, so nothing
//! waits and there is nothing to correct for coordinated omission. The daemon measures what a stream of
//! observations sees.

mod baseline;
mod report;

pub use baseline::{Baseline, Comparison};
pub use report::html as html_report;

use crate::evidence::{Cause, Interval};
use crate::policy::{Fault, Policy, PolicyError};
use escapement_engine::telemetry::{Histogram, Percentiles};
use escapement_policy::denormals::FlushDenormals;
use escapement_ring::clock::{Clock, Nanos};
use std::collections::BTreeMap;

/// What to measure, and the objective to meet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Objective {
    /// Timed calls.
    pub trials: u64,
    /// The deadline of one call.
    pub deadline: Nanos,
    /// The share of calls (0 to 1) that must meet it.
    pub share: f64,
}

/// The result of a measurement.
#[derive(Debug, Clone)]
pub struct LatencyReport {
    /// The backend that was called.
    pub backend: &'static str,
    /// The objective.
    pub objective: Objective,
    /// Latencies of the calls.
    pub inference: Histogram,
    /// Calls that met the deadline, counted exactly: the histogram keeps three digits only.
    pub met: u64,
    /// What the machine added to busy loops of a typical call's length.
    pub hiccup: Histogram,
    /// The median of each slice of the run, in order. They show how steady the run was.
    pub slice_medians_ns: Vec<u64>,
    /// Calls that missed the deadline, by cause; empty if they were not explained.
    pub misses: MissCounts,
}

/// How many calls missed for each cause.
pub type MissCounts = BTreeMap<Cause, u64>;

/// Why a policy cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum LatencyError {
    /// The thread cannot be prepared for it.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A call faulted, so that its time means nothing.
    #[error("call {call}: {fault}{}", detail.as_deref().map_or_else(String::new, |text| format!(": {text}")))]
    Fault {
        /// The index of the call, from 0.
        call: u64,
        /// The fault.
        fault: Fault,
        /// The policy's own text.
        detail: Option<String>,
    },
}

/// Calls before the first timed one, at the least.
const WARM_UP_CALLS: u64 = 1_000;
/// Slices whose medians show how steady the run was.
const SLICES: u64 = 20;
/// Calls, and then hiccups, in one block.
const BLOCK: u64 = 64;

impl LatencyReport {
    /// Returns the share of calls, 0 to 1, that met the deadline.
    pub fn within_deadline(&self) -> f64 {
        self.met as f64 / self.inference.percentiles().count.max(1) as f64
    }

    /// Whether the objective is met.
    pub fn holds(&self) -> bool {
        self.within_deadline() >= self.objective.share
    }

    /// Returns the figures that every report shows.
    pub fn summary(&self) -> Summary {
        Summary {
            backend: self.backend.to_owned(),
            trials: self.objective.trials,
            inference_ns: CallLatencies {
                of_all: self.inference.percentiles(),
                slice_p50: self.slice_medians_ns.clone(),
            },
            hiccup_ns: self.hiccup.percentiles(),
            within_deadline: self.within_deadline(),
            verdict: if self.holds() { "pass" } else { "fail" }.to_owned(),
            misses_by_cause: self
                .misses
                .iter()
                .map(|(cause, count)| (cause.name().to_owned(), *count))
                .collect(),
        }
    }
}

/// The JSON form of a [`LatencyReport`], and the file that a later run is compared with.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Summary {
    /// The backend that was called.
    pub backend: String,
    /// Timed calls.
    pub trials: u64,
    /// Latencies of the calls.
    pub inference_ns: CallLatencies,
    /// What the machine added to busy loops of a typical call's length.
    pub hiccup_ns: Percentiles,
    /// The share of calls, 0 to 1, that met the deadline.
    pub within_deadline: f64,
    /// `pass` or `fail`.
    pub verdict: String,
    /// Calls that missed the deadline, by the name of the cause; left out if there are none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub misses_by_cause: BTreeMap<String, u64>,
}

/// Latencies of the calls, and how steady they were.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct CallLatencies {
    /// Over the whole run.
    #[serde(flatten)]
    pub of_all: Percentiles,
    /// The median of each slice of the run, in its order.
    pub slice_p50: Vec<u64>,
}

/// Measures a policy on the calling thread, which the caller has pinned. It uses `observations` in turn,
/// repeatedly. Each must have the policy's width.
///
/// # Errors
/// Fails if the thread cannot be prepared for the policy, or if a call faults.
///
/// # Panics
/// Panics if there is no observation.
pub fn measure_latency(
    policy: &mut dyn Policy,
    clock: &mut impl Clock,
    observations: &[Vec<f32>],
    objective: Objective,
) -> Result<LatencyReport, LatencyError> {
    measure_explained(policy, clock, observations, objective, |_, _| ())
}

/// Like [`measure_latency`], and calls `explain` before the first timed call and after every block, with the
/// calls of the block that missed the deadline. `explain` adds the causes that it knows to the counts.
///
/// # Errors
/// As [`measure_latency`].
///
/// # Panics
/// As [`measure_latency`].
pub fn measure_explained(
    policy: &mut dyn Policy,
    clock: &mut impl Clock,
    observations: &[Vec<f32>],
    objective: Objective,
    mut explain: impl FnMut(&[Interval], &mut MissCounts),
) -> Result<LatencyReport, LatencyError> {
    assert!(!observations.is_empty(), "there is nothing to call the policy with");
    let _flush = FlushDenormals::enter();
    policy.enter_thread()?;
    policy.reset();
    let mut action = vec![0.0; policy.dimensions().action];
    let mut calls = 0;
    let mut call = |policy: &mut dyn Policy, clock: &dyn Clock| {
        let observation = &observations[(calls % observations.len() as u64) as usize];
        let called = clock.now();
        let answer = policy.infer(observation, &mut action);
        let returned = clock.now();
        let this = calls;
        calls += 1;
        answer.map(|()| Interval::new(called.0, returned.0)).map_err(|fault| LatencyError::Fault {
            call: this,
            fault,
            detail: policy.last_fault().map(str::to_owned),
        })
    };

    let mut warm_up = Histogram::new();
    for _ in 0..WARM_UP_CALLS.max(objective.trials / 10) {
        warm_up.record(call(policy, clock)?.length());
    }
    let typical = warm_up.quantile_ns(0.5);

    let mut inference = Histogram::new();
    let mut hiccup = Histogram::new();
    let mut slice_medians_ns = Vec::new();
    let mut met = 0;
    let mut misses = MissCounts::new();
    let mut late = Vec::with_capacity(BLOCK as usize);
    explain(&late, &mut misses);
    for slice in 0..SLICES.min(objective.trials) {
        let mut of_slice = Histogram::new();
        let mut left = share_of(objective.trials, slice, SLICES.min(objective.trials));
        while left > 0 {
            let block = left.min(BLOCK);
            for _ in 0..block {
                let call = call(policy, clock)?;
                of_slice.record(call.length());
                if call.length() <= objective.deadline.0 {
                    met += 1;
                } else {
                    late.push(call);
                }
            }
            explain(&late, &mut misses);
            late.clear();
            for _ in 0..block {
                hiccup.record(excess_of_busy_loop(clock, Nanos(typical)));
            }
            left -= block;
        }
        slice_medians_ns.push(of_slice.quantile_ns(0.5));
        inference.merge(&of_slice);
        _ = clock.discipline();
    }
    Ok(LatencyReport {
        backend: policy.backend(),
        objective,
        inference,
        met,
        hiccup,
        slice_medians_ns,
        misses,
    })
}

/// Returns the share of `total` for the slice `index` of `slices`. Shares differ by at most one, and sum to
/// `total`.
fn share_of(total: u64, index: u64, slices: u64) -> u64 {
    total * (index + 1) / slices - total * index / slices
}

/// Spins for `length`, and returns how much longer that took, in nanoseconds.
fn excess_of_busy_loop(clock: &impl Clock, length: Nanos) -> u64 {
    let begun = clock.now();
    let due = begun.plus(length);
    loop {
        let now = clock.now();
        if now >= due {
            return now.since(due).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Dimensions, Null};
    use escapement_ring::clock::{ManualClock, MonotonicClock};

    /// Every call takes the given time; every hundredth is late.
    struct Scripted {
        clock: ManualClock,
        calls: u64,
    }

    impl Policy for Scripted {
        fn dimensions(&self) -> Dimensions {
            Dimensions { observation: 1, action: 1 }
        }

        fn backend(&self) -> &'static str {
            "scripted"
        }

        fn infer(&mut self, _observation: &[f32], _action: &mut [f32]) -> Result<(), Fault> {
            self.calls += 1;
            self.clock.advance(if self.calls.is_multiple_of(100) { Nanos(5_000) } else { Nanos(1_000) });
            Ok(())
        }
    }

    /// A clock that also moves by itself, so that a busy loop ends.
    struct Ticking(ManualClock);

    impl Clock for Ticking {
        fn now(&self) -> Nanos {
            self.0.advance(Nanos(1));
            self.0.now()
        }
    }

    #[test]
    fn every_trial_is_counted_and_judged() {
        let clock = ManualClock::new(Nanos(0));
        let mut policy = Scripted { clock: clock.clone(), calls: 0 };
        let mut measure = |share| {
            let objective = Objective { trials: 10_000, deadline: Nanos(2_000), share };
            measure_latency(&mut policy, &mut Ticking(clock.clone()), &[vec![0.0]], objective).unwrap()
        };
        let met = measure(0.99);
        assert_eq!(met.inference.percentiles().count, 10_000);
        assert_eq!(met.hiccup.percentiles().count, 10_000);
        assert!((met.within_deadline() - 0.99).abs() < 1e-9, "{}", met.within_deadline());
        assert!(met.holds());
        assert_eq!(met.slice_medians_ns.len(), 20);
        assert!(!measure(0.991).holds());
    }

    #[test]
    fn fewer_trials_than_slices() {
        let objective = Objective { trials: 3, deadline: Nanos(1), share: 0.0 };
        let mut policy = Null::new(Dimensions { observation: 1, action: 1 });
        let found = measure_latency(&mut policy, &mut MonotonicClock, &[vec![0.0]], objective).unwrap();
        assert_eq!(found.inference.percentiles().count, 3);
    }

    #[test]
    fn slices_add_up() {
        for total in [1, 19, 20, 21, 12_345] {
            assert_eq!((0..20).map(|index| share_of(total, index, 20)).sum::<u64>(), total);
        }
    }
}
