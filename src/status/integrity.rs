//! What the status page says about the agent's neighbours, and about what they may have changed.

use super::FeedState;
use serde::{Deserialize, Serialize};

/// Feed and gateway, and the rings between them and the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeersStatus {
    /// The gateway, judged by its heartbeat and `gateway.lost_after_ms`.
    pub gateway: FeedState,
    /// How often the gateway was lost since the start.
    pub gateway_losses: u64,
    /// The age of the feed's heartbeat; `None` if there was none.
    pub feed_heartbeat_age_ns: Option<u64>,
    /// The age of the gateway's heartbeat; `None` if there was none.
    pub gateway_heartbeat_age_ns: Option<u64>,
    /// Observations that are not answered yet.
    pub observations: RingDepth,
    /// Actions that the gateway has not taken yet.
    pub actions: RingDepth,
}

/// How full a ring is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingDepth {
    /// Slots in use.
    pub depth: u64,
    /// All slots.
    pub capacity: u64,
}

/// What other processes have changed that only the daemon may change, and what was held back.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IntegrityStatus {
    /// How often the state word was restored after a peer had changed it.
    pub state_word_restored: u64,
    /// How often a ring, a directory or the lock was removed or replaced.
    pub files_lost: u64,
    /// What is removed or replaced now, in words.
    pub lost_now: Vec<String>,
    /// How often `daemon.json` was written again.
    pub run_file_rewritten: u64,
    /// Refused reloads that share a line of the audit file.
    pub refusals_folded: u64,
}
