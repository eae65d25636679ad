//! The JSON form of a report, and the file that a later run is compared with.

use super::{KeepWarmUse, LatencyReport, Series};
use escapement_engine::telemetry::Percentiles;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The JSON form of a [`LatencyReport`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The backend that was called.
    pub backend: String,
    /// The calls that were as far apart as the observations.
    pub paced: PacedSummary,
    /// The calls without a pause.
    pub back_to_back: SeriesSummary,
    /// `pass` or `fail`, by the paced calls.
    pub verdict: String,
}

/// The paced calls, and how they were paced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PacedSummary {
    /// When observations arrived, in words.
    pub arrivals: String,
    /// Whether a feed's process sent them.
    pub feed: bool,
    /// What was done in between to stay warm.
    pub keep_warm: KeepWarmSummary,
    /// The calls.
    #[serde(flatten)]
    pub calls: SeriesSummary,
}

/// Calls that were made in one way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeriesSummary {
    /// Timed calls.
    pub trials: u64,
    /// Latencies of the calls.
    pub inference_ns: CallLatencies,
    /// What the machine added to busy loops of a typical call's length.
    pub hiccup_ns: Percentiles,
    /// The share of calls, 0 to 1, that met the deadline.
    pub within_deadline: f64,
    /// Calls that missed the deadline, by the name of the cause; left out if there are none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub misses_by_cause: BTreeMap<String, u64>,
}

/// Latencies of the calls, and how steady they were.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CallLatencies {
    /// Over the whole run.
    #[serde(flatten)]
    pub of_all: Percentiles,
    /// The median of each slice of the run, in its order.
    pub slice_p50: Vec<u64>,
}

/// Calls that were made to stay warm, and what they cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeepWarmSummary {
    /// The setting: `off`, `auto`, or an interval.
    pub setting: String,
    /// How long the thread was idle before each; `None` if none was made.
    pub interval_us: Option<f64>,
    /// Why none was made, although the setting asks for them; left out otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_off: Option<String>,
    /// How many were made.
    pub calls: u64,
    /// Their median length.
    pub typical_ns: u64,
    /// By how much they delay an observation that arrives at a random instant, on average.
    pub expected_delay_ns: f64,
    /// By how much they delayed an observation of this run, on average.
    pub mean_delay_ns: f64,
}

impl LatencyReport {
    /// Returns the figures that every report shows.
    pub fn summary(&self) -> Summary {
        Summary {
            backend: self.backend.to_owned(),
            paced: PacedSummary {
                arrivals: self.arrivals.clone(),
                feed: self.is_fed,
                keep_warm: self.keep_warm.summary(self.paced.calls()),
                calls: self.paced.summary(),
            },
            back_to_back: self.back_to_back.summary(),
            verdict: if self.holds() { "pass" } else { "fail" }.to_owned(),
        }
    }
}

impl Series {
    /// Returns the figures that every report shows.
    pub fn summary(&self) -> SeriesSummary {
        SeriesSummary {
            trials: self.calls(),
            inference_ns: CallLatencies {
                of_all: self.inference.percentiles(),
                slice_p50: self.slice_medians_ns.clone(),
            },
            hiccup_ns: self.hiccup.percentiles(),
            within_deadline: self.within_deadline(),
            misses_by_cause: self
                .misses
                .iter()
                .map(|(cause, count)| (cause.name().to_owned(), *count))
                .collect(),
        }
    }
}

impl KeepWarmUse {
    fn summary(&self, observations: u64) -> KeepWarmSummary {
        let lengths = self.lengths.percentiles();
        KeepWarmSummary {
            setting: Self::word(self.setting),
            interval_us: self.interval.map(|interval| interval.0 as f64 / 1e3),
            why_off: self.why_off.map(str::to_owned),
            calls: lengths.count,
            typical_ns: lengths.p50,
            expected_delay_ns: self.expected_delay_ns(),
            mean_delay_ns: self.delay.0 as f64 / observations.max(1) as f64,
        }
    }
}

impl KeepWarmSummary {
    /// Returns the figures in words.
    pub fn words(&self) -> String {
        let setting = match (&self.why_off, self.interval_us) {
            (Some(why), _) => return format!("keep-warm {}, but no calls: {why}", self.setting),
            (None, None) => return "keep-warm off".to_owned(),
            (None, Some(interval)) => format!("keep-warm {}: after {interval} us without work", self.setting),
        };
        format!(
            "{setting}, {} calls of {:.2} us; \
             they delay an observation by {:.1} ns on average, {:.1} expected",
            self.calls,
            self.typical_ns as f64 / 1e3,
            self.mean_delay_ns,
            self.expected_delay_ns
        )
    }
}
