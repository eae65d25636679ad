//! The supervisor: one loop over one channel of events, and a period for everything that sends no event.

use super::causes::Causes;
use super::disk::{Disk, Writing};
use super::ending::Ending;
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
use crate::halt::{AuditDetails, HaltKeeper, Latch, User};
use crate::os::{Request, Requested, ServiceManager};
use crate::status::{IntegrityStatus, ReloadOutcome, ReloadTicket, StatusPage};
use crossbeam::channel::{Receiver, RecvTimeoutError};
use escapement_engine::{Command, CommandWord, TickRecord, WarmUp};
use escapement_ring::clock::{Clock, MonotonicClock, Nanos};
use escapement_ring::directory::AgentDirectory;
use escapement_ring::ring::{Consumer, Header};
use escapement_ring::wire::{Reason, StateWord};
use std::sync::Arc;
use std::time::Duration;

/// How often the supervisor reads records, heartbeats, the state word and the latch.
pub(super) const PERIOD: Duration = Duration::from_millis(5);
/// How long the engine may take to stop before its policy counts as hung.
pub(super) const STOP_GRACE: Nanos = Nanos::from_millis(500);

/// A policy that has not returned for most of the hang timeout.
#[derive(Debug, Clone, Copy)]
pub(super) struct Overdue {
    /// When the guard ends the process.
    pub(super) hang: Nanos,
    /// When to sync the prepared latch once more.
    pub(super) touch: Option<Nanos>,
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
    pub(super) fn take_records(&mut self, records: &mut Consumer) {
        let known = self.unjudged.len();
        self.unjudged.extend(std::iter::from_fn(|| TickRecord::take(records)));
        self.unjudged[known..].iter().for_each(|record| self.status.note(record));
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
    pub(super) fn audit_refusal(&mut self, refused: Option<AuditDetails>) {
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

    fn until_next_check(&self) -> Duration {
        let touch = self.overdue.and_then(|overdue| overdue.touch);
        touch.map_or(PERIOD, |touch| touch.since(MonotonicClock.now()).to_duration().min(PERIOD))
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
    pub(super) fn dump(&mut self) {
        let path = self.directory.path().join("status.json");
        let page = self.status_page();
        self.disk.write("status.json", move || match status::write(&path, &page) {
            Ok(()) => tracing::info!(path = %path.display(), "status written"),
            Err(error) => tracing::warn!(path = %path.display(), %error, "status not written"),
        });
    }
}
