//! What makes a halt last: found at the start, kept at the end.

use super::DaemonError;
use super::engine_thread::halt_reason;
use super::planted::ignores_the_latch;
use crate::bundle::hex;
use crate::clock::{rfc3339, wall_clock_ns};
use crate::host::{
    AgentDirectory, AuditLine, Halt, Latch, LatchState, RingFile, StateDirectory, StateError, User,
    kill_switch_pulled_by, latches,
};
use crate::ring::Header;
use crate::wire::{AgentState, Reason};
use std::path::{Path, PathBuf};

/// Keeps one agent's halts and its audit file.
pub(super) struct HaltKeeper {
    state: StateDirectory,
    config: PathBuf,
}

impl HaltKeeper {
    pub(super) fn new(state: StateDirectory, config: &Path) -> Self {
        Self { state, config: config.to_owned() }
    }

    pub(super) fn latch(&self) -> Latch {
        self.state.latch()
    }

    /// The latch as the running agent watches it.
    pub(super) fn watched_latch(&self) -> Latch {
        if ignores_the_latch() { StateDirectory::at(PathBuf::new()).latch() } else { self.latch() }
    }

    /// Refuses to start a halted agent: one that has a latch, and one whose last epoch halted but was killed before its
    /// latch was written; that is written now.
    pub(super) fn refuse_halted(&self, directory: &AgentDirectory) -> Result<(), DaemonError> {
        if ignores_the_latch() {
            return Ok(());
        }
        let latch = self.latch();
        let rings = directory.attach(RingFile::Actions).ok().map(|region| region.header());
        let summary = match latch.read() {
            LatchState::Open => {
                let Some(header) = rings.filter(halted_for_good) else { return Ok(()) };
                let halt = self.keep(&header, None)?;
                tracing::warn!("the last process was killed while it halted; its latch is written now");
                halt.summary()
            }
            LatchState::Halted(halt) => {
                say_halted(rings, &halt.reason);
                halt.summary()
            }
            LatchState::Unexplained(why) => {
                say_halted(rings, "");
                why
            }
        };
        Err(DaemonError::Latched { summary, config: self.config.clone() })
    }

    /// Writes the latch of a halt that the state word tells of, after the observation `sequence`, and its audit line; all of it is on disk when this returns.
    /// A latch that is there already keeps its reason, and whoever made it has its line.
    pub(super) fn keep(&self, header: &Header, sequence: Option<u64>) -> Result<Halt, StateError> {
        let latch = self.latch();
        let engaged = latch.engage()?;
        // A rule has no user.
        let by_a_person = halt_reason(header) == Reason::Operator;
        let user = kill_switch_pulled_by().filter(|_| by_a_person).map(User::of);
        let at_ns = wall_clock_ns();
        let halt = Halt {
            reason: reason_name(header).to_owned(),
            text: None,
            at: rfc3339(at_ns),
            at_ns,
            sequence,
            epoch: Some(header.epoch()),
            bundle_sha256: Some(hex(&header.bundle_hash())),
            user: user.clone(),
            pid: std::process::id(),
        };
        match engaged {
            Some(engaged) => {
                latch.explain(engaged, &halt)?;
                let line = LineFacts { sequence, user, ..LineFacts::default() };
                self.note("halt", header, &line);
            }
            None => latch.keep()?,
        }
        Ok(halt)
    }

    /// Adds a line to the audit file. It is no reason to stop when that fails, but one to be heard.
    pub(super) fn note(&self, what: &str, header: &Header, line: &LineFacts) {
        let at_ns = wall_clock_ns();
        let line = AuditLine {
            at: rfc3339(at_ns),
            at_ns,
            what: what.to_owned(),
            reason: line.reason.clone().or_else(|| (what == "halt").then(|| reason_name(header).to_owned())),
            text: line.text.clone(),
            user: line.user.clone(),
            pid: std::process::id(),
            epoch: Some(header.epoch()),
            sequence: line.sequence,
            bundle_sha256: Some(hex(&header.bundle_hash())),
        };
        if let Err(error) = self.state.audit().append(&line) {
            tracing::error!(what, %error, "not in the audit file");
        }
    }
}

/// What an audit line says beside what it is about.
#[derive(Debug, Clone, Default)]
pub(super) struct LineFacts {
    pub(super) reason: Option<String>,
    pub(super) text: Option<String>,
    pub(super) user: Option<User>,
    pub(super) sequence: Option<u64>,
}

/// The name of the reason that the state word gives; `unknown` for a number of a later version.
fn reason_name(header: &Header) -> &'static str {
    let (_, number) = header.state();
    u16::try_from(number).ok().and_then(Reason::from_number).map_or("unknown", Reason::name)
}

/// Whether the last epoch on these rings ended in a halt that was to hold.
fn halted_for_good(header: &Header) -> bool {
    let (state, number) = header.state();
    let reason = u16::try_from(number).ok().and_then(Reason::from_number);
    state == AgentState::Halted.number() && reason.is_none_or(latches)
}

/// A gateway and `status` read the state word: it must not say that an agent with a latch is anything but halted.
fn say_halted(rings: Option<Header>, reason: &str) {
    let reason = Reason::ALL.iter().find(|known| known.name() == reason).copied().unwrap_or(Reason::Operator);
    if let Some(header) = rings {
        header.halt(reason.number().into());
    }
}
