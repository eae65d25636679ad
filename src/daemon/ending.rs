//! How an agent ends.

use super::error::DaemonError;
use crate::halt::AuditDetails;
use escapement_ring::wire::Reason;

/// How an agent ended, if it did not fail to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Drained and stopped, as it was told.
    Stopped,
    /// Halted.
    Halted(Reason),
    /// A peer broke the ring protocol; halted.
    Violated,
    /// The policy did not return; halted.
    Hung,
}

/// How an agent ended, and how its process has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// How the agent ended.
    pub end: End,
    /// Whether a thread does not come back: the engine's, or one that loads a policy. The process must end
    /// without running destructors then: those of libtorch would unmap memory that the thread uses.
    pub abandoned: bool,
}

/// Whether a thread is still inside a policy.
pub(super) fn leaves_a_thread(result: &Result<Ending, DaemonError>) -> bool {
    match result {
        Ok(ending) => ending.abandoned,
        Err(error) => error.leaves_a_thread(),
    }
}

/// The audit file's line about the process's end.
pub(super) fn audit_details(result: &Result<Ending, DaemonError>) -> AuditDetails {
    let (reason, text) = match result {
        Ok(Ending { end: End::Stopped, .. }) => (None, None),
        Ok(Ending { end: End::Halted(reason), .. }) => (Some(reason.name()), None),
        Ok(Ending { end: End::Violated, .. }) => (Some(Reason::ProtocolViolation.name()), None),
        Ok(Ending { end: End::Hung, .. }) => (Some(Reason::PolicyHung.name()), None),
        Err(error) => (None, Some(error.to_string())),
    };
    AuditDetails { reason: reason.map(str::to_owned), text, ..AuditDetails::default() }
}
