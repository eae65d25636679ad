//! What the supervisor is told by the other threads.

use super::error::DaemonError;
use super::prepare::{PrepareError, PreparedReload};
use super::status::ArmedMeter;
use crate::agent_files::Pending;
use crate::evidence::{ThreadWatch, WatchError};
use crate::os::Requested;
use escapement_engine::{RunEnd, WarmUp};
use escapement_ring::clock::Nanos;

/// A message to the supervisor.
pub(super) enum Event {
    /// The engine is warm, and armed unless it was halted before.
    Warmed { warm_up: WarmUp, keep_warm: ArmedMeter, degraded: Vec<String>, armed: bool },
    /// The kernel records what a thread does from now on, or says why not.
    ThreadWatched(WatchedThread, Box<Result<ThreadWatch, WatchError>>),
    /// The engine could not be made.
    EngineFailed(DaemonError),
    /// The engine's thread is about to end.
    Ended(RunEnd),
    /// The policy has not returned for so long that the guard will end the process after this instant.
    Overdue(Nanos),
    /// A reload is ready to be offered to the engine, or could not be made ready.
    ReloadPrepared(Box<Result<PreparedReload, PrepareError>>),
    /// A signal came. At [`Request::Halt`](crate::os::Request::Halt) the state word already says halted.
    Signal(Requested),
    /// A client sent a request through the control socket.
    Control(Pending),
}

/// A thread whose time on and off the core is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WatchedThread {
    Engine,
    Guard,
}
