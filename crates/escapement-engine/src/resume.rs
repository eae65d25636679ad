//! Recovery: an engine resumes after the last observation that the previous engine answered.

use escapement_ring::ring::{Consumer, Producer, ProtocolViolation};
use escapement_ring::wire::{ActionHeader, Reason};
use zerocopy::IntoBytes;

/// Why an engine cannot be built on these rings.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A ring's positions are impossible.
    #[error(transparent)]
    Violation(#[from] ProtocolViolation),
    /// The two rings contradict each other.
    #[error(
        "the action ring answers observation {answered}, but only {released} were released: the rings \
         are not a pair"
    )]
    NotAPair {
        /// Position of the last observation that was answered.
        answered: u64,
        /// Number of observations that were released.
        released: u64,
    },
    /// The last record in the action ring is not what a daemon committed.
    #[error("the last record of the action ring is damaged: its checksum does not match")]
    LastActionDamaged,
}

/// Finds out which observation the last daemon answered, and releases it if that daemon did not. Returns the
/// sequence and the position that the next observation follows.
pub(super) fn resume(
    observations: &mut Consumer,
    actions: &Producer,
    action_dimension: usize,
) -> Result<Option<(u64, u64)>, EngineError> {
    let mut last = ActionHeader::default();
    if !actions.read_last(0, last.as_mut_bytes()) {
        return Ok(None);
    }
    // The gateway's process can write to this ring, so recovery checks what it relies on.
    let mut payload = vec![0.0f32; action_dimension];
    actions.read_last(ActionHeader::BYTES, payload.as_mut_bytes());
    if !last.is_whole(&payload) {
        return Err(EngineError::LastActionDamaged);
    }
    let released = observations.position();
    if last.position > released {
        return Err(EngineError::NotAPair { answered: last.position, released });
    }
    if last.position == released {
        match observations.peek()? {
            Some(peek) => peek.release(),
            None => return Err(EngineError::NotAPair { answered: last.position, released }),
        }
    }
    // The sequence number of a torn frame says nothing about the next one.
    let is_reliable = last.reason != Reason::ObservationTorn.number();
    Ok(is_reliable.then_some((last.sequence, last.position)))
}
