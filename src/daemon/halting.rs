//! How the supervisor notices a halt, keeps it, and ends the agent.

use super::disk::Writing;
use super::ending::{End, Ending};
use super::supervisor::{Overdue, PERIOD, STOP_GRACE, Supervisor};
use crate::halt::{dismiss_caretaker, latches, prepare_to_end, report_unkept};
use escapement_engine::{Command, RunEnd};
use escapement_ring::clock::{Clock, MonotonicClock, Nanos, wall_clock_ns};
use escapement_ring::ring::Consumer;
use escapement_ring::wire::Reason;
use std::sync::Arc;
use std::time::Duration;

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

impl Supervisor<'_> {
    /// Notices a halt, and keeps it. The engine, the guard and the `halt` command set the state word. A
    /// `halt` command that was killed after its first step has left only a latch.
    pub(super) fn notice_halt(&mut self, now: Nanos, records: &mut Consumer) {
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

    /// The engine has reported how it ended. What it reports decides: a peer may have changed the state word
    /// meanwhile. An earlier halt by another thread or process keeps its reason.
    pub(super) fn on_ended(&mut self, end: RunEnd) -> Ending {
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
    pub(super) fn on_overdue(&mut self, hang: Nanos) {
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

    pub(super) fn check_overdue(&mut self, now: Nanos) {
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
    pub(super) fn clear_overdue(&mut self) {
        if self.overdue.take().is_some() {
            let keeper = Arc::clone(self.keeper);
            self.disk.write("removal of a prepared latch", move || keeper.discard_prepared());
            dismiss_caretaker();
        }
    }

    /// Ends an agent whose policy does not return. If the guard's takeover has halted the agent before, that
    /// reason stays in the latch; the process ends as hung all the same.
    pub(super) fn on_hung(&mut self) -> Ending {
        self.word.halt(Reason::PolicyHung);
        self.abandon_engine();
        Ending { end: End::Hung, abandoned: true }
    }

    /// Ends an agent whose engine's thread does not return. The code that it is in, usually libtorch, cannot
    /// be stopped from outside.
    pub(super) fn abandon_engine(&mut self) -> Ending {
        self.keep_the_halt();
        self.causes.close(MonotonicClock.now());
        tracing::error!("the engine's thread did not end in time; it is abandoned");
        Ending { end: self.on_halted(), abandoned: true }
    }

    pub(super) fn on_stopped(&mut self) -> End {
        self.dump();
        self.flush();
        self.service.stopping("stopped");
        tracing::info!("stopped");
        End::Stopped
    }

    pub(super) fn on_halted(&mut self) -> End {
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
    pub(super) fn keep_the_halt(&mut self) {
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
    pub(super) fn finish_the_latch(&mut self) {
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
    pub(super) fn flush(&mut self) {
        let folded = self.refusals.rest();
        self.audit_refusal(folded);
        if !self.disk.flush(FLUSH_PATIENCE) {
            tracing::error!("the disk does not answer: audit lines or the status file may be missing");
        }
    }
}
