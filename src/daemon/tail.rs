//! Whether a policy's measured tail allows the agent to be armed.

use super::error::DaemonError;
use escapement_engine::{OnMiss, Settings};
use escapement_ring::clock::Nanos;

/// Fails if a policy with this tail would halt the agent at its first slow call. A tail that was not measured
/// passes.
pub(super) fn check_tail(settings: &Settings, tail: Option<Nanos>) -> Result<(), DaemonError> {
    let limit = settings.deadlines.inference;
    match tail {
        Some(tail) if settings.enforce && settings.on_miss == OnMiss::Halt && tail > limit => {
            Err(DaemonError::TooSlow { tail, limit })
        }
        _ => Ok(()),
    }
}
