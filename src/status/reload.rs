//! What the status page says about reloads.

use crate::agent_files::ReloadTarget;
use crate::halt::User;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// The daemon's answer to a request for a reload: the page lists the outcome under this ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadTicket {
    /// The number.
    pub ticket: u64,
    /// The daemon that gave it.
    pub pid: u32,
    /// That daemon's epoch.
    pub epoch: u64,
}

/// Reloads since the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadStatus {
    /// The revision of the settings in force. It is 1 at the start, and every reload adds 1.
    #[serde(rename = "generation")]
    pub revision: u32,
    /// Reloads that were applied.
    pub applied: u64,
    /// Reloads that were refused.
    pub refused: u64,
    /// Whether one is under way.
    pub under_way: bool,
    /// The ticket of the last one that finished. They finish in the order of their tickets.
    pub finished: u64,
    /// The latest outcomes, oldest first.
    pub recent: VecDeque<ReloadOutcome>,
}

/// How a reload ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadOutcome {
    /// The number that the requester was given.
    pub ticket: u64,
    /// When it ended, as RFC 3339.
    pub at: String,
    /// What it led to.
    pub target: ReloadTarget,
    /// Who asked for it.
    pub user: Option<User>,
    /// Whether anything was changed.
    pub applied: bool,
    /// The revision of the settings in force afterwards.
    #[serde(rename = "generation")]
    pub revision: u32,
    /// Why nothing was changed.
    pub refused: Option<String>,
    /// Keys that were changed in the file and wait for a restart.
    pub waits_for_restart: Vec<String>,
    /// Whether another policy answers now.
    pub policy_changed: bool,
}
