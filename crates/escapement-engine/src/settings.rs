//! What a tick goes by: checked, built once, read only.

use super::budget::BudgetSpec;
use super::deadline::Deadlines;
use escapement_policy::{Dimensions, words};

/// What an enforced miss leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnMiss {
    /// Fail fast: halt once the budget of misses is exceeded (by default with the first).
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
    /// The newest; older ones are skipped and counted.
    Latest,
}

words!(Backlog { Every = "every", Latest = "latest" });

/// What happens when the action ring has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFull {
    /// Halt.
    Halt,
    /// Let the observation pass without an action, and count it as skipped.
    Drop,
}

words!(OnFull { Halt = "halt", Drop = "drop" });

/// What a break in the feed's sequence numbers leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnGap {
    /// The observation gets the safe default.
    SafeDefault,
    /// The observation is answered as usual; the break is flagged and counted.
    Count,
}

words!(OnGap { SafeDefault = "safe_default", Count = "count" });

/// Inclusive limits, one pair per element.
#[derive(Debug, Clone, PartialEq)]
pub struct Bounds {
    low: Box<[f32]>,
    high: Box<[f32]>,
}

impl Bounds {
    /// Limits from two vectors of one length, `low[i] <= high[i]`; `None` where they are not that.
    pub fn new(low: Vec<f32>, high: Vec<f32>) -> Option<Self> {
        let paired = low.len() == high.len() && low.iter().zip(&high).all(|(low, high)| low <= high);
        paired.then(|| Self { low: low.into(), high: high.into() })
    }

    /// No limits, for `dimension` elements.
    pub fn unlimited(dimension: usize) -> Self {
        Self { low: vec![f32::NEG_INFINITY; dimension].into(), high: vec![f32::INFINITY; dimension].into() }
    }

    /// Number of elements.
    pub fn dimension(&self) -> usize {
        self.low.len()
    }

    /// Whether every element lies within its limits. No branch on data: the time taken says nothing about the values.
    #[inline]
    pub fn contain(&self, values: &[f32]) -> bool {
        values
            .iter()
            .zip(self.low.iter().zip(self.high.iter()))
            .fold(true, |within, (value, (low, high))| within & (low <= value) & (value <= high))
    }

    /// The element's limits.
    pub fn of(&self, index: usize) -> (f32, f32) {
        (self.low[index], self.high[index])
    }
}

/// Whether every element is a finite number. No branch on data.
#[inline]
pub fn all_finite(values: &[f32]) -> bool {
    values.iter().fold(true, |finite, value| finite & value.is_finite())
}

/// Everything that decides what a tick does.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Whether deadlines and the maximum age are enforced. They are measured, flagged and counted in any case.
    pub enforce: bool,
    /// The two layers, and the age of an observation.
    pub deadlines: Deadlines,
    /// What an enforced miss leads to.
    pub on_miss: OnMiss,
    /// How many misses are forgiven before [`OnMiss::Halt`] halts.
    pub miss_budget: BudgetSpec,
    /// How many errors of the policy (an exception, a bad action) are forgiven before the agent halts.
    pub error_budget: BudgetSpec,
    /// Which of several waiting observations are answered.
    pub backlog: Backlog,
    /// What happens when the action ring has no room.
    pub on_full: OnFull,
    /// What a break in the feed's sequence numbers leads to.
    pub on_gap: OnGap,
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
    /// Panics where a vector has not the policy's width: that is for whoever builds settings to check, and an engine
    /// must not be built on others.
    pub(super) fn assert_widths(&self, dimensions: Dimensions) {
        assert_eq!(self.observation_bounds.dimension(), dimensions.observation);
        assert_eq!(self.action_bounds.dimension(), dimensions.action);
        assert_eq!(self.safe_default.len(), dimensions.action);
        assert_eq!(self.neutral.len(), dimensions.action);
    }
}
