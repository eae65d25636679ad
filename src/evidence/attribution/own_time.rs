//! Whose fault a late tick's own time is: the policy's, or that of a core that stood still or ran cold.
//!
//! Interrupts, exits to a hypervisor and cold memory leave no record. They show only in what a call usually
//! takes, measured when the policy was warmed up. A policy of fixed work does the same at each call, so it
//! cannot take long by itself. Another policy may, for some observations.

use super::cause::Cause;
use super::timeline::Counted;
use escapement_engine::telemetry::Percentiles;

/// What a call of the policy takes, as measured before it answered observations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyTimes {
    /// The median.
    pub p50_ns: u64,
    /// The 99.9th percentile.
    pub p999_ns: u64,
    /// What is the same at each call.
    pub work: FixedWork,
}

/// Which work of a tick is the same for every observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FixedWork {
    /// The policy's: no branch on data, no allocation, no system call.
    pub in_call: bool,
    /// Everything around the policy's call. The engine's own is; a fallback's may not be.
    pub around_call: bool,
}

/// What a tick usually takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsualTimes {
    /// The policy's call.
    pub policy: PolicyTimes,
    /// Everything around it.
    pub around_ns: u64,
}

/// The part of a tick's own time in each place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OwnTime {
    /// Whether the policy was called.
    pub(super) is_called: bool,
    /// On the core, in the call.
    pub(super) in_call: u64,
    /// On the core, around the call.
    pub(super) around_call: u64,
    /// Asleep by its own choice, in the call.
    pub(super) asleep_in_call: u64,
    /// The same, around the call.
    pub(super) asleep_around_call: u64,
}

/// A call of fixed work that takes more than this many medians was slowed down by something else.
const FIXED_SPREAD: u64 = 2;
/// A call of another policy that takes more than this many times its 99.9th percentile is not explained by
/// what was measured. The factor covers observations that were not among the measured ones, and a core that
/// is colder than back to back.
const VARYING_SPREAD: u64 = 2;
/// No processor retires more instructions in a nanosecond: eight in a cycle, at 6 GHz.
const MOST_INSTRUCTIONS_PER_NS: u64 = 48;
/// No processor that runs has longer cycles: 500 MHz.
const LONGEST_CYCLE_NS: u64 = 2;

impl PolicyTimes {
    /// The times with these latencies of the measured calls.
    pub fn new(latency_ns: &Percentiles, work: FixedWork) -> Self {
        Self { p50_ns: latency_ns.p50, p999_ns: latency_ns.p999, work }
    }

    /// The longest call that the measurement explains.
    ///
    /// The measured tail of fixed work holds the machine's stalls as well, so the median bounds it.
    pub(super) fn explained_ns(&self) -> u64 {
        if self.work.in_call {
            self.p999_ns.min(self.p50_ns.saturating_mul(FIXED_SPREAD))
        } else {
            self.p999_ns.saturating_mul(VARYING_SPREAD)
        }
    }
}

impl UsualTimes {
    /// The cause of a tick whose own time is above its limit. `counted` is what the processor's counters say
    /// about the call.
    pub(super) fn cause_of(&self, own: OwnTime, limit: u64, counted: &Counted) -> Cause {
        let Self { policy, around_ns } = self;
        let usual_call = if own.is_called { policy.p50_ns } else { 0 };
        if usual_call > limit {
            return Cause::PolicySlow;
        }
        if usual_call.saturating_add(*around_ns) > limit {
            // The deadline leaves no room for both. The larger one is to be looked at.
            return if usual_call > *around_ns { Cause::PolicySlow } else { Cause::Undetermined };
        }
        let (call, around) = (own.in_call + own.asleep_in_call, own.around_call + own.asleep_around_call);
        let beyond_usual_around = around.saturating_sub(*around_ns);
        let beyond_usual_call = call.saturating_sub(usual_call);
        let call_would_fit = call + around_ns <= limit;
        if beyond_usual_around > beyond_usual_call || call_would_fit {
            return if policy.work.around_call { Cause::CoreStalled } else { Cause::Undetermined };
        }
        let sleep_decides = own.asleep_in_call > limit || own.in_call + around <= limit;
        if sleep_decides || own.in_call <= policy.explained_ns() {
            Cause::PolicySlow
        } else if policy.work.in_call {
            Cause::CoreStalled
        } else {
            counted.cause(own.in_call, policy.explained_ns())
        }
    }
}

impl Counted {
    /// The cause of a call that was on its core for `on_core`, where its measurement explains `explained`.
    fn cause(&self, on_core: u64, explained: u64) -> Cause {
        let ran_at_most = self.cycles.saturating_mul(LONGEST_CYCLE_NS);
        if self.instructions > explained.saturating_mul(MOST_INSTRUCTIONS_PER_NS) {
            // More instructions than any call within the explained time can have.
            Cause::PolicySlow
        } else if self.on_core_ns.saturating_sub(ran_at_most) > on_core / 2 {
            // The core executed nothing of it for most of the time.
            Cause::CoreStalled
        } else {
            Cause::Undetermined
        }
    }
}
