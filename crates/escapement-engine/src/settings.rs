//! The settings of a tick: checked, built once, only read afterwards.

use super::budget::BudgetSpec;
use super::checks::Bounds;
use super::deadline::Deadlines;
use super::keep_warm::KeepWarm;
use escapement_policy::{Dimensions, words};
use escapement_ring::clock::Nanos;

/// What an enforced miss leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnMiss {
    /// Fail fast: halt once the budget of misses is exceeded, which by default the first miss does.
    Halt,
    /// Commit the safe default and go on.
    SafeDefault,
}

words!(OnMiss { Halt = "halt", SafeDefault = "safe_default" });

/// Which of several waiting observations are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backlog {
    /// Each of them, oldest first.
    Every,
    /// The newest one. Older ones are skipped and counted.
    Latest,
}

words!(Backlog { Every = "every", Latest = "latest" });

/// What happens if the action ring has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFull {
    /// Halt.
    Halt,
    /// Drop the observation without an action, and count it as skipped.
    Drop,
}

words!(OnFull { Halt = "halt", Drop = "drop" });

/// What a break in the feed's sequence numbers leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnGap {
    /// The observation gets the safe default.
    SafeDefault,
    /// The observation is answered as usual. The break is flagged and counted.
    Count,
}

words!(OnGap { SafeDefault = "safe_default", Count = "count" });

/// Everything that decides what a tick does.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Whether deadlines and the maximum age are enforced. They are always measured, flagged and counted.
    pub enforce: bool,
    /// The two deadlines, and the maximum age of an observation.
    pub deadlines: Deadlines,
    /// How far an observation's stamp may lie ahead of the clock. Beyond it the observation is refused,
    /// enforced or not: its age is unknown.
    pub max_skew: Nanos,
    /// What an enforced miss leads to.
    pub on_miss: OnMiss,
    /// How many misses are forgiven before [`OnMiss::Halt`] halts.
    pub miss_budget: BudgetSpec,
    /// How many errors of the policy (an exception, a bad action) are forgiven before the agent halts.
    pub error_budget: BudgetSpec,
    /// Which of several waiting observations are answered.
    pub backlog: Backlog,
    /// What happens if the action ring has no room.
    pub on_full: OnFull,
    /// What a break in the feed's sequence numbers leads to.
    pub on_gap: OnGap,
    /// How long the engine is idle before it runs dry to stay warm.
    pub keep_warm: KeepWarm,
    /// Limits of each feature.
    pub observation_bounds: Bounds,
    /// Limits of each element of an action.
    pub action_bounds: Bounds,
    /// What is sent instead of the policy's action.
    pub safe_default: Box<[f32]>,
    /// What the halt record carries.
    pub neutral: Box<[f32]>,
}

impl Settings {
    /// Returns true if an inference that takes this long would halt the agent at once. A policy whose
    /// measured tail is that long must not be armed.
    pub fn would_halt_at(&self, latency: Nanos) -> bool {
        self.enforce && self.on_miss == OnMiss::Halt && latency > self.deadlines.inference
    }

    /// Panics if a vector does not have the policy's width. The builder of the settings must have checked the
    /// widths; an engine must not run on wrong ones.
    pub(super) fn assert_widths(&self, dimensions: Dimensions) {
        assert_eq!(self.observation_bounds.dimension(), dimensions.observation);
        assert_eq!(self.action_bounds.dimension(), dimensions.action);
        assert_eq!(self.safe_default.len(), dimensions.action);
        assert_eq!(self.neutral.len(), dimensions.action);
    }
}
