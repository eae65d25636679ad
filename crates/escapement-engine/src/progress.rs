//! What a tick reports to its caller.

use escapement_ring::clock::Nanos;
use escapement_ring::ring::ProtocolViolation;
use escapement_ring::wire::Reason;

/// The result of one tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// There was no observation.
    Idle,
    /// One observation got its outcome, at this instant.
    Done(Nanos),
    /// The guard is answering an observation. The engine can do nothing before the guard is done.
    Waiting,
    /// The agent has halted, and the state word says so. No further tick does anything.
    Halted(Reason),
    /// A ring's other side broke the protocol. The state word says halted.
    Violated(ProtocolViolation),
}
