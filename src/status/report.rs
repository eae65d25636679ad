//! What `escapement status` reports: the daemon's own page if it answers, or else what the rings tell,
//! together with the latch.

use super::StatusPage;
use crate::halt::LatchState;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The report of `escapement status --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The condition in one word: the state's name, or `dead`, `not answering`,
    /// `rings lost` or `unknown`.
    pub condition: String,
    /// The directory with the latch and the audit file.
    pub state_directory: PathBuf,
    /// Where the rest comes from.
    #[serde(flatten)]
    pub source: StatusSource,
}

/// Where a report comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StatusSource {
    /// The daemon has answered.
    Daemon(Box<StatusPage>),
    /// The daemon does not run or does not answer.
    Rings(RingStatus),
}

/// What can be told without the daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RingStatus {
    /// The agent's name.
    pub agent: String,
    /// The state's name; `None` without an action ring.
    pub state: Option<String>,
    /// The process id of the last daemon, if its run file names one.
    pub pid: Option<u32>,
    /// The latch.
    pub latch: LatchState,
    /// From the action ring's header, if there is one.
    #[serde(flatten)]
    pub actions: Option<ActionRingStatus>,
    /// From the observation ring's header, if there is one.
    #[serde(flatten)]
    pub observations: Option<ObservationRingStatus>,
}

/// What the action ring's header tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionRingStatus {
    /// The name of the state's reason.
    pub reason: String,
    /// The number of daemon starts on this ring.
    pub epoch: u64,
    /// SHA-256 of the policy, in hexadecimal; zeros if none was loaded.
    pub bundle_sha256: String,
    /// The age of the engine's heartbeat; `None` if there was none.
    pub heartbeat_age_ns: Option<u64>,
}

/// What the observation ring's header tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservationRingStatus {
    /// The age of the feed's heartbeat; `None` if there was none.
    pub feed_heartbeat_age_ns: Option<u64>,
}

impl StatusReport {
    /// The report as JSON, with its keys in alphabetical order.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("a report has only strings, numbers and string keys")
    }
}

impl StatusSource {
    /// The agent's name.
    pub fn agent(&self) -> &str {
        match self {
            Self::Daemon(page) => &page.agent,
            Self::Rings(rings) => &rings.agent,
        }
    }

    /// The state's name, if it is known.
    pub fn state(&self) -> Option<&str> {
        match self {
            Self::Daemon(page) => Some(&page.state),
            Self::Rings(rings) => rings.state.as_deref(),
        }
    }

    /// The name of the state's reason, if it is known.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Daemon(page) => Some(&page.reason),
            Self::Rings(rings) => rings.actions.as_ref().map(|ring| ring.reason.as_str()),
        }
    }

    /// The latch.
    pub fn latch(&self) -> &LatchState {
        match self {
            Self::Daemon(page) => &page.latch,
            Self::Rings(rings) => &rings.latch,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report(actions: Option<ActionRingStatus>) -> StatusReport {
        let rings = RingStatus {
            agent: "eth".to_owned(),
            state: actions.as_ref().map(|_| "stopped".to_owned()),
            pid: None,
            latch: LatchState::Open,
            actions,
            observations: None,
        };
        let source = StatusSource::Rings(rings);
        StatusReport { condition: "stopped".to_owned(), state_directory: "/state/eth".into(), source }
    }

    /// A ring that is missing leaves its keys out; an age is `null` if there was no heartbeat.
    #[test]
    fn a_report_without_the_daemon_has_what_the_rings_tell() {
        let without = json!({
            "agent": "eth", "condition": "stopped", "latch": null, "pid": null, "state": null,
            "state_directory": "/state/eth"
        });
        assert_eq!(report(None).to_json(), without);
        let ring = ActionRingStatus {
            reason: "policy".to_owned(),
            epoch: 2,
            bundle_sha256: "00".to_owned(),
            heartbeat_age_ns: None,
        };
        let json = report(Some(ring)).to_json();
        assert_eq!((&json["epoch"], &json["state"]), (&json!(2), &json!("stopped")));
        assert_eq!(json.get("heartbeat_age_ns"), Some(&serde_json::Value::Null));
    }

    #[test]
    fn a_report_of_a_running_daemon_is_its_page_and_more() {
        let written = include_str!("../../tests/golden/status_page.json");
        let page: StatusPage = serde_json::from_str(written).expect("a status page");
        let source = StatusSource::Daemon(Box::new(page.clone()));
        let report =
            StatusReport { condition: "armed".to_owned(), state_directory: "/state/eth".into(), source };
        let mut expected = page.to_json();
        expected["condition"] = json!("armed");
        expected["state_directory"] = json!("/state/eth");
        assert_eq!(report.to_json(), expected);
        let read: StatusReport = serde_json::from_value(expected).expect("a report");
        assert_eq!(read, report);
    }
}
