//! What a policy's calls were measured to take, and whether that allows the agent to be armed.

use super::error::DaemonError;
use escapement_engine::Settings;
use escapement_engine::telemetry::Percentiles;
use escapement_ring::clock::Nanos;

/// What the calls of a policy took in its warm-up.
#[derive(Debug, Clone, Copy)]
pub(super) struct MeasuredPolicy {
    /// The tail that decides about arming: of the calls at the expected rate, if there were any.
    pub(super) tail: Nanos,
    /// The calls of the last round, back to back.
    pub(super) latency_ns: Percentiles,
}

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
