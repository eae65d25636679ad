//! What makes a halt last: found at the start, kept at the end.

use super::DaemonError;
use super::engine_thread::halt_reason;
use super::planted::ignores_the_latch;
use crate::agent_files::{StateDirectory, StateError};
use crate::bundle::hex;
use crate::halt::{
    Audit, AuditLine, Halt, Latch, LatchState, User, halt_for_good, kill_switch_pulled_by, latches,
};
use escapement_ring::clock::{Nanos, rfc3339, wall_clock_ns};
use escapement_ring::directory::{AgentDirectory, RingFile};
use escapement_ring::ring::Header;
use escapement_ring::wire::{AgentState, Reason};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How often a start judges a state word that changes meanwhile. An honest one changes once, to halted.
const MOST_JUDGEMENTS: usize = 16;
/// A latch that was prepared names the instant at which the hang timeout ends. Later than this, another one is written.
const MOST_OFF_NS: u64 = 1_000_000;
/// What is said of a latch whose maker did not come to it.
const FOUND: &str = "latch found without an explanation";

/// Keeps one agent's halts and its audit file.
pub(super) struct HaltKeeper {
    state: StateDirectory,
    config: PathBuf,
    /// Held while latch and audit line are written: whoever comes second, and may end the process afterwards, waits for the
    /// first.
    progress: Mutex<Progress>,
}

/// How far this process's halt is on disk.
#[derive(Debug, Default)]
struct Progress {
    /// Latch and audit line are written.
    kept: bool,
    /// What a latch would say that was made ready beside its place.
    prepared: Option<Halt>,
    /// The line about this process's end is written: whoever wrote it ends the process.
    ended: bool,
}

impl HaltKeeper {
    pub(super) fn new(state: StateDirectory, config: &Path) -> Self {
        Self { state, config: config.to_owned(), progress: Mutex::default() }
    }

    pub(super) fn latch(&self) -> Latch {
        Latch::of(&self.state)
    }

    /// The latch as the running agent watches it.
    pub(super) fn watched_latch(&self) -> Latch {
        if ignores_the_latch() { Latch::of(&StateDirectory::at(PathBuf::new())) } else { self.latch() }
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
                let (halt, line) = self.engage(header, None, None)?;
                line.iter().for_each(|line| self.append(line));
                tracing::warn!("it was halted by its state word alone; its latch is written now");
                halt.summary()
            }
            LatchState::Halted(halt) => {
                say_halted(header, &halt.reason);
                self.complete_the_audit(&halt);
                halt.summary()
            }
            LatchState::Unexplained(why) => {
                say_halted(header, "");
                why
            }
        };
        Err(DaemonError::Latched { summary, config: self.config.clone() })
    }

    /// Writes the latch of a halt that the state word tells of, after the observation `sequence`, and its audit line; once in
    /// a process, however often it is asked for. All of it is on disk when this returns.
    pub(super) fn keep(&self, header: &Header, sequence: Option<u64>) -> Result<(), StateError> {
        let mut progress = self.progress();
        if !progress.kept {
            let (_, line) = self.engage(header, sequence, progress.prepared.take())?;
            line.iter().for_each(|line| self.append(line));
            progress.kept = true;
        }
        Ok(())
    }

    /// The same for a process that has to be gone: its latch is on disk when this returns. The audit lines, that of its end among
    /// them, are left to the kernel; should the machine crash within the next seconds, whoever comes next to the latch writes
    /// what it tells. Says whether the process's end is the caller's; somebody else may be about to end it.
    pub(super) fn keep_in_haste(&self, header: &Header, sequence: Option<u64>) -> Result<bool, StateError> {
        let mut progress = self.progress();
        let mut lines = Vec::with_capacity(2);
        let kept = if progress.kept {
            Ok(())
        } else {
            self.engage(header, sequence, progress.prepared.take()).map(|(_, line)| lines.extend(line))
        };
        progress.kept = kept.is_ok();
        let ends = !std::mem::replace(&mut progress.ended, true);
        if ends {
            let reason = Some(Reason::PolicyHung.name().to_owned());
            lines.push(AuditDetails { reason, ..AuditDetails::default() }.about("stop", header));
        }
        if let Err(error) = Audit::of(&self.state).append_in_haste(&lines) {
            not_audited("halt, stop", &error);
        }
        kept.map(|()| ends)
    }

    /// Adds the line about the process's end, unless the guard has given up the policy and is ending it.
    pub(super) fn note_end(&self, header: &Header, line: &AuditDetails) {
        if !std::mem::replace(&mut self.progress().ended, true) {
            self.note("stop", header, line);
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        // A thread that panicked while it held this has ended the process.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes ready what is to be on disk if the policy, which was answered for at the observation `sequence`, does not return
    /// until `at_ns`.
    pub(super) fn prepare_for_a_hang(&self, header: &Header, sequence: Option<u64>, at_ns: u64) {
        let mut progress = self.progress();
        progress.prepared = None;
        if progress.kept {
            return;
        }
        // Nobody waits for this disk: whoever halts meanwhile writes a latch of its own.
        drop(progress);
        let halt = halt_of(header, Reason::PolicyHung.name(), at_ns, sequence);
        match self.latch().prepare(&halt) {
            Ok(()) => self.progress().prepared = Some(halt),
            Err(error) => tracing::warn!(%error, "no latch was prepared"),
        }
    }

    /// Makes the disk awake for what was prepared.
    pub(super) fn touch_prepared(&self) {
        if self.progress().prepared.is_some() {
            self.latch().touch_prepared();
        }
    }

    /// The policy has returned, or what a killed predecessor left is found.
    pub(super) fn discard_prepared(&self) {
        self.progress().prepared = None;
        self.latch().discard_prepared();
    }

    /// Makes the latch, from what was `prepared` where that fits. Gives the audit line that is to be written: a latch that is
    /// there already keeps its reason, and whoever made it has its line; one whose maker was killed before it could say
    /// anything is explained here.
    fn engage(
        &self,
        header: &Header,
        sequence: Option<u64>,
        prepared: Option<Halt>,
    ) -> Result<(Halt, Option<AuditLine>), StateError> {
        // Who halts knows it, unless it did not come to an answer; what was prepared tells it then.
        let sequence = sequence.or_else(|| prepared.as_ref().and_then(|halt| halt.sequence));
        let latch = self.latch();
        let fits = |halt: &Halt| {
            halt.reason == reason_name(header)
                && halt.sequence == sequence
                && wall_clock_ns().abs_diff(halt.at_ns) <= MOST_OFF_NS
        };
        if let Some(halt) = prepared.filter(fits)
            && latch.engage_prepared().unwrap_or(false)
        {
            let line = AuditLine::of_halt(&halt);
            return Ok((halt, Some(line)));
        }
        let (engaged, text) = match latch.engage()? {
            Some(engaged) => (Some(engaged), None),
            None => (latch.adopt(), Some(FOUND.to_owned())),
        };
        let halt = Halt {
            text: text.filter(|_| engaged.is_some()),
            // A rule has no user.
            user: kill_switch_pulled_by().filter(|_| halt_reason(header) == Reason::Operator).map(User::of),
            ..halt_of(header, reason_name(header), wall_clock_ns(), sequence)
        };
        let Some(engaged) = engaged else {
            latch.keep()?;
            return Ok((halt, None));
        };
        latch.explain(engaged, &halt)?;
        let line = AuditLine::of_halt(&halt);
        Ok((halt, Some(line)))
    }

    /// The latch of a process that was killed, or of a machine that crashed, before the audit line was on disk tells all that
    /// the line would have.
    fn complete_the_audit(&self, halt: &Halt) {
        // Whoever holds it is halting or re-arming, and writes lines of its own.
        let Ok(_alone) = self.state.lock_rearm(Nanos(0)) else { return };
        if let Err(error) = Audit::of(&self.state).complete(halt) {
            tracing::error!(%error, "the audit file does not tell of its halt");
        }
    }

    /// Adds a line to the audit file. It is no reason to stop when that fails, but one to be heard.
    pub(super) fn note(&self, what: &str, header: &Header, line: &AuditDetails) {
        self.append(&line.about(what, header));
    }

    fn append(&self, line: &AuditLine) {
        if let Err(error) = Audit::of(&self.state).append(line) {
            not_audited(&line.what, &error);
        }
    }
}

fn not_audited(what: &str, error: &StateError) {
    tracing::error!(what, %error, "not in the audit file");
}

/// What an audit line says beside what it is about.
#[derive(Debug, Clone, Default)]
pub(super) struct AuditDetails {
    pub(super) reason: Option<String>,
    pub(super) text: Option<String>,
    pub(super) user: Option<User>,
    pub(super) sequence: Option<u64>,
}

impl AuditDetails {
    fn about(&self, what: &str, header: &Header) -> AuditLine {
        let at_ns = wall_clock_ns();
        AuditLine {
            at: rfc3339(at_ns),
            at_ns,
            what: what.to_owned(),
            reason: self.reason.clone(),
            text: self.text.clone(),
            user: self.user.clone(),
            pid: std::process::id(),
            epoch: Some(header.epoch()),
            sequence: self.sequence,
            bundle_sha256: Some(hex(&header.bundle_hash())),
        }
    }
}

/// A halt by a rule.
fn halt_of(header: &Header, reason: &str, at_ns: u64, sequence: Option<u64>) -> Halt {
    Halt {
        reason: reason.to_owned(),
        text: None,
        at: rfc3339(at_ns),
        at_ns,
        sequence,
        epoch: Some(header.epoch()),
        bundle_sha256: Some(hex(&header.bundle_hash())),
        user: None,
        pid: std::process::id(),
    }
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

/// The state word still says it, and the next start writes what is missing.
pub(super) fn not_kept(error: &StateError) {
    tracing::error!(%error, "THE HALT IS NOT KEPT: its latch could not be written");
}
