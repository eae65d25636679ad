//! The daemon's keeper of halts: it refuses to start a halted agent, and puts every halt of the running agent
//! on disk.

use super::audit::{Audit, AuditLine};
use super::kill_switch::kill_switch_pulled_by;
use super::latch::{Halt, Latch, LatchState};
use super::state_word::{halt_for_good, is_halted_for_good, latches, state_of};
use super::user::User;
use crate::agent_files::{StateDirectory, StateError};
use crate::hex::hex;
use escapement_ring::clock::{Nanos, rfc3339, wall_clock_ns};
use escapement_ring::directory::{AgentDirectory, RingFile};
use escapement_ring::ring::Header;
use escapement_ring::wire::{AgentState, Reason};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The keeper runs in the supervisor, and its lines count as the daemon's for the filter `agent.log`.
const LOG_TARGET: &str = "escapement::daemon::halt";

/// How often a start judges a state word that changes meanwhile. An honest one changes once, to halted.
const MAX_JUDGEMENTS: usize = 16;
/// A prepared latch names the instant at which the hang timeout ends. A halt that is further from that
/// instant than this gets a newly written latch.
const MAX_PREPARED_OFFSET_NS: u64 = 1_000_000;
/// Text for a latch whose writer died before explaining it.
const FOUND: &str = "latch found without an explanation";

/// Keeps one agent's halts and its audit file.
pub struct HaltKeeper {
    state: StateDirectory,
    /// Always true outside the tests that plant a daemon without it.
    heeds_the_latch: bool,
    /// Held while latch and audit line are written. A second thread, which may end the process afterwards,
    /// waits here for the first.
    progress: Mutex<Progress>,
}

/// How far this process's halt is on disk.
#[derive(Debug, Default)]
struct Progress {
    /// Latch and audit line are written.
    kept: bool,
    /// The content of the latch that was prepared beside its place.
    prepared: Option<Halt>,
    /// The line about this process's end is written. The thread that wrote it ends the process.
    ended: bool,
}

/// Why an agent must not start.
#[derive(Debug)]
pub enum StartRefused {
    /// It is halted.
    Halted {
        /// Since when, why and by whom; or why that cannot be read.
        summary: String,
    },
    /// The latch of a halt that the state word says could not be written.
    State(StateError),
    /// The state word changed during every attempt to begin an epoch.
    StateKeepsChanging,
}

/// Who ends a process whose policy hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedBy {
    /// The caller.
    Caller,
    /// Another thread, which has already written how the process ends.
    OtherThread,
}

impl HaltKeeper {
    /// The keeper for an agent's state directory.
    pub fn new(state: StateDirectory) -> Self {
        Self { state, heeds_the_latch: true, progress: Mutex::default() }
    }

    /// A defective keeper, which starts a halted agent and watches no latch. The suites that show that a halt
    /// stays a halt must find this defect.
    #[cfg(feature = "planted-faults")]
    pub fn that_ignores_the_latch(state: StateDirectory) -> Self {
        Self { heeds_the_latch: false, ..Self::new(state) }
    }

    fn latch(&self) -> Latch {
        Latch::of(&self.state)
    }

    /// The latch as the running agent watches it.
    pub fn watched_latch(&self) -> Latch {
        if self.heeds_the_latch { self.latch() } else { Latch::of(&StateDirectory::at(PathBuf::new())) }
    }

    /// Refuses to start a halted agent: one that has a latch, or one whose last epoch halted but was killed
    /// before its latch was written. In the second case the latch is written now.
    ///
    /// # Errors
    /// Fails if the agent is halted.
    pub fn refuse_halted(&self, directory: &AgentDirectory) -> Result<(), StartRefused> {
        let header = directory.attach(RingFile::Actions).ok().map(|region| region.header());
        self.judge(header.as_ref())
    }

    /// Begins the agent's next epoch on its ring. Until that moment the kill switch may be pulled, by the
    /// state word alone, so a state word that was not judged is never overwritten.
    ///
    /// # Errors
    /// Fails if the agent is halted, or the state word keeps changing.
    pub fn begin_epoch(&self, header: &Header) -> Result<(), StartRefused> {
        for _ in 0..MAX_JUDGEMENTS {
            let judged = header.state();
            self.judge(Some(header))?;
            if header.begin_epoch(judged, AgentState::Starting.number()).is_ok() {
                return Ok(());
            }
        }
        Err(StartRefused::StateKeepsChanging)
    }

    fn judge(&self, header: Option<&Header>) -> Result<(), StartRefused> {
        if !self.heeds_the_latch {
            return Ok(());
        }
        let summary = match self.latch().read() {
            LatchState::Open => {
                let Some(header) = header.filter(|header| is_halted_for_good(state_of(header))) else {
                    return Ok(());
                };
                let reason = state_of(header).reason_name();
                let (halt, line) = self.engage(header, reason, None, None).map_err(StartRefused::State)?;
                line.iter().for_each(|line| self.append(line));
                tracing::warn!(target: LOG_TARGET, "the agent was halted by its state word alone; its latch is written now");
                halt.summary()
            }
            LatchState::Halted(halt) => {
                set_halted(header, &halt.reason);
                self.complete_the_audit(&halt);
                halt.summary()
            }
            LatchState::Unexplained(why) => {
                set_halted(header, "");
                why
            }
        };
        Err(StartRefused::Halted { summary })
    }

    /// Writes the latch and the audit line of a halt for `reason`, after the observation `sequence`. The
    /// caller knows the reason from its own memory: a peer may have changed the state word.
    ///
    /// Does so once in a process, however often it is called. Everything is on disk when this returns.
    ///
    /// # Errors
    /// Fails if the latch cannot be written.
    pub fn keep(&self, header: &Header, reason: Reason, sequence: Option<u64>) -> Result<(), StateError> {
        let mut progress = self.progress();
        if !progress.kept {
            let prepared = progress.prepared.take();
            let (_, line) = self.engage(header, reason.name(), sequence, prepared)?;
            line.iter().for_each(|line| self.append(line));
            progress.kept = true;
        }
        Ok(())
    }

    /// The same for a process that must end soon: only the latch is on disk when this returns.
    ///
    /// The audit lines, the one about the process's end among them, are written but not synced. If the
    /// machine crashes within the next seconds, the next program that handles the latch writes the line from
    /// it. Returns who ends the process; another thread may be about to.
    ///
    /// # Errors
    /// Fails if the latch cannot be written.
    pub fn keep_in_haste(&self, header: &Header, sequence: Option<u64>) -> Result<EndedBy, StateError> {
        let mut progress = self.progress();
        let mut lines = Vec::with_capacity(2);
        let kept = if progress.kept {
            Ok(())
        } else {
            let word = state_of(header);
            let reason =
                if is_halted_for_good(word) { word.reason_name() } else { Reason::PolicyHung.name() };
            let engaged = self.engage(header, reason, sequence, progress.prepared.take());
            engaged.map(|(_, line)| lines.extend(line))
        };
        progress.kept = kept.is_ok();
        let ended_already = std::mem::replace(&mut progress.ended, true);
        if !ended_already {
            let reason = Some(Reason::PolicyHung.name().to_owned());
            lines.push(AuditDetails { reason, ..AuditDetails::default() }.line("stop", header));
        }
        if let Err(error) = Audit::of(&self.state).append_in_haste(&lines) {
            report_unaudited("halt, stop", &error);
        }
        kept.map(|()| if ended_already { EndedBy::OtherThread } else { EndedBy::Caller })
    }

    /// Adds the line about the process's end, unless the guard has given up the policy and is ending the
    /// process.
    pub fn note_end(&self, header: &Header, details: &AuditDetails) {
        if !std::mem::replace(&mut self.progress().ended, true) {
            self.note("stop", header, details);
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        // A thread that panicked while it held this has ended the process.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prepares the latch for the case that the policy does not return until `at_ns`. `sequence` is the
    /// observation that was answered for it.
    pub fn prepare_for_a_hang(&self, header: &Header, sequence: Option<u64>, at_ns: u64) {
        let mut progress = self.progress();
        progress.prepared = None;
        if progress.kept {
            return;
        }
        // Released before the disk is written: a halt meanwhile writes a latch of its own and must not wait.
        drop(progress);
        let halt = halt_of(header, Reason::PolicyHung.name(), at_ns, sequence);
        match self.latch().prepare(&halt) {
            Ok(()) => self.progress().prepared = Some(halt),
            Err(error) => tracing::warn!(target: LOG_TARGET, %error, "no latch was prepared"),
        }
    }

    /// Syncs the prepared latch once more, so that the disk is awake when the latch is moved to its place.
    pub fn touch_prepared(&self) {
        if self.progress().prepared.is_some() {
            self.latch().touch_prepared();
        }
    }

    /// Removes a prepared latch: the policy has returned, or a killed predecessor left it behind.
    pub fn discard_prepared(&self) {
        self.progress().prepared = None;
        self.latch().discard_prepared();
    }

    /// Makes the latch, from what was `prepared` if that fits. Returns the audit line that has to be written.
    ///
    /// A latch that is there already keeps its reason, and its maker writes the line. A latch whose maker was
    /// killed before explaining it is explained here.
    fn engage(
        &self,
        header: &Header,
        reason: &str,
        sequence: Option<u64>,
        prepared: Option<Halt>,
    ) -> Result<(Halt, Option<AuditLine>), StateError> {
        // The caller knows the sequence unless nothing was answered; then the prepared latch names it.
        let sequence = sequence.or_else(|| prepared.as_ref().and_then(|halt| halt.sequence));
        let latch = self.latch();
        let is_an_operators = [Reason::Operator.name(), "unknown"].contains(&reason);
        let fits = |halt: &Halt| {
            halt.reason == reason
                && halt.sequence == sequence
                && wall_clock_ns().abs_diff(halt.at_ns) <= MAX_PREPARED_OFFSET_NS
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
            user: kill_switch_pulled_by().filter(|_| is_an_operators).map(User::of),
            ..halt_of(header, reason, wall_clock_ns(), sequence)
        };
        let Some(engaged) = engaged else {
            latch.keep()?;
            return Ok((halt, None));
        };
        latch.explain(engaged, &halt)?;
        let line = AuditLine::of_halt(&halt);
        Ok((halt, Some(line)))
    }

    /// Writes the audit line of a halt whose process was killed, or whose machine crashed, before the line
    /// was on disk. The latch holds everything that the line says.
    fn complete_the_audit(&self, halt: &Halt) {
        // The holder of the lock is halting or re-arming, and writes lines of its own.
        let Ok(_lock) = self.state.lock_rearm(Nanos(0)) else { return };
        if let Err(error) = Audit::of(&self.state).complete(halt) {
            tracing::error!(target: LOG_TARGET, %error, "the line about the halt could not be added to the audit file");
        }
    }

    /// Adds a line to the audit file. A failure is logged, and does not stop the agent.
    pub fn note(&self, what: &str, header: &Header, details: &AuditDetails) {
        self.append(&details.line(what, header));
    }

    /// Adds a line that was made before. A failure is logged.
    pub fn append(&self, line: &AuditLine) {
        if let Err(error) = Audit::of(&self.state).append(line) {
            report_unaudited(&line.what, &error);
        }
    }
}

fn report_unaudited(what: &str, error: &StateError) {
    tracing::error!(target: LOG_TARGET, what, %error, "could not write to the audit file");
}

/// What an audit line says beyond what happened and to which epoch.
#[derive(Debug, Clone, Default)]
pub struct AuditDetails {
    /// The reason's name, for a halt.
    pub reason: Option<String>,
    /// Free text.
    pub text: Option<String>,
    /// The user who did it; `None` for a rule.
    pub user: Option<User>,
}

impl AuditDetails {
    /// The line of this moment.
    pub fn line(&self, what: &str, header: &Header) -> AuditLine {
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
            sequence: None,
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

/// Sets the state word of an agent that has a latch to halted: gateways and `status` read that word.
fn set_halted(header: Option<&Header>, reason: &str) {
    let known = Reason::ALL.iter().copied().find(|known| known.name() == reason && latches(*known));
    if let Some(header) = header {
        halt_for_good(header, known.unwrap_or(Reason::Operator));
    }
}

/// Logs that a latch could not be written. The state word still says halted, and the next start writes the
/// latch.
pub fn report_unkept(error: &StateError) {
    tracing::error!(target: LOG_TARGET, %error, "THE HALT IS NOT KEPT: its latch could not be written");
}
