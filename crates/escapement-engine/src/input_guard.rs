//! The input guard: features unlike anything the policy was trained on.
//!
//! A network answers every input, also one that its training never came near, and nothing in the answer shows it. What
//! is known of the training is its statistics, and the bounds of the observation space; the bundle's manifest has both.

use super::settings::Bounds;
use crate::telemetry::FeatureCounts;
use escapement_policy::words;
use std::sync::Arc;

/// What a feature outside its limits leads to. It is counted in every mode but the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardMode {
    /// Nothing: features are not looked at.
    Off,
    /// Nothing more.
    Count,
    /// It is moved to the nearest limit before the policy sees it.
    Clamp,
    /// The observation gets the safe default.
    SafeDefault,
}

words!(GuardMode { Off = "off", Count = "count", Clamp = "clamp", SafeDefault = "safe_default" });

/// What the configuration says about the guard.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GuardSpec {
    /// What a feature outside leads to.
    pub mode: GuardMode,
    /// How many standard deviations around the mean are within.
    pub deviations: f64,
}

/// What is known of one feature.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FeatureRange {
    /// The space's lower bound; may be infinite.
    pub low: f64,
    /// The space's upper bound; may be infinite.
    pub high: f64,
    /// Mean and standard deviation in training, where they are known.
    pub statistics: Option<(f64, f64)>,
}

/// Holds each observation to the limits of its features.
#[derive(Debug, Clone)]
pub struct InputGuard {
    limits: Bounds,
    mode: GuardMode,
    counts: Arc<FeatureCounts>,
}

/// What the guard found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardFinding {
    /// Every feature is within, or the mode lets the observation pass.
    Pass,
    /// The policy must not see this observation.
    Refuse,
}

impl InputGuard {
    /// A guard for these features; `None` in the mode that looks at nothing.
    pub fn new(spec: GuardSpec, features: &[FeatureRange]) -> Option<Self> {
        if spec.mode == GuardMode::Off {
            return None;
        }
        let (low, high) = features.iter().map(|feature| feature.limits(spec.deviations)).unzip();
        // Bounds that cross or are no numbers come from no manifest; such a feature has been given none above.
        let limits = Bounds::new(low, high)?;
        Some(Self { limits, mode: spec.mode, counts: Arc::new(FeatureCounts::new(features.len())) })
    }

    /// Counts on where a predecessor for the same features left off.
    pub fn count_into(&mut self, counts: Arc<FeatureCounts>) {
        self.counts = counts;
    }

    /// What it counts, for readers on other threads.
    pub fn counts(&self) -> Arc<FeatureCounts> {
        Arc::clone(&self.counts)
    }

    /// Looks at one observation, whose elements are finite. Branches only where one of them is outside.
    #[inline]
    pub fn apply(&self, observation: &mut [f32]) -> GuardFinding {
        if self.limits.contain(observation) {
            return GuardFinding::Pass;
        }
        self.apply_outside(observation)
    }

    #[cold]
    fn apply_outside(&self, observation: &mut [f32]) -> GuardFinding {
        self.counts.count_observation();
        for (index, value) in observation.iter_mut().enumerate() {
            let (low, high) = self.limits.of(index);
            if !(low..=high).contains(value) {
                self.counts.count(index);
                if self.mode == GuardMode::Clamp {
                    *value = value.clamp(low, high);
                }
            }
        }
        if self.mode == GuardMode::SafeDefault { GuardFinding::Refuse } else { GuardFinding::Pass }
    }
}

impl FeatureRange {
    /// The bounds of the space, narrowed to `deviations` around the mean. Statistics of a feature that never moved say
    /// nothing about how far it may; nor do those that contradict the space.
    fn limits(&self, deviations: f64) -> (f32, f32) {
        let (low, high) = match self.statistics {
            Some((mean, std)) if std > 0.0 => {
                (self.low.max(mean - deviations * std), self.high.min(mean + deviations * std))
            }
            _ => (self.low, self.high),
        };
        let (low, high) = if low <= high { (low, high) } else { (self.low, self.high) };
        (low as f32, high as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEATURES: [FeatureRange; 4] = [
        FeatureRange { low: -1.0, high: 1.0, statistics: Some((0.0, 10.0)) },
        FeatureRange { low: f64::NEG_INFINITY, high: f64::INFINITY, statistics: Some((100.0, 2.0)) },
        FeatureRange { low: 0.0, high: 8.0, statistics: Some((3.0, 0.0)) },
        FeatureRange { low: 0.0, high: 1.0, statistics: Some((50.0, 1.0)) },
    ];

    fn guard(mode: GuardMode) -> InputGuard {
        InputGuard::new(GuardSpec { mode, deviations: 3.0 }, &FEATURES).expect("the limits are paired")
    }

    #[test]
    fn limits_are_inclusive_and_counted_by_feature() {
        let guard = guard(GuardMode::Count);
        let mut at_the_limits = [1.0, 106.0, 8.0, 1.0];
        assert_eq!(guard.apply(&mut at_the_limits), GuardFinding::Pass);
        assert_eq!(guard.counts().outside(), []);
        for (index, below, above) in [(0, -1.001, 1.001), (1, 93.99, 106.01), (2, -0.1, 8.1), (3, -0.1, 50.0)]
        {
            for value in [below, above] {
                let mut observation = [0.0, 100.0, 3.0, 0.5];
                observation[index] = value;
                let before = observation;
                assert_eq!(guard.apply(&mut observation), GuardFinding::Pass);
                assert_eq!(observation, before, "counting changes nothing");
            }
        }
        assert_eq!(guard.counts().outside(), [(0, 2), (1, 2), (2, 2), (3, 2)]);
        assert_eq!(guard.counts().observations(), 8);
    }

    #[test]
    fn clamps_to_the_nearest_limit_and_refuses() {
        let mut observation = [7.0, 0.0, 4.0, 0.5];
        assert_eq!(guard(GuardMode::SafeDefault).apply(&mut observation), GuardFinding::Refuse);
        assert_eq!(observation, [7.0, 0.0, 4.0, 0.5]);
        assert_eq!(guard(GuardMode::Clamp).apply(&mut observation), GuardFinding::Pass);
        assert_eq!(observation, [1.0, 94.0, 4.0, 0.5]);
        assert!(InputGuard::new(GuardSpec { mode: GuardMode::Off, deviations: 3.0 }, &FEATURES).is_none());
    }
}
