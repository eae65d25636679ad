//! The status page: everything that a running daemon says about itself, as JSON.
//!
//! The daemon writes it into `status.json` and answers `status` through the control socket with it; the
//! commands read it. Both use the types of this module, so that a field has one name and one meaning. Words
//! and keys are part of the format and are never renamed.

mod integrity;
mod policy;
mod reload;
mod report;

use crate::evidence::MissReport;
use crate::halt::LatchState;
use escapement_engine::telemetry::{CounterSnapshot, Percentiles};
use serde::{Deserialize, Serialize};

pub use integrity::{IntegrityStatus, PeersStatus, RingDepth};
pub use policy::{
    FeatureStatus, InputCheckStatus, PassedOverStatus, PolicyKind, PolicyStatus, ProofStatus, SandboxStatus,
    WeightCandidateStatus,
};
pub use reload::{ReloadOutcome, ReloadStatus, ReloadTicket};
pub use report::{ActionRingStatus, ObservationRingStatus, RingStatus, StatusReport, StatusSource};

/// What a running daemon says about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusPage {
    /// The agent's name.
    pub agent: String,
    /// The state's name; `unknown` for a number that the daemon does not know.
    pub state: String,
    /// When the supervisor first saw this state, as RFC 3339.
    pub since: String,
    /// The name of the state's reason.
    pub reason: String,
    /// How often a daemon has started on these rings.
    pub epoch: u64,
    /// The name of the backend that serves.
    pub backend: String,
    /// SHA-256 of the policy, in hexadecimal; zeros if none is loaded.
    pub bundle_sha256: String,
    /// What serves, and what vouches for it.
    pub policy: PolicyStatus,
    /// What the input check has counted; `None` if there is none.
    pub input_guard: Option<InputCheckStatus>,
    /// What the machine refused although the configuration asks for it.
    pub degraded: Vec<String>,
    /// The feed, judged by its heartbeat.
    pub feed: FeedState,
    /// The gateway, the heartbeats of both peers, and the depths of the rings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<PeersStatus>,
    /// What other processes have changed that only the daemon may change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub integrity: Option<IntegrityStatus>,
    /// The policy's latencies before the agent was armed; `None` until then.
    pub warm_up: Option<WarmUpStatus>,
    /// How the engine stays warm while it is idle; `None` until the agent is armed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_warm: Option<KeepWarmStatus>,
    /// Counts of observations and actions.
    pub counters: CounterSnapshot,
    /// The deadlines in force.
    pub deadline: DeadlineStatus,
    /// Misses by cause.
    pub misses: MissReport,
    /// Reloads since the start.
    pub reloads: ReloadStatus,
    /// Latencies of the observations that were answered.
    pub latency_ns: LatencyStatus,
    /// The sequence number of the last observation that was answered.
    pub last_sequence: Option<u64>,
    /// The age of the engine's heartbeat.
    pub heartbeat_age_ns: u64,
    /// Whether the policy has not returned for most of the hang timeout, a second ago or less.
    pub overdue: bool,
    /// The latch.
    pub latch: LatchState,
    /// The daemon's process.
    pub pid: u32,
    /// When the page was made, on `CLOCK_MONOTONIC`.
    pub at_ns: u64,
}

impl StatusPage {
    /// The page as JSON, with its keys in alphabetical order.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("a status page has only strings, numbers and string keys")
    }
}

/// The feed's life, judged by its heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedState {
    /// It has never been there.
    Absent,
    /// Its heartbeat is recent.
    Alive,
    /// Its heartbeat has stopped.
    Lost,
}

impl FeedState {
    /// The word in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Alive => "alive",
            Self::Lost => "lost",
        }
    }
}

/// The deadlines in force, and what enforces them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadlineStatus {
    /// Whether misses have consequences.
    pub enforce: bool,
    /// Microseconds for the policy.
    pub inference_us: u64,
    /// Microseconds from peek to commit.
    pub end_to_end_us: u64,
    /// How the deadline guard waits: `sleep` or `spin`.
    pub guard: String,
    /// Milliseconds after which the policy counts as hung.
    pub hang_timeout_ms: u64,
}

/// The policy's latencies while the agent was warmed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmUpStatus {
    /// Calls made.
    pub calls: u64,
    /// The tail, at `warm_up.quantile`.
    pub tail_ns: u64,
    /// Whether the tail had settled.
    pub stable: bool,
    /// The last round's calls.
    pub inference_ns: Percentiles,
    /// The calls at the expected rate, whose tail decided about arming; left out if there were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paced: Option<PacedStatus>,
}

/// The policy's latencies at the expected rate, while the agent was warmed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacedStatus {
    /// The tail, at `warm_up.quantile`.
    pub tail_ns: u64,
    /// Calls a second.
    pub rate: u32,
    /// All of them.
    pub inference_ns: Percentiles,
}

/// Dry runs of the engine, and what they cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeepWarmStatus {
    /// The setting: `auto`, `off`, or microseconds.
    pub setting: String,
    /// How long the engine is idle before a dry run; `None` if none is made.
    pub interval_us: Option<f64>,
    /// Why none is made, although the setting asks for them.
    pub why_off: Option<String>,
    /// Dry runs since the agent was armed.
    pub dry_runs: u64,
    /// Their median length, as estimated while they run; `None` while it is not known.
    pub typical_ns: Option<u64>,
    /// The longest one.
    pub longest_ns: u64,
    /// The share of time that they took, 0 to 1.
    pub share_of_time: f64,
    /// By how much they delay an observation that arrives at a random instant, on average.
    pub expected_delay_ns: f64,
    /// Observations that arrived during one.
    pub delayed: u64,
    /// By how much they delayed an observation on average, over all observations.
    pub mean_delay_ns: f64,
}

/// Latencies of the observations that were answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyStatus {
    /// From the feed's stamp to the peek.
    pub queue: Percentiles,
    /// The policy.
    pub inference: Percentiles,
    /// From the feed's stamp to the action's commit.
    pub tick_to_action: Percentiles,
    /// From a deadline to the action that the guard committed in the policy's stead.
    pub guard_past_deadline: Percentiles,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page that a daemon wrote before this type existed. Keys, their order, words and numbers stay what
    /// they were.
    const WRITTEN_BEFORE: &str = include_str!("../../tests/golden/status_page.json");

    #[test]
    fn a_page_of_an_earlier_daemon_is_read_and_written_without_a_change() {
        let page: StatusPage = serde_json::from_str(WRITTEN_BEFORE).expect("a status page");
        let written = format!("{:#}\n", page.to_json());
        assert_eq!(written, WRITTEN_BEFORE);
        // The sample must hold what can be lost: nested reports, optional values and words of enums.
        assert!(page.warm_up.is_some() && page.input_guard.is_some() && page.last_sequence.is_some());
        assert!(!page.reloads.recent.is_empty() && !page.misses.recent.is_empty());
        assert!(!page.counters.outcomes.is_empty() && page.policy.golden.is_some());
        assert!(matches!(page.latch, LatchState::Halted(_)));
    }

    #[test]
    fn every_kind_of_latch_survives_the_way_through_json() {
        let mut page: StatusPage = serde_json::from_str(WRITTEN_BEFORE).expect("a status page");
        for (latch, json) in [
            (LatchState::Open, serde_json::Value::Null),
            (LatchState::Unexplained("torn".to_owned()), serde_json::json!({ "unexplained": "torn" })),
        ] {
            page.latch = latch;
            let written = page.to_json();
            assert_eq!(written["latch"], json);
            assert_eq!(serde_json::from_value::<StatusPage>(written).expect("a status page"), page);
        }
    }
}
