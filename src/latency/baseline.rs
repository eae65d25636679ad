//! Comparison with an earlier run.

use super::Summary;
use escapement_policy::file;
use std::path::Path;

/// The largest baseline that is read, in bytes. A summary of latencies has a few kilobytes.
const MAX_BYTES: u64 = 16 << 20;

/// The margin by which a regression must exceed the spread of both runs, in percent.
const MARGIN_PERCENT: f64 = 5.0;

/// An earlier run's figures.
#[derive(Debug, Clone, PartialEq)]
pub struct Baseline {
    summary: Summary,
}

/// How a run compares with its baseline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// This run's median over the baseline's.
    pub median_ratio: f64,
    /// The ratio above which it is a regression: the variation of both runs between slices, and a margin.
    pub noise_ratio: f64,
}

impl Comparison {
    /// Whether the run is slower than its noise explains.
    pub fn is_regression(&self) -> bool {
        self.median_ratio > self.noise_ratio
    }
}

impl Baseline {
    /// Reads a file that `validate --json` wrote.
    ///
    /// # Errors
    /// Fails with one line if the file cannot be read, or is not such a file.
    pub fn read(path: &Path) -> Result<Self, std::io::Error> {
        let text = file::read(path, MAX_BYTES)?;
        let summary: Summary = serde_json::from_slice(&text)?;
        if summary.inference_ns.slice_p50.is_empty() || summary.inference_ns.of_all.p50 == 0 {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "a baseline without samples"));
        }
        Ok(Self { summary })
    }

    /// Compares medians. Tails are shown but not compared: on a shared machine they depend on other
    /// processes.
    pub fn compare(&self, run: &Summary) -> Comparison {
        Comparison {
            median_ratio: run.inference_ns.of_all.p50 as f64 / self.summary.inference_ns.of_all.p50 as f64,
            noise_ratio: spread(&self.summary) * spread(run) * (1.0 + MARGIN_PERCENT / 100.0),
        }
    }
}

/// Returns the upper quartile of the slices' medians divided by the lower one: a ratio of at least 1.
fn spread(summary: &Summary) -> f64 {
    let mut medians = summary.inference_ns.slice_p50.clone();
    medians.sort_unstable();
    let at = |share: f64| medians[((medians.len() - 1) as f64 * share).round() as usize].max(1) as f64;
    if medians.is_empty() { 1.0 } else { at(0.75) / at(0.25) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::CallLatencies;
    use escapement_engine::telemetry::Percentiles;

    fn run(p50: u64, slice_p50: Vec<u64>) -> Summary {
        Summary {
            backend: "native".to_owned(),
            trials: 100,
            inference_ns: CallLatencies {
                of_all: Percentiles { count: 100, p50, ..Percentiles::default() },
                slice_p50,
            },
            hiccup_ns: Percentiles::default(),
            within_deadline: 1.0,
            verdict: "pass".to_owned(),
            misses_by_cause: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn a_slower_median_is_a_regression_and_noise_is_none() {
        let steady = Baseline { summary: run(200, vec![200; 20]) };
        assert!(!steady.compare(&run(208, vec![208; 20])).is_regression());
        assert!(steady.compare(&run(240, vec![240; 20])).is_regression());
        // The same median is no regression if the run itself varied that much.
        let mut noisy = vec![200; 10];
        noisy.extend([300; 10]);
        assert!(!steady.compare(&run(240, noisy)).is_regression());
    }

    #[test]
    fn a_file_that_is_no_baseline_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{}").unwrap();
        assert!(Baseline::read(file.path()).is_err());
        std::fs::write(file.path(), serde_json::to_vec(&run(200, vec![])).unwrap()).unwrap();
        assert!(Baseline::read(file.path()).unwrap_err().to_string().contains("without samples"));
        std::fs::write(file.path(), serde_json::to_vec(&run(200, vec![200])).unwrap()).unwrap();
        assert_eq!(Baseline::read(file.path()).unwrap(), Baseline { summary: run(200, vec![200]) });
    }
}
