//! What makes a halt last: found at the start, kept at the end.

use super::DaemonError;
use super::engine_thread::halt_reason;
use super::planted::ignores_the_latch;
use crate::bundle::hex;
use crate::clock::{rfc3339, wall_clock_ns};
use crate::host::{
    AgentDirectory, AuditLine, Halt, Latch, LatchState, RingFile, StateDirectory, StateError, User,
    halt_for_good, kill_switch_pulled_by, latches,
};
use crate::ring::Header;
use crate::wire::{AgentState, Reason};
use std::io;
use std::path::{Path, PathBuf};

/// How often a start judges a state word that changes meanwhile. An honest one changes once, to halted.
const MOST_JUDGEMENTS: usize = 16;
/// What is said of a latch whose maker did not come to it.
const FOUND: &str = "latch found without an explanation";

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
        let header = directory.attach(RingFile::Actions).ok().map(|region| region.header());
        self.judge(header.as_ref())
    }

    /// Begins the agent's next epoch on its ring. The kill switch may be pulled until the very moment, and by the state
    /// word alone: what was not judged is not overwritten.
    pub(super) fn begin_epoch(&self, header: &Header) -> Result<(), DaemonError> {
        for _ in 0..MOST_JUDGEMENTS {
            let judged = header.state();
            self.judge(Some(header))?;
            if header.begin_epoch(judged, AgentState::Starting.number()).is_ok() {
                return Ok(());
            }
        }
        let error = io::Error::other("somebody keeps changing its state word");
        Err(DaemonError::system("begin an epoch on the action ring")(error))
    }

    fn judge(&self, header: Option<&Header>) -> Result<(), DaemonError> {
        if ignores_the_latch() {
            return Ok(());
        }
        let summary = match self.latch().read() {
            LatchState::Open => {
                let Some(header) = header.filter(|header| halted_for_good(header)) else { return Ok(()) };
                let halt = self.keep(header, None)?;
                tracing::warn!("it was halted by its state word alone; its latch is written now");
                halt.summary()
            }
            LatchState::Halted(halt) => {
                say_halted(header, &halt.reason);
                halt.summary()
            }
            LatchState::Unexplained(why) => {
                say_halted(header, "");
                why
            }
        };
        Err(DaemonError::Latched { summary, config: self.config.clone() })
    }

    /// Writes the latch of a halt that the state word tells of, after the observation `sequence`, and its audit line; all of
    /// it is on disk when this returns. A latch that is there already keeps its reason, and whoever made it has its line;
    /// one whose maker was killed before it could say anything is explained here.
    pub(super) fn keep(&self, header: &Header, sequence: Option<u64>) -> Result<Halt, StateError> {
        let latch = self.latch();
        let (engaged, text) = match latch.engage()? {
            Some(engaged) => (Some(engaged), None),
            None => (latch.adopt(), Some(FOUND.to_owned())),
        };
        // A rule has no user.
        let by_a_person = halt_reason(header) == Reason::Operator;
        let user = kill_switch_pulled_by().filter(|_| by_a_person).map(User::of);
        let at_ns = wall_clock_ns();
        let halt = Halt {
            reason: reason_name(header).to_owned(),
            text: text.clone().filter(|_| engaged.is_some()),
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
                let line = LineFacts { text, sequence, user, ..LineFacts::default() };
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
fn say_halted(header: Option<&Header>, reason: &str) {
    let known = Reason::ALL.iter().copied().find(|known| known.name() == reason && latches(*known));
    if let Some(header) = header {
        halt_for_good(header, known.unwrap_or(Reason::Operator));
    }
}
