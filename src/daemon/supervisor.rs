//! The supervisor: one loop over one channel of events, and a period for everything that sends no event.

use super::causes::Causes;
use super::disk::{Disk, Writing};
use super::ending::{End, Ending};
use super::error::DaemonError;
use super::event::Event;
use super::own_files::OwnFiles;
use super::peers::Peers;
use super::planted::panic_if_planted;
use super::published_word::PublishedWord;
use super::refusals::Refusals;
use super::reloads::Reloads;
use super::status::{self, ArmedMeter, LiveReadings, Status};
use super::tail::MeasuredPolicy;
use crate::agent_files::{ControlRequest, Pending, ReloadTarget};
use crate::config::{OnFilesLost, OnGatewayLost};
use crate::halt::{
    AuditDetails, HaltKeeper, Latch, User, dismiss_caretaker, latches, prepare_to_end, report_unkept,
};
use crate::os::{Request, Requested, ServiceManager};
use crate::status::{IntegrityStatus, ReloadOutcome, ReloadTicket, StatusPage};
use crossbeam::channel::{Receiver, RecvTimeoutError};
use escapement_engine::{Command, CommandWord, RunEnd, TickRecord, WarmUp};
use escapement_ring::clock::{Clock, MonotonicClock, Nanos, wall_clock_ns};
use escapement_ring::directory::AgentDirectory;
use escapement_ring::ring::{Consumer, Header};
use escapement_ring::wire::{Reason, StateWord};
use std::sync::Arc;
use std::time::Duration;

/// How often the supervisor reads records, heartbeats, the state word and the latch.
const PERIOD: Duration = Duration::from_millis(5);
/// How long the engine may take to stop before its policy counts as hung.
const STOP_GRACE: Nanos = Nanos::from_millis(500);
/// How long the engine may take to end after a person halted it. The state word says halted already, so the
/// gateway sends no further action. The process does not wait longer for an engine that hangs.
const HALT_GRACE: Nanos = Nanos::from_millis(5);

/// How long before a hang the prepared latch is synced once more. A disk that has just been used moves it to
/// its place in half the time.
const TOUCH_BEFORE: Nanos = Nanos::from_micros(4_000);

/// How long after the hang timeout an overdue policy counts as returned, if the guard has not ended the
/// process.
const RETURN_GRACE: Nanos = Nanos::from_millis(1_000);

/// How long the process waits for a latch that is being written. A disk that takes longer has failed: the
/// state word says halted, and the next start writes the latch.
const LATCH_PATIENCE: Nanos = Nanos::from_millis(30_000);
/// How long the process waits at its end for the audit lines and the status file before it.
const FLUSH_PATIENCE: Duration = Duration::from_secs(2);

/// How long a panic's report may take to be written before the process ends without it.
const DEATH_GRACE: Nanos = Nanos::from_millis(10_000);

/// A policy that has not returned for most of the hang timeout.
#[derive(Debug, Clone, Copy)]
pub(super) struct Overdue {
    /// When the guard ends the process.
    hang: Nanos,
    /// When to sync the prepared latch once more.
    touch: Option<Nanos>,
}

/// The supervisor's view of a running agent.
pub(super) struct Supervisor<'a> {
    pub(super) status: Status,
    pub(super) causes: Causes,
    /// Records that were taken in, but not judged yet.
    pub(super) unjudged: Vec<TickRecord>,
    pub(super) reloads: Reloads,
    pub(super) service: ServiceManager,
    pub(super) directory: &'a AgentDirectory,
    pub(super) keeper: &'a Arc<HaltKeeper>,
    pub(super) latch: Latch,
    pub(super) word: PublishedWord,
    pub(super) disk: Disk,
    /// The latch of this process's halt, which is being written or is written.
    pub(super) latch_writing: Option<Writing>,
    pub(super) own_files: OwnFiles,
    pub(super) peers: Peers,
    pub(super) refusals: Refusals,
    pub(super) action_header: Header,
    pub(super) commands: &'a CommandWord,
    /// When a drain in progress turns into a stop, and a stop into a hang.
    pub(super) stop_by: Option<Nanos>,
    /// When a halted engine is abandoned.
    pub(super) halt_by: Option<Nanos>,
    /// A policy that may be about to hang.
    pub(super) overdue: Option<Overdue>,
}

impl Supervisor<'_> {
    /// Supervises the engine until it ends, or has to be abandoned.
    pub(super) fn supervise(
        &mut self,
        inbox: &Receiver<Event>,
        records: &mut Consumer,
    ) -> Result<Ending, DaemonError> {
        loop {
            let event = inbox.recv_timeout(self.until_next_check());
            // The halt goes first: the process may be killed before it is on disk.
            self.notice_halt(MonotonicClock.now(), records);
            self.take_records(records);
            self.unjudged.drain(..).for_each(|record| self.causes.note(&record));
            match event {
                Ok(Event::EngineFailed(error)) => {
                    self.finish_the_latch();
                    return Err(error);
                }
                Ok(Event::Ended(end)) => return Ok(self.on_ended(end)),
                Ok(event) => self.on_event(event),
                Err(RecvTimeoutError::Timeout) => {}
                // The senders live as long as their threads, which end only with the process.
                Err(RecvTimeoutError::Disconnected) => return Ok(self.abandon_engine()),
            }
            let now = MonotonicClock.now();
            self.check_periodically(now, records);
            if let Some(ending) = self.check_time_limits(now) {
                return Ok(ending);
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::ThreadWatched(thread, watch) => self.causes.watched(thread, *watch),
            Event::Warmed { warm_up, keep_warm, degraded, armed } => {
                if armed {
                    self.word.armed();
                }
                self.on_warmed(warm_up, keep_warm, degraded);
            }
            Event::Overdue(hang) => self.on_overdue(hang),
            Event::ReloadPrepared(prepared) => {
                let outcome = self.reloads.on_prepared(*prepared);
                self.account_for_reload(outcome);
            }
            Event::Signal(requested) => self.on_signal(requested),
            Event::Control(pending) => self.answer(pending),
            // The caller has handled both: they end the agent.
            Event::EngineFailed(_) | Event::Ended(_) => {}
        }
    }

    /// Does everything that no event triggers.
    fn check_periodically(&mut self, now: Nanos, records: &mut Consumer) {
        self.service.feed_watchdog(now, Nanos(self.action_header.producer_heartbeat_ns()));
        self.watch_peers(now);
        self.watch_files(now);
        self.status.watch_state(self.word());
        let taken = self.reloads.collect();
        self.account_for_reload(taken);
        self.causes.judge(now);
        let refused = self.reloads.start_next();
        self.account_for_reload(refused);
        let folded = self.refusals.due(now);
        self.audit_refusal(folded);
        self.notice_halt(now, records);
        self.check_overdue(now);
    }

    /// Returns how the agent ends if the engine has not ended in time after a halt or a stop.
    fn check_time_limits(&mut self, now: Nanos) -> Option<Ending> {
        if self.halt_by.is_some_and(|by| now > by) {
            return Some(self.abandon_engine());
        }
        if let Some(by) = self.stop_by.filter(|by| now > *by) {
            if now > by.plus(STOP_GRACE) {
                return Some(self.on_hung());
            }
            self.commands.request(Command::Stop);
        }
        None
    }

    /// Takes in the records of the engine and the guard. The causes of their misses are judged later.
    fn take_records(&mut self, records: &mut Consumer) {
        let known = self.unjudged.len();
        self.unjudged.extend(std::iter::from_fn(|| TickRecord::take(records)));
        self.unjudged[known..].iter().for_each(|record| self.status.note(record));
    }

    /// Notices a halt, and keeps it. The engine, the guard and the `halt` command set the state word. A
    /// `halt` command that was killed after its first step has left only a latch.
    fn notice_halt(&mut self, now: Nanos, records: &mut Consumer) {
        self.word.check(now);
        if self.halt_by.is_some() {
            return;
        }
        if self.latch.is_engaged() {
            self.word.halt(Reason::Operator);
        }
        let Some(reason) = self.word.halted() else { return };
        self.commands.request(Command::Halt);
        // The halt is kept while the engine's thread ends. The latch names the last observation that was
        // answered; the records tell it, and the record of a halt comes directly after the state word.
        self.take_records(records);
        self.keep_the_halt();
        let grace = match reason {
            Reason::Operator => HALT_GRACE,
            // The policy is late, and may still return. If it does not, the guard ends the process in time.
            Reason::GuardTakeover => self.reloads.running().config.hang_timeout.plus(STOP_GRACE),
            // The process ends as soon as the handler has written its report.
            Reason::Panic | Reason::BusError => DEATH_GRACE,
            // The engine halted and is about to report that, or the guard halted and is about to end the
            // process.
            _ => STOP_GRACE,
        };
        self.halt_by = Some(now.plus(grace));
    }

    fn word(&self) -> StateWord {
        self.word.get()
    }

    /// Judges feed and gateway by their heartbeats, and answers a lost gateway.
    fn watch_peers(&mut self, now: Nanos) {
        let gateway = self.reloads.running().config.gateway;
        let newly_lost = self.peers.watch(now, gateway.lost_after);
        let answers = self.word().is_armed() && gateway.on_lost == OnGatewayLost::Halt;
        if newly_lost && answers {
            self.word.halt(Reason::GatewayLost);
        }
    }

    /// Compares the files with what is open, and answers a loss.
    fn watch_files(&mut self, now: Nanos) {
        let found = self.own_files.check(now);
        if found.run_file_gone {
            let (run_file, directory) = (self.own_files.run_file().clone(), self.directory.clone());
            self.disk.write("daemon.json", move || {
                if let Err(error) = run_file.write(&directory) {
                    tracing::warn!(%error, "daemon.json not written");
                }
            });
        }
        let on_lost = self.reloads.running().config.on_files_lost;
        if found.newly_lost && on_lost == OnFilesLost::Halt {
            self.word.halt(Reason::FilesLost);
        }
    }

    fn on_warmed(&mut self, warm_up: WarmUp, keep_warm: ArmedMeter, degraded: Vec<String>) {
        for reason in &degraded {
            tracing::warn!(reason, "degraded");
        }
        let word = self.word();
        self.reloads
            .note_measured(MeasuredPolicy { tail: warm_up.deciding_tail(), latency_ns: warm_up.latency_ns });
        self.reloads.policy_times().into_iter().for_each(|times| self.causes.measured(times));
        self.status.armed(warm_up, keep_warm, degraded);
        tracing::info!(
            calls = warm_up.calls,
            tail_ns = warm_up.tail.0,
            paced_tail_ns = warm_up.paced.map(|paced| paced.tail.0),
            stable = warm_up.stable,
            state = word.state_name(),
            reason = word.reason.map(Reason::number),
            "warmed up"
        );
        if word.is_armed() {
            self.service.ready("armed");
            panic_if_planted("supervisor");
            tracing::info!(agent = self.status.name(), epoch = self.status.epoch(), "armed");
        }
    }

    fn on_signal(&mut self, requested: Requested) {
        match requested.request {
            Request::Dump => self.dump(),
            Request::Drain => self.drain(),
            Request::Reload => {
                if let Err(why) = self.request_reload(ReloadTarget::Configured, requested.uid.map(User::of)) {
                    tracing::warn!(why, "SIGHUP: not reloaded");
                }
            }
            Request::Halt => self.word.halt(Reason::Operator),
        }
    }

    fn answer(&mut self, pending: Pending) {
        match pending.request {
            ControlRequest::Status {} => {
                let page = self.status_page();
                pending.answer(Ok(page.to_json()));
            }
            ControlRequest::Reload { to } => {
                let ticket = self.request_reload(to, Some(User::of(pending.uid)));
                let (pid, epoch) = (std::process::id(), self.status.epoch());
                pending.answer(ticket.map(|ticket| serde_json::json!(ReloadTicket { ticket, pid, epoch })));
            }
        }
    }

    fn request_reload(&mut self, target: ReloadTarget, user: Option<User>) -> Result<u64, String> {
        let ticket = self.reloads.request(target, user, MonotonicClock.now())?;
        if self.word().is_armed() {
            self.service.reloading();
        }
        Ok(ticket)
    }

    /// Records a reload's outcome in the log, the audit file and the service manager's status.
    fn account_for_reload(&mut self, outcome: Option<ReloadOutcome>) {
        let Some(outcome) = outcome else { return };
        match &outcome.refused {
            Some(_) => {
                let refused = self.refusals.note(MonotonicClock.now(), &outcome);
                self.audit_refusal(refused);
            }
            None => {
                let deployment = self.reloads.running();
                let deadlines = deployment.config.settings.deadlines;
                self.causes.expect(outcome.revision, deadlines, self.reloads.policy_times());
                if outcome.policy_changed {
                    deployment.provenance.log();
                }
                tracing::info!(
                    generation = outcome.revision,
                    policy_changed = outcome.policy_changed,
                    waits_for_restart = outcome.waits_for_restart.join(", "),
                    "reloaded"
                );
                let line = AuditDetails { user: outcome.user.clone(), ..AuditDetails::default() };
                self.audit("reload", &line);
            }
        }
        let word = self.word();
        if word.is_armed() {
            self.service.ready("armed");
        } else {
            // A reload does not arm an agent that is warming up. One that is stopping has reported that
            // already.
            self.service.status(word.state_name());
        }
    }

    /// Logs refused reloads, and adds their audit line.
    fn audit_refusal(&mut self, refused: Option<AuditDetails>) {
        let Some(line) = refused else { return };
        let why = line.text.as_deref().unwrap_or_default();
        tracing::error!(why, generation = self.reloads.revision(), "not reloaded: nothing was changed");
        self.audit("reload_refused", &line);
    }

    /// Adds a line to the audit file, by the thread that writes to disk.
    fn audit(&self, what: &'static str, line: &AuditDetails) {
        let keeper = Arc::clone(self.keeper);
        let line = line.line(what, &self.action_header);
        self.disk.write(what, move || keeper.append(&line));
    }

    /// The engine has reported how it ended. What it reports decides: a peer may have changed the state word
    /// meanwhile. An earlier halt by another thread or process keeps its reason.
    fn on_ended(&mut self, end: RunEnd) -> Ending {
        match end {
            RunEnd::Halted(reason) => self.word.halt(reason),
            RunEnd::Violated(violation) => {
                self.word.halt(Reason::ProtocolViolation);
                tracing::error!(%violation, "a peer broke the ring protocol");
            }
            RunEnd::Drained | RunEnd::Stopped => {}
        }
        self.keep_the_halt();
        self.clear_overdue();
        self.causes.close(MonotonicClock.now());
        let end = if self.word.halted().is_some() { self.on_halted() } else { self.on_stopped() };
        let abandoned = self.reloads.have_a_thread();
        if abandoned {
            tracing::warn!("a thread still loads a policy for a reload; it is left behind");
        }
        Ending { end, abandoned }
    }

    /// Prepares for a hang of the policy. If it hangs, the guard ends the process and has little time, so
    /// everything that can be done in advance is done now.
    ///
    /// For a policy that is overdue again and again this happens once a second. If such a policy hangs
    /// unprepared, the end takes a little longer.
    fn on_overdue(&mut self, hang: Nanos) {
        let now = MonotonicClock.now();
        if self.overdue.is_some() || now >= hang {
            return;
        }
        self.overdue = Some(Overdue { hang, touch: Some(Nanos(hang.0.saturating_sub(TOUCH_BEFORE.0))) });
        tracing::warn!(sequence = self.status.last_sequence(), "the policy does not return: overdue");
        // The last status file of this process must show the overdue policy.
        self.causes.close(now);
        self.dump();
        prepare_to_end();
        let at_ns = wall_clock_ns() + hang.since(MonotonicClock.now()).0;
        let (keeper, header) = (Arc::clone(self.keeper), self.action_header.clone());
        let sequence = self.status.last_sequence();
        self.disk.write("prepared latch", move || keeper.prepare_for_a_hang(&header, sequence, at_ns));
    }

    fn check_overdue(&mut self, now: Nanos) {
        let Some(Overdue { hang, touch }) = &mut self.overdue else { return };
        let hang = *hang;
        if touch.take_if(|touch| now >= *touch).is_some() {
            let keeper = Arc::clone(self.keeper);
            self.disk.write("prepared latch", move || keeper.touch_prepared());
        }
        if now > hang.plus(RETURN_GRACE) {
            self.clear_overdue();
            // The status file still says that the policy is overdue.
            self.dump();
        }
    }

    /// Takes back the preparations for a hang. The overdue policy has returned, or the guard would have ended
    /// the process. (If the process was stopped by a signal meanwhile, the policy may still hang. The end
    /// takes longer then.)
    fn clear_overdue(&mut self) {
        if self.overdue.take().is_some() {
            let keeper = Arc::clone(self.keeper);
            self.disk.write("removal of a prepared latch", move || keeper.discard_prepared());
            dismiss_caretaker();
        }
    }

    fn until_next_check(&self) -> Duration {
        let touch = self.overdue.and_then(|overdue| overdue.touch);
        touch.map_or(PERIOD, |touch| touch.since(MonotonicClock.now()).to_duration().min(PERIOD))
    }

    /// Ends an agent whose policy does not return. If the guard's takeover has halted the agent before, that
    /// reason stays in the latch; the process ends as hung all the same.
    fn on_hung(&mut self) -> Ending {
        self.word.halt(Reason::PolicyHung);
        self.abandon_engine();
        Ending { end: End::Hung, abandoned: true }
    }

    /// Ends an agent whose engine's thread does not return. The code that it is in, usually libtorch, cannot
    /// be stopped from outside.
    fn abandon_engine(&mut self) -> Ending {
        self.keep_the_halt();
        self.causes.close(MonotonicClock.now());
        tracing::error!("the engine's thread did not end in time; it is abandoned");
        Ending { end: self.on_halted(), abandoned: true }
    }

    fn on_stopped(&mut self) -> End {
        self.dump();
        self.flush();
        self.service.stopping("stopped");
        tracing::info!("stopped");
        End::Stopped
    }

    fn on_halted(&mut self) -> End {
        let reason = self.word.halted().unwrap_or(Reason::Operator);
        self.dump();
        self.finish_the_latch();
        self.flush();
        // Whatever a peer wrote meanwhile, the process leaves the word as it has to be.
        self.word.check(MonotonicClock.now());
        self.service.stopping("halted");
        tracing::error!(reason = reason.name(), "halted");
        match reason {
            Reason::PolicyHung => End::Hung,
            Reason::ProtocolViolation => End::Violated,
            reason => End::Halted(reason),
        }
    }

    /// Begins to write the latch and the audit line of a halt that latches. Does so once, however often it is
    /// called. The process does not end before they are written, see [`Supervisor::finish_the_latch`].
    fn keep_the_halt(&mut self) {
        let Some(reason) = self.word.halted().filter(|reason| latches(*reason)) else { return };
        if self.latch_writing.is_some() {
            return;
        }
        let (keeper, header) = (Arc::clone(self.keeper), self.action_header.clone());
        let sequence = self.status.last_sequence();
        self.latch_writing = Some(Writing::start("latch", move || {
            if let Err(error) = keeper.keep(&header, reason, sequence) {
                report_unkept(&error);
            }
        }));
    }

    /// Waits until the latch is written, and feeds the watchdog meanwhile: it must not abort the process
    /// before the halt is kept. The engine's heartbeat does not count, since the engine has halted.
    fn finish_the_latch(&mut self) {
        let begun = MonotonicClock.now();
        let Some(writing) = self.latch_writing.take() else { return };
        while !writing.is_done_within(PERIOD) {
            let now = MonotonicClock.now();
            if now.since(begun) > LATCH_PATIENCE {
                tracing::error!(
                    waited_ms = LATCH_PATIENCE.0 / 1_000_000,
                    "THE HALT IS NOT KEPT: the disk does not answer; the state word says halted"
                );
                break;
            }
            self.word.check(now);
            self.service.feed_watchdog(now, now);
        }
        self.latch_writing = Some(writing);
    }

    /// Waits until the thread that writes to disk has nothing left.
    fn flush(&mut self) {
        let folded = self.refusals.rest();
        self.audit_refusal(folded);
        if !self.disk.flush(FLUSH_PATIENCE) {
            tracing::error!("the disk does not answer: audit lines or the status file may be missing");
        }
    }

    fn drain(&mut self) {
        if self.stop_by.is_some() {
            return;
        }
        self.service.stopping("draining");
        tracing::info!("draining");
        self.commands.request(Command::Drain);
        self.word.drains();
        let timeout = self.reloads.running().config.drain_timeout;
        self.stop_by = Some(MonotonicClock.now().plus(timeout));
    }

    fn status_page(&mut self) -> StatusPage {
        let now = MonotonicClock.now();
        let readings = LiveReadings {
            word: self.word(),
            heartbeat: Nanos(self.action_header.producer_heartbeat_ns()),
            latch: self.latch.read(),
            misses: self.causes.report(),
            overdue: self.overdue.is_some(),
            feed: self.peers.feed(),
            peers: self.peers.status(now),
            integrity: IntegrityStatus {
                state_word_restored: self.word.restored(),
                files_lost: self.own_files.lost(),
                lost_now: self.own_files.losses(),
                run_file_rewritten: self.own_files.run_file_rewritten(),
                refusals_folded: self.refusals.folded(),
            },
        };
        self.status.page(readings, self.reloads.running(), self.reloads.status(), now)
    }

    /// Writes the status file. A failure is only logged: a full disk must not end an agent.
    fn dump(&mut self) {
        let path = self.directory.path().join("status.json");
        let page = self.status_page();
        self.disk.write("status.json", move || match status::write(&path, &page) {
            Ok(()) => tracing::info!(path = %path.display(), "status written"),
            Err(error) => tracing::warn!(path = %path.display(), %error, "status not written"),
        });
    }
}
