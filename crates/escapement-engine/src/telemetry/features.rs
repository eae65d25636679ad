//! A counter for each feature of an observation, with one writer, the engine, and any number of readers.

use super::counters::Counter;

/// How often each feature was outside what the policy was trained on.
#[derive(Debug)]
pub struct FeatureCounts {
    observations: Counter,
    features: Box<[Counter]>,
}

impl FeatureCounts {
    /// All zero.
    pub fn new(dimension: usize) -> Self {
        let features = (0..dimension).map(|_| Counter::default()).collect();
        Self { observations: Counter::default(), features }
    }

    /// One observation has at least one such feature.
    #[inline]
    pub fn count_observation(&self) {
        self.observations.add(1);
    }

    /// This feature was outside.
    #[inline]
    pub fn count(&self, feature: usize) {
        self.features[feature].add(1);
    }

    /// Observations with at least one such feature.
    pub fn observations(&self) -> u64 {
        self.observations.get()
    }

    /// The features that were ever outside, with their counts, in their order.
    pub fn outside(&self) -> Vec<(usize, u64)> {
        let counts = self.features.iter().map(Counter::get).enumerate();
        counts.filter(|(_, count)| *count > 0).collect()
    }
}
