//! A counter for each feature of an observation. The engine is the only writer; there may be any number of
//! readers.

use super::counters::Counter;

/// How often each feature was outside its limits.
#[derive(Debug)]
pub struct FeatureCounts {
    observations: Counter,
    features: Box<[Counter]>,
}

impl FeatureCounts {
    /// Creates counters that are all zero.
    pub fn new(dimension: usize) -> Self {
        let features = (0..dimension).map(|_| Counter::default()).collect();
        Self { observations: Counter::default(), features }
    }

    /// Counts an observation with at least one such feature.
    #[inline]
    pub fn count_observation(&self) {
        self.observations.add(1);
    }

    /// Counts this feature.
    #[inline]
    pub fn count(&self, feature: usize) {
        self.features[feature].add(1);
    }

    /// Returns the number of observations with at least one such feature.
    pub fn observations(&self) -> u64 {
        self.observations.get()
    }

    /// Returns the features that were ever outside their limits, with their counts, in order.
    pub fn outside(&self) -> Vec<(usize, u64)> {
        let counts = self.features.iter().map(Counter::get).enumerate();
        counts.filter(|(_, count)| *count > 0).collect()
    }
}
