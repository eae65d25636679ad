//! What is known of one tick, from the peek to the verdict, and the frame and the record that are made of it.

use super::keep_warm::DrySpan;
use super::record::TickRecord;
use super::settings::Settings;
use escapement_ring::clock::Nanos;
use escapement_ring::wire::{ActionFlags, ActionHeader, ObservationHeader, Outcome, Reason};

/// What is known of a tick before its policy is called: enough for the guard to answer it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct InFlight {
    pub(super) observation: ObservationHeader,
    /// Position in the observation ring.
    pub(super) position: u64,
    pub(super) peeked: Nanos,
    /// Zero if the policy was not called.
    pub(super) called: Nanos,
    /// Zero if nothing is enforced.
    pub(super) deadline: Nanos,
    pub(super) skipped: u64,
    pub(super) flags: u32,
    /// The dry run that ended just before the peek, if there was one.
    pub(super) dry_before: DrySpan,
    /// True if the fallback policy's action may be sent.
    pub(super) fallback_is_good: bool,
}

/// What a tick has found out by the time it is judged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Findings {
    /// Why the policy's action may not leave. Lateness is not part of it.
    pub(super) refused: Option<Reason>,
    /// True if the policy itself is the cause.
    pub(super) policy_failed: bool,
    /// Bits of [`ActionFlags`], including lateness.
    pub(super) flags: u32,
    /// From the policy's call to its return.
    pub(super) inference_ns: u64,
    /// The instant of the verdict.
    pub(super) at: Nanos,
}

/// A tick's outcome and its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) outcome: Outcome,
    pub(super) reason: Reason,
}

impl Verdict {
    pub(super) const POLICY: Self = Self { outcome: Outcome::Policy, reason: Reason::None };
    /// There was room for the action before the policy was called, and there is none now: the gateway's
    /// position went back.
    pub(super) const NOT_COMMITTED: Self = Self { outcome: Outcome::Halt, reason: Reason::ProtocolViolation };
}

impl InFlight {
    /// Returns the frame of this tick's action, without its checksum.
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

    /// Returns the record of this tick. The caller fills in the outcome.
    #[inline]
    pub(super) fn record(&self, found: &Findings, revision: u32) -> TickRecord {
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
            dry_begun_ns: self.dry_before.begun.0,
            dry_ended_ns: self.dry_before.ended.0,
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
    /// Returns the findings of a tick in which nothing was found wrong.
    #[inline]
    pub(super) fn nothing_wrong(flags: u32, inference_ns: u64, at: Nanos) -> Self {
        Self { refused: None, policy_failed: false, flags, inference_ns, at }
    }

    /// Returns which deadline this tick missed, or `None` if it missed none or nothing is enforced. A late
    /// tick is a miss even if something else was wrong with it too.
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
