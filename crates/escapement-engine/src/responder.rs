//! The responder: everything that is needed to answer a tick. The engine grants the guard a lease on it while
//! the policy computes.
//!
//! The side that has the responder commits the tick's one action, charges the budgets and sends the tick
//! record. That is the engine between ticks and while it judges, and the guard if a deadline passes before
//! the policy returns.

use super::budget::Budget;
use super::record::TickRecord;
use super::settings::{OnFull, OnMiss, Settings};
use super::verdict::{Findings, InFlight, Verdict};
use crate::telemetry::Counters;
use escapement_ring::clock::Nanos;
use escapement_ring::ring::{Claim, ClaimError, Header, Producer};
use escapement_ring::wire::{ActionFlags, ActionHeader, Outcome, Reason};
use std::sync::Arc;
use zerocopy::IntoBytes;

/// What answers a tick.
pub(super) struct Responder {
    pub(super) actions: Producer,
    pub(super) action_header: Header,
    pub(super) records: Producer,
    pub(super) counters: Arc<Counters>,
    pub(super) settings: Arc<Settings>,
    pub(super) misses: Budget,
    pub(super) errors: Budget,
    /// The revision of the settings.
    pub(super) revision: u32,
    pub(super) epoch: u32,
    /// The tick that is being answered. The engine sets it before it grants the lease.
    pub(super) tick: InFlight,
    /// The fallback policy's action for this tick; unused if there is no fallback.
    pub(super) fallback: Box<[f32]>,
    pub(super) halted: Option<Reason>,
}

impl Responder {
    /// Returns whether an action can be committed.
    ///
    /// A tick claims its action slot twice: here, before the policy is called, and again to commit. A claim
    /// cannot be kept in between, because it borrows the ring's producing side, and the guard needs that side
    /// to answer a late tick. A slot that was free here stays free, because only the side that has the
    /// responder fills it.
    #[inline]
    pub(super) fn has_room(&mut self) -> Result<(), ClaimError> {
        self.actions.try_claim().map(drop)
    }

    /// Commits the policy's own action, which is on time and good. `frame` is already sealed over `action`,
    /// so only the copy is left to do.
    #[inline]
    pub(super) fn send(&mut self, frame: &ActionHeader, action: &[f32], found: &Findings) -> Verdict {
        match self.actions.try_claim() {
            Ok(claim) => commit(claim, frame, action),
            Err(_) => return self.not_committed(),
        }
        self.misses.note(false);
        self.errors.note(false);
        self.account(Verdict::POLICY, found, Nanos(0));
        Verdict::POLICY
    }

    /// Judges a tick whose action may not leave as it is, and commits the action that replaces it.
    pub(super) fn answer(&mut self, found: &Findings) -> Verdict {
        let missed = found.missed(&self.settings);
        let verdict = self.judge(missed, found.refused, found.policy_failed);
        if !self.commit(verdict, found) {
            return self.not_committed();
        }
        self.account(verdict, found, Nanos(0));
        verdict
    }

    #[cold]
    fn not_committed(&mut self) -> Verdict {
        let verdict = Verdict::NOT_COMMITTED;
        self.action_header.halt(verdict.reason.number().into());
        self.halted = Some(verdict.reason);
        verdict
    }

    /// Answers in place of an engine whose policy has not returned by the deadline. `done` reads the clock
    /// after the commit.
    pub(super) fn take_over(&mut self, now: Nanos, done: impl FnOnce() -> Nanos) -> Verdict {
        let deadlines = self.settings.deadlines;
        let mut flags = self.tick.flags;
        // Not yet called while the fallback computes.
        let was_called = self.tick.called != Nanos(0);
        if was_called && deadlines.inference_is_late(self.tick.called, now) {
            flags |= ActionFlags::INFERENCE_LATE;
        }
        if deadlines.end_to_end_is_late(self.tick.peeked, now) {
            flags |= ActionFlags::END_TO_END_LATE;
        }
        let inference_ns = if was_called { now.since(self.tick.called).0 } else { 0 };
        let found = Findings::nothing_wrong(flags, inference_ns, now);
        let verdict = self.judge(Some(Reason::GuardTakeover), None, false);
        if !self.commit(verdict, &found) {
            return self.not_committed();
        }
        self.account(verdict, &found, done());
        verdict
    }

    /// Charges the budgets and returns the verdict. If there are two reasons, it reports the one that came
    /// first.
    fn judge(&mut self, missed: Option<Reason>, refused: Option<Reason>, policy_failed: bool) -> Verdict {
        let misses_exceeded = self.misses.note(missed.is_some());
        let errors_exceeded = self.errors.note(policy_failed);
        if refused == Some(Reason::ClockFault) {
            // Neither deadline can be measured any more.
            return Verdict { outcome: Outcome::Halt, reason: Reason::ClockFault };
        }
        match missed {
            Some(reason) if misses_exceeded && self.settings.on_miss == OnMiss::Halt => {
                return Verdict { outcome: Outcome::Halt, reason };
            }
            _ if policy_failed && errors_exceeded => {
                return Verdict { outcome: Outcome::Halt, reason: Reason::ErrorBudget };
            }
            _ => {}
        }
        let Some(reason) = refused.or(missed) else { return Verdict::POLICY };
        // The fallback replaces a policy that failed or was late. If the observation itself was refused, the
        // fallback's answer to it is not usable either.
        let fallback_answers = self.tick.fallback_is_good && (missed.is_some() || policy_failed);
        let outcome = if fallback_answers { Outcome::Fallback } else { Outcome::SafeDefault };
        Verdict { outcome, reason }
    }

    /// Commits the action of this verdict. Returns false if there was no slot for it.
    fn commit(&mut self, verdict: Verdict, found: &Findings) -> bool {
        let payload = match verdict.outcome {
            Outcome::Fallback => &self.fallback,
            Outcome::Halt => &self.settings.neutral,
            Outcome::Policy | Outcome::SafeDefault => &self.settings.safe_default,
        };
        if verdict.outcome == Outcome::Halt {
            // The state word first: a gateway that reads it before each send stops at once.
            self.action_header.halt(verdict.reason.number().into());
            self.halted = Some(verdict.reason);
        }
        let frame = self.tick.frame(verdict, found, self.revision, self.epoch).sealed(payload);
        match self.actions.try_claim() {
            Ok(claim) => commit(claim, &frame, payload),
            Err(_) => return false,
        }
        true
    }

    #[inline]
    fn account(&mut self, verdict: Verdict, found: &Findings, done: Nanos) {
        self.counters.count_action(verdict.outcome, verdict.reason);
        if found.flags != 0 {
            self.count_flags(found.flags);
        }
        let record = TickRecord {
            outcome: verdict.outcome.number(),
            reason: verdict.reason.number(),
            ts_done_ns: done.0,
            ..self.tick.record(found, self.revision)
        };
        record.send(&mut self.records, &self.counters);
    }

    fn count_flags(&self, flags: u32) {
        if flags & ActionFlags::INFERENCE_LATE != 0 {
            self.counters.count_inference_late();
        }
        if flags & ActionFlags::END_TO_END_LATE != 0 {
            self.counters.count_end_to_end_late();
        }
        if flags & ActionFlags::STALE != 0 {
            self.counters.count_stale();
        }
        if flags & ActionFlags::GAP != 0 {
            self.counters.count_sequence_gap();
        }
    }

    /// Discards the result of a policy that returned after the guard had answered, and records how long it
    /// took.
    #[cold]
    pub(super) fn discard(&mut self, inference_ns: u64, at: Nanos) {
        self.counters.count_discarded();
        let found = Findings::nothing_wrong(0, inference_ns, at);
        let record = TickRecord {
            reason: Reason::GuardTakeover.number(),
            skipped_before: 0,
            ..self.tick.record(&found, self.revision)
        };
        record.send(&mut self.records, &self.counters);
    }

    /// Records that the observation was skipped, because the gateway has left no room for an action. Returns
    /// the reason if the agent must halt for it.
    #[cold]
    pub(super) fn skip(&mut self) -> Result<(), Reason> {
        self.counters.count_skipped(1);
        let found = Findings::nothing_wrong(0, 0, self.tick.peeked);
        let record =
            TickRecord { reason: Reason::ActionRingFull.number(), ..self.tick.record(&found, self.revision) };
        record.send(&mut self.records, &self.counters);
        match self.settings.on_full {
            OnFull::Drop => Ok(()),
            OnFull::Halt => Err(Reason::ActionRingFull),
        }
    }
}

/// Writes a sealed frame into the slot and commits it to the gateway.
#[inline]
fn commit(mut claim: Claim<'_>, frame: &ActionHeader, payload: &[f32]) {
    claim.write(ActionHeader::BYTES, payload.as_bytes());
    claim.write(0, frame.as_bytes());
    claim.commit();
}
