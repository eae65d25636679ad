//! Comparison with an earlier run.

use super::{KeepWarmUse, Pacing, Summary};
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

/// Why an earlier run's figures cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The file is not a report.
    #[error("not what `validate --json` prints: {0}")]
    Malformed(String),
    /// An earlier version wrote it, which did not pace calls.
    #[error(
        "it has no paced figures: an earlier version wrote it; run `validate --json` again for a new one"
    )]
    NotPaced,
    /// The run was paced in another way, so that a comparison would say nothing about the policy.
    #[error("its calls were paced otherwise: {there}; here {here}")]
    PacedOtherwise {
        /// How, in the earlier run.
        there: String,
        /// How, in this one.
        here: String,
    },
}

/// How the paced calls of a run compare with those of its baseline.
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
    pub fn read(path: &Path) -> Result<Self, BaselineError> {
        let malformed = |error: serde_json::Error| BaselineError::Malformed(error.to_string());
        let text = file::read(path, MAX_BYTES).map_err(std::io::Error::from)?;
        let json: serde_json::Value = serde_json::from_slice(&text).map_err(malformed)?;
        if json.get("inference_ns").is_some() && json.get("paced").is_none() {
            return Err(BaselineError::NotPaced);
        }
        let summary: Summary = serde_json::from_value(json).map_err(malformed)?;
        let inference = &summary.paced.calls.inference_ns;
        if inference.slice_p50.is_empty() || inference.of_all.p50 == 0 {
            return Err(BaselineError::Malformed("a baseline without samples".to_owned()));
        }
        Ok(Self { summary })
    }

    /// Checks that a run with this pacing can be compared.
    ///
    /// # Errors
    /// Fails with one line if the baseline's calls were paced in another way.
    pub fn must_match(&self, pacing: &Pacing) -> Result<(), BaselineError> {
        let words = |arrivals: &str, is_fed: bool, keep_warm: &str| {
            let feed = if is_fed { " from a feed's process" } else { "" };
            format!("{arrivals}{feed}, keep-warm {keep_warm}")
        };
        let paced = &self.summary.paced;
        let there = words(&paced.arrivals, paced.feed, &paced.keep_warm.setting);
        let here = words(&pacing.words, pacing.is_fed(), &KeepWarmUse::word(pacing.keep_warm));
        if there == here { Ok(()) } else { Err(BaselineError::PacedOtherwise { there, here }) }
    }

    /// Compares the medians of the paced calls. Tails are shown but not compared: on a shared machine they
    /// depend on other processes.
    pub fn compare(&self, run: &Summary) -> Comparison {
        let median = |summary: &Summary| summary.paced.calls.inference_ns.of_all.p50 as f64;
        Comparison {
            median_ratio: median(run) / median(&self.summary),
            noise_ratio: spread(&self.summary) * spread(run) * (1.0 + MARGIN_PERCENT / 100.0),
        }
    }
}

/// Returns the upper quartile of the slices' medians divided by the lower one: a ratio of at least 1.
fn spread(summary: &Summary) -> f64 {
    let mut medians = summary.paced.calls.inference_ns.slice_p50.clone();
    medians.sort_unstable();
    let at = |share: f64| medians[((medians.len() - 1) as f64 * share).round() as usize].max(1) as f64;
    if medians.is_empty() { 1.0 } else { at(0.75) / at(0.25) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::{CallLatencies, KeepWarmSummary, PacedSummary, SeriesSummary};
    use escapement_engine::KeepWarm;
    use escapement_engine::telemetry::Percentiles;

    fn run(p50: u64, slice_p50: Vec<u64>) -> Summary {
        let calls = SeriesSummary {
            trials: 100,
            inference_ns: CallLatencies {
                of_all: Percentiles { count: 100, p50, ..Percentiles::default() },
                slice_p50,
            },
            hiccup_ns: Percentiles::default(),
            within_deadline: 1.0,
            misses_by_cause: std::collections::BTreeMap::new(),
        };
        let keep_warm = KeepWarmSummary {
            setting: "auto".to_owned(),
            interval_us: Some(10.0),
            why_off: None,
            calls: 0,
            typical_ns: 0,
            expected_delay_ns: 0.0,
            mean_delay_ns: 0.0,
        };
        let arrivals = "1000 a second, evenly".to_owned();
        Summary {
            backend: "native".to_owned(),
            back_to_back: calls.clone(),
            paced: PacedSummary { arrivals, feed: false, keep_warm, calls },
            verdict: "pass".to_owned(),
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
        // Nor are slower calls back to back.
        let mut slower = run(200, vec![200; 20]);
        slower.back_to_back = run(900, vec![900; 20]).back_to_back;
        assert!(!steady.compare(&slower).is_regression());
    }

    #[test]
    fn a_file_that_is_no_baseline_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let refusal = |text: &[u8]| {
            std::fs::write(file.path(), text).unwrap();
            Baseline::read(file.path()).unwrap_err().to_string()
        };
        assert!(refusal(b"{}").starts_with("not what `validate --json` prints: "));
        let before = br#"{"backend": "native", "trials": 100, "inference_ns": {"p50": 200}}"#;
        assert!(refusal(before).contains("no paced figures: an earlier version wrote it"));
        assert!(refusal(&serde_json::to_vec(&run(200, vec![])).unwrap()).contains("without samples"));
        std::fs::write(file.path(), serde_json::to_vec(&run(200, vec![200])).unwrap()).unwrap();
        assert_eq!(Baseline::read(file.path()).unwrap(), Baseline { summary: run(200, vec![200]) });
    }

    #[test]
    fn runs_that_were_paced_otherwise_are_not_compared() {
        let baseline = Baseline { summary: run(200, vec![200]) };
        let matches = |words: &str, keep_warm| {
            baseline.must_match(&Pacing::scheduled(Vec::new(), words.to_owned(), keep_warm))
        };
        matches("1000 a second, evenly", KeepWarm::Auto).unwrap();
        let error = matches("200 a second, evenly", KeepWarm::Auto).unwrap_err().to_string();
        assert!(error.contains("1000 a second, evenly") && error.contains("here 200 a second"), "{error}");
        let error = matches("1000 a second, evenly", KeepWarm::Off).unwrap_err().to_string();
        assert!(error.contains("keep-warm auto") && error.ends_with("keep-warm off"), "{error}");
    }
}
