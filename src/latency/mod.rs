//! L3. Measures how long calls of a policy take on this core, with enforcement off. `escapement validate` and
//! `Agent::validate_slo_compliance` use it.
//!
//! Calls are measured in two ways, and the verdict is on the first:
//!
//! - *paced*: one call for each observation that arrives. In between the thread polls, as the engine does,
//!   and keeps warm by calls on the last observation, if it is told to. A core that only polls goes cold, so
//!   these calls are slower than calls back to back, and their tail is longer.
//! - *back to back*: the next call begins when the last one has returned.
//!
//! Both have *hiccups* beside them: busy loops of the length of a typical call, in turn with the calls. Their
//! excess over that length is what the machine adds (timer ticks, hypervisor, other processes). Calls and
//! hiccups are measured by the same clock on the same core in the same run, so a tail only in the calls is
//! the policy's own, or that of a cold core.
//!
//! All these are service times, from a call's begin to its return, as the deadline `inference_us` counts
//! them. A paced call that begins late, because the thread was not there, is not longer for it. The daemon
//! measures what a stream of observations sees.

mod back_to_back;
mod baseline;
mod caller;
mod keep_warm;
mod paced;
mod report;
mod series;
mod summary;
#[cfg(test)]
mod tests;

pub use baseline::{Baseline, BaselineError, Comparison};
pub use keep_warm::KeepWarmUse;
pub use paced::{ArrivalSource, Pacing};
pub use report::html as html_report;
pub use series::{MissCounts, Series};
pub use summary::{CallLatencies, KeepWarmSummary, PacedSummary, SeriesSummary, Summary};

use crate::evidence::Interval;
use crate::policy::{Fault, Policy, PolicyError};
use back_to_back::back_to_back;
use caller::Caller;
use escapement_engine::telemetry::Percentiles;
use escapement_policy::denormals::FlushDenormals;
use escapement_ring::clock::{Clock, ClockFault, Nanos};
use escapement_ring::ring::ProtocolViolation;
use paced::paced;

/// The objective that calls must meet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Objective {
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
    /// When observations arrived, in words.
    pub arrivals: String,
    /// Whether a feed's process sent them.
    pub is_fed: bool,
    /// The calls that were as far apart as the observations. The verdict is on them.
    pub paced: Series,
    /// What was done between them to stay warm.
    pub keep_warm: KeepWarmUse,
    /// The calls without a pause.
    pub back_to_back: Series,
}

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
    /// The feed broke the ring's protocol.
    #[error("the feed: {0}")]
    Feed(#[from] ProtocolViolation),
    /// The feed's process sends nothing.
    #[error("the feed: no observation for {} s", .0.0 / 1_000_000_000)]
    NoArrivals(Nanos),
    /// The clock went back, so that the times mean nothing.
    #[error("the clock: {0}")]
    Clock(#[from] ClockFault),
    /// The caller asked for an end.
    #[error("interrupted")]
    Interrupted,
}

impl LatencyReport {
    /// Returns the share of paced calls, 0 to 1, that met the deadline.
    pub fn within_deadline(&self) -> f64 {
        self.paced.within_deadline()
    }

    /// Whether the paced calls meet the objective.
    pub fn holds(&self) -> bool {
        self.within_deadline() >= self.objective.share
    }
}

/// Takes part in a measurement: finds causes of late calls, and may end it.
pub trait Observer {
    /// Is called before the first timed call and from time to time, with what the calls of the warm-up took
    /// and the late calls since the last time. Adds the causes that it knows to the counts.
    fn explain(&mut self, warm_up: &Percentiles, late: &[Interval], counts: &mut MissCounts) {
        let _ = (warm_up, late, counts);
    }

    /// Returns true if the measurement is to end at once. Is asked about ten times a second.
    fn is_over(&mut self, now: Nanos) -> bool {
        let _ = now;
        false
    }
}

/// Explains nothing.
impl Observer for () {}

/// Measures a policy on the calling thread, which the caller has pinned: `back_to_back` calls without a
/// pause, and then the paced ones. It uses `observations` in turn, repeatedly, unless a feed sends its own.
/// Each must have the policy's width.
///
/// # Errors
/// Fails if the thread cannot be prepared for the policy, if a call faults, if the feed fails, or if the
/// observer ends it.
///
/// # Panics
/// Panics if there is no observation.
pub fn measure_latency(
    policy: &mut dyn Policy,
    clock: &mut impl Clock,
    observations: &[Vec<f32>],
    objective: Objective,
    back_to_back_calls: u64,
    mut pacing: Pacing,
    observer: &mut impl Observer,
) -> Result<LatencyReport, LatencyError> {
    let _flush = FlushDenormals::enter();
    let mut caller = Caller::enter(policy, observations)?;
    let warm_up = caller.warm_up(clock, back_to_back_calls)?;
    let limit = objective.deadline;
    let back_to_back = back_to_back(&mut caller, clock, back_to_back_calls, limit, &warm_up, observer)?;
    let (paced, keep_warm) = paced(&mut caller, clock, &mut pacing, limit, &warm_up, observer)?;
    Ok(LatencyReport {
        backend: caller.backend(),
        objective,
        is_fed: pacing.is_fed(),
        arrivals: pacing.words,
        paced,
        keep_warm,
        back_to_back,
    })
}

/// Measures `calls` calls of a policy without a pause, on the calling thread, and returns their latencies.
///
/// # Errors
/// As [`measure_latency`].
///
/// # Panics
/// As [`measure_latency`].
pub fn measure_back_to_back(
    policy: &mut dyn Policy,
    clock: &mut impl Clock,
    observations: &[Vec<f32>],
    calls: u64,
) -> Result<Series, LatencyError> {
    let _flush = FlushDenormals::enter();
    let mut caller = Caller::enter(policy, observations)?;
    let warm_up = caller.warm_up(clock, calls)?;
    back_to_back(&mut caller, clock, calls, Nanos(u64::MAX), &warm_up, &mut ())
}
