//! The supervisor: one loop over one channel of events, and a period for everything that sends no event.

use super::causes::Causes;
use super::ending::{End, Ending};
use super::error::DaemonError;
use super::event::Event;
use super::planted::panic_if_planted;
use super::reloads::Reloads;
use super::status::{self, ArmedMeter, LiveReadings, Status};
use super::tail::MeasuredPolicy;
use crate::agent_files::{ControlRequest, Pending, ReloadTarget};
use crate::halt::{
    AuditDetails, HaltKeeper, Latch, User, dismiss_caretaker, halt_for_good, halt_reason, is_halted_for_good,
    prepare_to_end, report_unkept, state_of,
};
use crate::os::{Request, Requested, ServiceManager};
use crate::status::{ReloadOutcome, ReloadTicket, StatusPage};
use crossbeam::channel::{Receiver, RecvTimeoutError};
use escapement_engine::{Command, CommandWord, RunEnd, TickRecord, WarmUp};
use escapement_ring::clock::{Clock, MonotonicClock, Nanos, wall_clock_ns};
use escapement_ring::directory::AgentDirectory;
use escapement_ring::ring::{Consumer, Header};
use escapement_ring::wire::{Reason, StateWord};
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
    pub(super) keeper: &'a HaltKeeper,
    pub(super) latch: Latch,
    pub(super) action_header: Header,
    pub(super) observation_header: Header,
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
                Ok(Event::EngineFailed(error)) => return Err(error),
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
            Event::Warmed { warm_up, keep_warm, degraded } => self.on_warmed(warm_up, keep_warm, degraded),
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
        self.status.watch_feed(now, Nanos(self.observation_header.producer_heartbeat_ns()));
        self.status.watch_state(self.word());
        let taken = self.reloads.collect();
        self.account_for_reload(taken);
        self.causes.judge(now);
        let refused = self.reloads.start_next();
        self.account_for_reload(refused);
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
        if self.halt_by.is_some() {
            return;
        }
        if self.latch.is_engaged() {
            halt_for_good(&self.action_header, Reason::Operator);
        }
        if !self.is_halted() {
            return;
        }
        self.commands.request(Command::Halt);
        // The halt is kept before the engine's thread ends. The latch names the last observation that was
        // answered; the records tell it, and the record of a halt comes directly after the state word.
        self.take_records(records);
        self.keep_the_halt();
        let grace = match halt_reason(self.word()) {
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

    fn is_halted(&self) -> bool {
        self.word().is_halted()
    }

    fn word(&self) -> StateWord {
        state_of(&self.action_header)
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
            Request::Halt => _ = halt_for_good(&self.action_header, Reason::Operator),
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
        let ticket = self.reloads.request(target, user)?;
        if self.word().is_armed() {
            self.service.reloading();
        }
        Ok(ticket)
    }

    /// Records a reload's outcome in the log, the audit file and the service manager's status.
    fn account_for_reload(&mut self, outcome: Option<ReloadOutcome>) {
        let Some(outcome) = outcome else { return };
        let line = AuditDetails {
            text: outcome.refused.clone(),
            user: outcome.user.clone(),
            ..AuditDetails::default()
        };
        match &outcome.refused {
            Some(why) => {
                tracing::error!(why, generation = outcome.revision, "not reloaded: nothing was changed");
                self.keeper.note("reload_refused", &self.action_header, &line);
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
                self.keeper.note("reload", &self.action_header, &line);
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

    /// The engine has reported how it ended. An earlier halt by another thread or process keeps its reason.
    fn on_ended(&mut self, end: RunEnd) -> Ending {
        self.keep_the_halt();
        self.clear_overdue();
        self.causes.close(MonotonicClock.now());
        if let RunEnd::Violated(violation) = end {
            tracing::error!(%violation, "a peer broke the ring protocol");
        }
        let end = if self.is_halted() { self.on_halted() } else { self.on_stopped() };
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
        self.keeper.prepare_for_a_hang(&self.action_header, self.status.last_sequence(), at_ns);
    }

    fn check_overdue(&mut self, now: Nanos) {
        let Some(Overdue { hang, touch }) = &mut self.overdue else { return };
        let hang = *hang;
        if touch.take_if(|touch| now >= *touch).is_some() {
            self.keeper.touch_prepared();
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
            self.keeper.discard_prepared();
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
        halt_for_good(&self.action_header, Reason::PolicyHung);
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
        self.service.stopping("stopped");
        tracing::info!("stopped");
        End::Stopped
    }

    fn on_halted(&mut self) -> End {
        let reason = halt_reason(self.word());
        self.dump();
        self.service.stopping("halted");
        tracing::error!(reason = reason.name(), "halted");
        match reason {
            Reason::PolicyHung => End::Hung,
            Reason::ProtocolViolation => End::Violated,
            reason => End::Halted(reason),
        }
    }

    /// Writes the latch and the audit line of a halt that latches. Does so once, however often it is called.
    fn keep_the_halt(&mut self) {
        if !is_halted_for_good(self.word()) {
            return;
        }
        if let Err(error) = self.keeper.keep(&self.action_header, self.status.last_sequence()) {
            report_unkept(&error);
        }
    }

    fn drain(&mut self) {
        if self.stop_by.is_some() {
            return;
        }
        self.service.stopping("draining");
        tracing::info!("draining");
        self.commands.request(Command::Drain);
        let timeout = self.reloads.running().config.drain_timeout;
        self.stop_by = Some(MonotonicClock.now().plus(timeout));
    }

    fn status_page(&mut self) -> StatusPage {
        let readings = LiveReadings {
            word: self.word(),
            heartbeat: Nanos(self.action_header.producer_heartbeat_ns()),
            latch: self.latch.read(),
            misses: self.causes.report(),
            overdue: self.overdue.is_some(),
        };
        self.status.page(readings, self.reloads.running(), self.reloads.status(), MonotonicClock.now())
    }

    /// Writes the status file. A failure is only logged: a full disk must not end an agent.
    fn dump(&mut self) {
        let path = self.directory.path().join("status.json");
        match status::write(&path, &self.status_page()) {
            Ok(()) => tracing::info!(path = %path.display(), "status written"),
            Err(error) => tracing::warn!(path = %path.display(), %error, "status not written"),
        }
    }
}
