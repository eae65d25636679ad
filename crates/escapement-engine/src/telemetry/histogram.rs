//! Latency histograms, which are filled off the hot thread, and the percentiles that every report shows.

/// The longest latency that is distinguished, in nanoseconds. Longer ones count as this long.
const HIGHEST_NS: u64 = 60_000_000_000;
/// The number of significant decimal digits kept.
const DIGITS: u8 = 3;

/// Latencies in nanoseconds.
#[derive(Debug, Clone)]
pub struct Histogram {
    inner: hdrhistogram::Histogram<u64>,
}

/// The figures that every report shows, in nanoseconds. The names are the same in all JSON. All are zero if
/// `count` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Percentiles {
    /// Samples.
    pub count: u64,
    /// Smallest.
    pub min: u64,
    /// Median.
    pub p50: u64,
    /// 90th percentile.
    pub p90: u64,
    /// 99th percentile.
    pub p99: u64,
    /// 99.9th percentile.
    pub p999: u64,
    /// Largest.
    pub max: u64,
}

impl Histogram {
    /// Creates an empty histogram.
    pub fn new() -> Self {
        let inner = hdrhistogram::Histogram::new_with_bounds(1, HIGHEST_NS, DIGITS)
            .expect("the format allows these bounds and this precision");
        Self { inner }
    }

    /// Adds one latency.
    pub fn record(&mut self, latency_ns: u64) {
        self.inner.saturating_record(latency_ns);
    }

    /// Adds every sample of another histogram.
    pub fn merge(&mut self, other: &Self) {
        self.inner += &other.inner;
    }

    /// Returns the share of samples, 0 to 1, that are at most `limit_ns`. Returns 1 if there are no samples.
    pub fn share_within(&self, limit_ns: u64) -> f64 {
        self.inner.percentile_below(limit_ns) / 100.0
    }

    /// Returns a latency such that the given share of samples, 0 to 1, is at most that long. It is never more
    /// than the largest sample, although a bucket's upper edge may be.
    pub fn quantile_ns(&self, share: f64) -> u64 {
        self.inner.value_at_quantile(share).min(self.inner.max())
    }

    /// Returns the figures of the reports.
    pub fn percentiles(&self) -> Percentiles {
        let at = |share| self.quantile_ns(share);
        Percentiles {
            count: self.inner.len(),
            min: if self.inner.is_empty() { 0 } else { self.inner.min() },
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: self.inner.max(),
        }
    }

    /// Returns the underlying histogram, for the interval-log writer.
    pub fn as_hdr(&self) -> &hdrhistogram::Histogram<u64> {
        &self.inner
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_known_sample() {
        let mut histogram = Histogram::new();
        for latency in 1..=1000 {
            histogram.record(latency);
        }
        let figures = histogram.percentiles();
        assert_eq!((figures.count, figures.min, figures.p50, figures.max), (1000, 1, 500, 1000));
        assert_eq!((figures.p90, figures.p99, figures.p999), (900, 990, 999));
        assert!((histogram.share_within(100) - 0.1).abs() < 1e-9);
    }

    #[test]
    fn an_empty_histogram_has_zeros() {
        assert_eq!(Histogram::new().percentiles(), Percentiles::default());
    }

    #[test]
    fn a_latency_beyond_the_range_counts_as_the_longest() {
        let mut histogram = Histogram::new();
        histogram.record(u64::MAX);
        assert_eq!(histogram.percentiles().count, 1);
    }
}
