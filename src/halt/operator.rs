//! A person's halt and re-arm of an agent, whether or not its daemon runs.
//!
//! [`engage`] does what halts first and what explains last: it makes the latch's file, so that nothing starts
//! any more; sets the state word, so that the gateway sends nothing any more; signals the daemon, so that it
//! ends; and then explains the latch and writes the audit line.
//!
//! [`rearm`] works in the opposite order: it writes the audit line first and removes the latch last. A re-arm
//! that is interrupted leaves the agent halted.
//!
//! The two exclude each other by the re-arm lock. A re-arm lifts the halts that it found when it began, and
//! no later ones. A halt waits for a re-arm under way, and then halts again.

use super::audit::{Audit, AuditLine};
use super::latch::{Engaged, Halt, Latch, LatchState};
use super::state_word::{halt_for_good, is_halted_for_good, state_of};
use super::user::User;
use crate::agent_files::{LiveDaemon, StateDirectory, StateError};
use crate::hex::hex;
use escapement_ring::clock::{Nanos, rfc3339, wall_clock_ns};
use escapement_ring::directory::{AgentDirectory, RingFile};
use escapement_ring::ring::Header;
use escapement_ring::shm::ShmError;
use escapement_ring::wire::{AgentState, Reason};
use std::io;

/// How long a halt or a re-arm waits for the other: each makes two synced writes.
const LOCK_PATIENCE: Nanos = Nanos::from_millis(5_000);

/// The agent that a person halts or re-arms.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The directory of its rings.
    pub directory: &'a AgentDirectory,
    /// Its state directory.
    pub state: &'a StateDirectory,
    /// Its daemon, if it is alive.
    pub daemon: Option<&'a LiveDaemon>,
}

/// How an agent was halted.
#[derive(Debug)]
pub enum Engagement {
    /// By its latch, which is explained and on disk. `is_first` is false if the agent was halted already; the
    /// first reason stands then.
    Latched {
        /// Whether this halt made the latch.
        is_first: bool,
    },
    /// By its state word alone, since the caller could not write the latch.
    WordOnly {
        /// Who writes the latch.
        latch_writer: LatchWriter,
        /// Why the caller could not.
        error: StateError,
    },
}

/// Who writes the latch of a halt whose caller could not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LatchWriter {
    /// The daemon, which was signalled.
    SignalledDaemon,
    /// The daemon, which reads its state word. The signal could not be sent.
    Daemon,
    /// The daemon's next start; none runs.
    NextStart,
}

/// Why a halt is in doubt.
#[derive(Debug)]
pub enum EngageError {
    /// The latch is there, but a re-arm under way may remove it.
    RearmUnderWay(StateError),
    /// The agent is halted, but a crash of the machine might lose that.
    NotSafeOnDisk(StateError),
    /// The agent is not halted: it has neither a latch nor rings.
    NotHalted(StateError),
}

/// Halts the agent at once, and keeps it halted. `text` is what the person said about it.
///
/// # Errors
/// Fails if it is not certain that the agent stays halted.
pub fn engage(target: Target<'_>, text: &str) -> Result<Engagement, EngageError> {
    // The time is taken before the daemon can have reacted.
    let mut at_ns = wall_clock_ns();
    let mut engaged = target.pull();
    let signalled = target.daemon.map(|daemon| daemon.signal(rustix::process::Signal::USR2));
    // A re-arm under way may undo what was just done. The lock is held until the audit line is written: that
    // line tells a re-arm that has begun, and waits for the lock, of this halt.
    let lock = target.state.lock_rearm(LOCK_PATIENCE);
    if lock.is_ok()
        && let again @ (Ok(Some(_)) | Err(_)) = target.pull()
    {
        at_ns = wall_clock_ns();
        engaged = again;
    }
    // Looked up again: the daemon may have made the rings meanwhile.
    let header = target.header();
    match engaged {
        Ok(engaged) => {
            let is_first = engaged.is_some();
            let kept = target.explain(header.as_ref(), engaged, at_ns, text);
            if let Err(error) = lock {
                return Err(EngageError::RearmUnderWay(error));
            }
            kept.map(|()| Engagement::Latched { is_first }).map_err(EngageError::NotSafeOnDisk)
        }
        Err(error) if header.is_some() => {
            Ok(Engagement::WordOnly { latch_writer: latch_writer(signalled.as_ref()), error })
        }
        Err(error) => Err(EngageError::NotHalted(error)),
    }
}

fn latch_writer(signalled: Option<&io::Result<()>>) -> LatchWriter {
    match signalled {
        Some(Ok(())) => LatchWriter::SignalledDaemon,
        Some(Err(_)) => LatchWriter::Daemon,
        None => LatchWriter::NextStart,
    }
}

/// Why an agent was not re-armed. Nothing was changed.
#[derive(Debug)]
pub enum RearmError {
    /// It is not halted.
    NotHalted,
    /// The daemon runs, or its lock cannot be taken.
    Daemon(ShmError),
    /// It was halted anew after the re-arm began.
    HaltedAnew(Box<AuditLine>),
    /// Its state directory cannot be read or written. The agent stays halted.
    State(StateError),
}

impl From<StateError> for RearmError {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

/// Lifts the agent's halt, so that the next start may arm it. Returns a summary of the halt: since when, why
/// and by whom. `text` is what the person said about the re-arm.
///
/// # Errors
/// Fails if the agent is not halted, its daemon runs, or it was halted anew meanwhile.
pub fn rearm(target: Target<'_>, text: &str) -> Result<String, RearmError> {
    if !target.state.path().is_dir() {
        return Err(RearmError::NotHalted);
    }
    let audit = Audit::of(target.state);
    let begun = audit.length();
    // A daemon holds this lock as long as it runs, from its very start.
    let _role = target.state.acquire().map_err(RearmError::Daemon)?;
    // A halt at the same time waits for the end of this re-arm, and then halts again. A halt that came before
    // it has left its audit line.
    let _lock = target.state.lock_rearm(LOCK_PATIENCE)?;
    if let Some(halt) = audit.halt_since(begun)? {
        return Err(RearmError::HaltedAnew(Box::new(halt)));
    }
    let latch = Latch::of(target.state);
    let found = latch.read();
    let header = target.header();
    let word = header.as_ref().map(state_of).filter(|word| is_halted_for_good(*word));
    let (reason, summary) = match (&found, word) {
        (LatchState::Open, None) => return Err(RearmError::NotHalted),
        (LatchState::Open, Some(word)) => (word.reason_name().to_owned(), word.reason_name().to_owned()),
        (LatchState::Halted(halt), _) => (halt.reason.clone(), halt.summary()),
        (LatchState::Unexplained(why), _) => ("unexplained".to_owned(), why.clone()),
    };
    if let LatchState::Halted(halt) = &found {
        audit.complete(halt)?;
    }
    let at_ns = wall_clock_ns();
    audit.append(&AuditLine {
        at: rfc3339(at_ns),
        at_ns,
        what: "rearm".to_owned(),
        reason: Some(reason),
        text: Some(text.to_owned()),
        user: Some(User::current()),
        pid: std::process::id(),
        epoch: header.as_ref().map(Header::epoch),
        sequence: None,
        bundle_sha256: header.as_ref().map(|header| hex(&header.bundle_hash())),
    })?;
    if let Some(header) = header.filter(|_| word.is_some()) {
        header.reset_state(AgentState::Stopped.number(), 0);
    }
    if found != LatchState::Open {
        latch.release()?;
    }
    Ok(summary)
}

impl Target<'_> {
    /// The action ring's header, if there are rings.
    fn header(&self) -> Option<Header> {
        self.directory.observe(RingFile::Actions).ok().map(|region| region.header())
    }

    /// Makes the latch's file and sets the state word, without waiting for any other halt or re-arm. Returns
    /// the file, unless it was there already.
    fn pull(&self) -> Result<Option<Engaged>, StateError> {
        let engaged = self.state.create().and_then(|()| Latch::of(self.state).engage());
        if let Some(header) = self.header() {
            halt_for_good(&header, Reason::Operator);
        }
        engaged
    }

    /// Writes who halted the agent and why: in the latch, if this is the first halt, and in the audit file.
    /// Everything is on disk when this returns.
    fn explain(
        &self,
        header: Option<&Header>,
        engaged: Option<Engaged>,
        at_ns: u64,
        text: &str,
    ) -> Result<(), StateError> {
        let halt = Halt {
            reason: Reason::Operator.name().to_owned(),
            text: Some(text.to_owned()),
            at: rfc3339(at_ns),
            at_ns,
            sequence: None,
            epoch: header.map(Header::epoch),
            bundle_sha256: header.map(|header| hex(&header.bundle_hash())),
            user: Some(User::current()),
            pid: std::process::id(),
        };
        let latch = Latch::of(self.state);
        let kept = match engaged {
            Some(engaged) => latch.explain(engaged, &halt),
            None => latch.keep(),
        };
        Audit::of(self.state).append(&AuditLine::of_halt(&halt))?;
        kept
    }
}
