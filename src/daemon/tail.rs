//! Whether a policy's measured tail allows the agent to be armed.

use super::error::DaemonError;
use escapement_engine::Settings;
use escapement_ring::clock::Nanos;

/// Fails if a policy with this tail would halt the agent at its first slow call. A tail that was not measured
/// passes.
pub(super) fn check_tail(settings: &Settings, tail: Option<Nanos>) -> Result<(), DaemonError> {
    match tail {
        Some(tail) if settings.would_halt_at(tail) => {
            Err(DaemonError::TooSlow { tail, limit: settings.deadlines.inference })
        }
        _ => Ok(()),
    }
}
