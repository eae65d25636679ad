//! The responder: everything that answers a tick, and the right to which the engine lends to the guard while the policy
//! computes.
//!
//! Who has the right commits the tick's one action, charges the budgets and hands the record on. The engine has it between
//! ticks and while it judges; the guard gets it where a deadline passes before the policy returns.

use super::budget::Budget;
use super::record::TickRecord;
use super::settings::{OnFull, OnMiss, Settings};
use crate::telemetry::Counters;
use escapement_ring::clock::Nanos;
use escapement_ring::ring::{Claim, ClaimError, Header, Producer};
use escapement_ring::wire::{ActionFlags, ActionHeader, ObservationHeader, Outcome, Reason};
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
    pub(super) revision: u32,
    pub(super) epoch: u32,
    /// The tick that is being answered; set before the right to the responder is lent.
    pub(super) tick: InFlight,
    /// What the fallback policy answered to it; empty where there is none.
    pub(super) fallback: Box<[f32]>,
    pub(super) halted: Option<Reason>,
}

/// What is known of a tick before its policy is called: enough for someone else to answer it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct InFlight {
    pub(super) observation: ObservationHeader,
    /// Position in the observation ring.
    pub(super) position: u64,
    pub(super) peeked: Nanos,
    /// Zero where the policy was not called.
    pub(super) called: Nanos,
    /// Zero where nothing is enforced.
    pub(super) deadline: Nanos,
    pub(super) skipped: u64,
    pub(super) flags: u32,
    /// Whether the fallback policy's action may be sent.
    pub(super) fallback_is_good: bool,
}

/// What a tick has found, before it is judged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Findings {
    /// Why the policy's action may not leave, lateness apart.
    pub(super) refused: Option<Reason>,
    /// Whether that is the policy's own fault.
    pub(super) policy_failed: bool,
    /// Bits of [`ActionFlags`], lateness included.
    pub(super) flags: u32,
    /// Policy called to policy returned.
    pub(super) inference_ns: u64,
    /// When the verdict fell.
    pub(super) at: Nanos,
}

/// A tick's outcome, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) outcome: Outcome,
    pub(super) reason: Reason,
}

impl Verdict {
    pub(super) const POLICY: Self = Self { outcome: Outcome::Policy, reason: Reason::None };
    /// There was room for the action, and there is none any more: the gateway's position went back.
    pub(super) const NOT_COMMITTED: Self = Self { outcome: Outcome::Halt, reason: Reason::ProtocolViolation };
}

impl InFlight {
    /// The frame of this tick's action, not sealed yet.
    #[inline]
    pub(super) fn frame(
        &self,
        verdict: Verdict,
        found: &Findings,
        revision: u32,
        epoch: u32,
    ) -> ActionHeader {
        ActionHeader {
            sequence: self.observation.sequence,
            position: self.position,
            ts_event_ns: self.observation.ts_event_ns,
            ts_publish_ns: self.observation.ts_publish_ns,
            ts_commit_ns: found.at.0,
            inference_ns: found.inference_ns,
            queue_ns: self.peeked.since(Nanos(self.observation.ts_publish_ns)).0,
            epoch,
            outcome: verdict.outcome.number(),
            reason: verdict.reason.number(),
            generation: revision,
            reserved: 0,
            flags: found.flags,
            checksum: 0,
        }
    }

    /// The record of this tick; its outcome is still to be filled in.
    #[inline]
    fn record(&self, found: &Findings, revision: u32) -> TickRecord {
        TickRecord {
            sequence: self.observation.sequence,
            position: self.position,
            ts_event_ns: self.observation.ts_event_ns,
            ts_publish_ns: self.observation.ts_publish_ns,
            ts_peek_ns: self.peeked.0,
            ts_called_ns: self.called.0,
            ts_commit_ns: found.at.0,
            ts_done_ns: 0,
            deadline_ns: self.deadline.0,
            inference_ns: found.inference_ns,
            skipped_before: self.skipped,
            outcome: 0,
            reason: 0,
            flags: found.flags,
            revision,
            reserved: 0,
        }
    }
}

impl Findings {
    /// The deadline that this tick missed, as far as it is enforced. A late tick is a miss whatever else was wrong with it.
    #[inline]
    pub(super) fn missed(&self, settings: &Settings) -> Option<Reason> {
        if !settings.enforce {
            None
        } else if self.flags & ActionFlags::INFERENCE_LATE != 0 {
            Some(Reason::InferenceLate)
        } else if self.flags & ActionFlags::END_TO_END_LATE != 0 {
            Some(Reason::EndToEndLate)
        } else {
            None
        }
    }
}

impl Responder {
    /// Whether an action can be committed. What is found free stays free: this side alone fills it.
    #[inline]
    pub(super) fn has_room(&mut self) -> Result<(), ClaimError> {
        self.actions.try_claim().map(drop)
    }

    /// Commits the policy's own action, which is on time and good. `frame` is sealed over `action`: everything that takes
    /// time was done before the right to commit was won.
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

    /// Judges a tick whose action does not leave as it is, and commits what does instead.
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

    /// Answers for an engine whose policy has not returned by the deadline. `done` reads the clock once the action is
    /// out.
    pub(super) fn take_over(&mut self, now: Nanos, done: impl FnOnce() -> Nanos) -> Verdict {
        let deadlines = self.settings.deadlines;
        let mut flags = self.tick.flags;
        // Zero while the fallback computes.
        let was_called = self.tick.called != Nanos(0);
        if was_called && deadlines.inference_is_late(self.tick.called, now) {
            flags |= ActionFlags::INFERENCE_LATE;
        }
        if deadlines.end_to_end_is_late(self.tick.peeked, now) {
            flags |= ActionFlags::END_TO_END_LATE;
        }
        let inference_ns = if was_called { now.since(self.tick.called).0 } else { 0 };
        let found = Findings { refused: None, policy_failed: false, flags, inference_ns, at: now };
        let verdict = self.judge(Some(Reason::GuardTakeover), None, false);
        if !self.commit(verdict, &found) {
            return self.not_committed();
        }
        self.account(verdict, &found, done());
        verdict
    }

    /// Charges the budgets and finds the outcome. Between two reasons the one that was there first is reported.
    fn judge(&mut self, missed: Option<Reason>, refused: Option<Reason>, policy_failed: bool) -> Verdict {
        let misses_exceeded = self.misses.note(missed.is_some());
        let errors_exceeded = self.errors.note(policy_failed);
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
        // The fallback stands in for a policy that failed. Where the observation itself is not to be believed, it is no better.
        let stands_in = self.tick.fallback_is_good && (missed.is_some() || policy_failed);
        let outcome = if stands_in { Outcome::Fallback } else { Outcome::SafeDefault };
        Verdict { outcome, reason }
    }

    /// False where nothing was committed.
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

    /// The policy has returned after the guard answered for it: its result is discarded, and how long it took is put on
    /// record.
    #[cold]
    pub(super) fn discard(&mut self, inference_ns: u64, at: Nanos) {
        self.counters.count_discarded();
        let found = Findings { refused: None, policy_failed: false, flags: 0, inference_ns, at };
        let record = TickRecord {
            reason: Reason::GuardTakeover.number(),
            skipped_before: 0,
            ..self.tick.record(&found, self.revision)
        };
        record.send(&mut self.records, &self.counters);
    }

    /// The gateway does not drain: the observation ends as a skip. Says whether the agent goes on.
    #[cold]
    pub(super) fn no_room(&mut self) -> Result<(), Reason> {
        self.counters.count_skipped(1);
        let found =
            Findings { refused: None, policy_failed: false, flags: 0, inference_ns: 0, at: self.tick.peeked };
        let record =
            TickRecord { reason: Reason::ActionRingFull.number(), ..self.tick.record(&found, self.revision) };
        record.send(&mut self.records, &self.counters);
        match self.settings.on_full {
            OnFull::Drop => Ok(()),
            OnFull::Halt => Err(Reason::ActionRingFull),
        }
    }
}

/// Writes a sealed frame and hands it to the gateway.
#[inline]
fn commit(mut claim: Claim<'_>, frame: &ActionHeader, payload: &[f32]) {
    claim.write(ActionHeader::BYTES, payload.as_bytes());
    claim.write(0, frame.as_bytes());
    claim.commit();
}
