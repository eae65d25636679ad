//! The input check: finds features unlike anything that the policy was trained on.
//!
//! A network answers every input, also one far from its training, and nothing in the answer shows it. The
//! check knows the statistics of the training and the bounds of the observation space, both from the bundle's
//! manifest.

use super::checks::Bounds;
use crate::telemetry::FeatureCounts;
use escapement_policy::words;
use std::sync::Arc;

/// What a feature outside its limits leads to. Every mode but the first counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputCheckMode {
    /// Nothing. Features are not checked.
    Off,
    /// Nothing else.
    Count,
    /// The feature is moved to the nearest limit before the policy sees it.
    Clamp,
    /// The observation gets the safe default.
    SafeDefault,
}

words!(InputCheckMode { Off = "off", Count = "count", Clamp = "clamp", SafeDefault = "safe_default" });

/// What the configuration says about the guard.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InputCheckSpec {
    /// What a feature outside its limits leads to.
    pub mode: InputCheckMode,
    /// The number of standard deviations around the mean that are within the limits.
    pub deviations: f64,
}

/// What is known about one feature.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FeatureRange {
    /// The space's lower bound, which may be infinite.
    pub low: f64,
    /// The space's upper bound, which may be infinite.
    pub high: f64,
    /// Mean and standard deviation in training, if they are known.
    pub statistics: Option<(f64, f64)>,
}

/// Checks each observation against the limits of its features.
#[derive(Debug, Clone)]
pub struct InputCheck {
    /// Shared with the check of the dry runs, so that these keep them in the cache.
    limits: Arc<Bounds>,
    mode: InputCheckMode,
    counts: Arc<FeatureCounts>,
}

/// The result of the check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputCheckResult {
    /// Every feature is within its limits, or the mode lets the observation pass.
    Pass,
    /// The policy must not see this observation.
    Refuse,
}

impl InputCheck {
    /// Creates a check for these features. Returns `None` in the mode [`InputCheckMode::Off`].
    pub fn new(spec: InputCheckSpec, features: &[FeatureRange]) -> Option<Self> {
        if spec.mode == InputCheckMode::Off {
            return None;
        }
        let (low, high) = features.iter().map(|feature| feature.limits(spec.deviations)).unzip();
        // A manifest has no bounds that cross or are not numbers, and `limits` above returns none.
        let limits = Arc::new(Bounds::new(low, high)?);
        Some(Self { limits, mode: spec.mode, counts: Arc::new(FeatureCounts::new(features.len())) })
    }

    /// Continues the counts of a previous check of the same features.
    pub fn share_counts(&mut self, counts: Arc<FeatureCounts>) {
        self.counts = counts;
    }

    /// Returns the counts, for readers on other threads.
    pub fn counts(&self) -> Arc<FeatureCounts> {
        Arc::clone(&self.counts)
    }

    /// Checks one observation, whose elements must be finite. Branches only if one of them is outside its
    /// limits.
    #[inline]
    pub fn apply(&self, observation: &mut [f32]) -> InputCheckResult {
        if self.limits.contain(observation) {
            return InputCheckResult::Pass;
        }
        self.apply_outside(observation)
    }

    #[cold]
    fn apply_outside(&self, observation: &mut [f32]) -> InputCheckResult {
        self.counts.count_observation();
        for (index, value) in observation.iter_mut().enumerate() {
            let (low, high) = self.limits.of(index);
            if !(low..=high).contains(value) {
                self.counts.count(index);
                if self.mode == InputCheckMode::Clamp {
                    *value = value.clamp(low, high);
                }
            }
        }
        if self.mode == InputCheckMode::SafeDefault {
            InputCheckResult::Refuse
        } else {
            InputCheckResult::Pass
        }
    }
}

impl FeatureRange {
    /// Returns the bounds of the space, narrowed to `deviations` around the mean. Ignores the statistics of a
    /// feature that never moved, and statistics that contradict the space.
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

    fn check(mode: InputCheckMode) -> InputCheck {
        InputCheck::new(InputCheckSpec { mode, deviations: 3.0 }, &FEATURES)
            .expect("every lower limit is below its upper one")
    }

    #[test]
    fn limits_are_inclusive_and_counted_by_feature() {
        let check = check(InputCheckMode::Count);
        let mut at_the_limits = [1.0, 106.0, 8.0, 1.0];
        assert_eq!(check.apply(&mut at_the_limits), InputCheckResult::Pass);
        assert_eq!(check.counts().outside(), []);
        for (index, below, above) in [(0, -1.001, 1.001), (1, 93.99, 106.01), (2, -0.1, 8.1), (3, -0.1, 50.0)]
        {
            for value in [below, above] {
                let mut observation = [0.0, 100.0, 3.0, 0.5];
                observation[index] = value;
                let before = observation;
                assert_eq!(check.apply(&mut observation), InputCheckResult::Pass);
                assert_eq!(observation, before, "counting changes nothing");
            }
        }
        assert_eq!(check.counts().outside(), [(0, 2), (1, 2), (2, 2), (3, 2)]);
        assert_eq!(check.counts().observations(), 8);
    }

    #[test]
    fn clamps_to_the_nearest_limit_and_refuses() {
        let mut observation = [7.0, 0.0, 4.0, 0.5];
        assert_eq!(check(InputCheckMode::SafeDefault).apply(&mut observation), InputCheckResult::Refuse);
        assert_eq!(observation, [7.0, 0.0, 4.0, 0.5]);
        assert_eq!(check(InputCheckMode::Clamp).apply(&mut observation), InputCheckResult::Pass);
        assert_eq!(observation, [1.0, 94.0, 4.0, 0.5]);
        assert!(
            InputCheck::new(InputCheckSpec { mode: InputCheckMode::Off, deviations: 3.0 }, &FEATURES)
                .is_none()
        );
    }
}
