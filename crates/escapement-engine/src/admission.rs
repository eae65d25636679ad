//! Admission: which observations reach the policy.

use super::checks::all_finite;
use super::settings::{OnGap, Settings};
use escapement_ring::clock::Nanos;
use escapement_ring::wire::{ActionFlags, ObservationFlags, ObservationHeader, Reason};

/// Follows the feed's sequence numbers, and refuses what the policy must not see.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Admission {
    /// Sequence and ring position of the last observation that was followed.
    last: Option<(u64, u64)>,
}

impl Admission {
    /// Creates an admission that continues from an observation answered before a restart.
    pub(super) fn resumed(last: Option<(u64, u64)>) -> Self {
        Self { last }
    }

    /// Returns why the policy must not see this observation, or `None` if it may. Sets the flags that go into
    /// the action.
    #[inline]
    pub(super) fn admit(
        &mut self,
        settings: &Settings,
        frame: &Frame<'_>,
        peeked: Nanos,
        flags: &mut u32,
    ) -> Option<Reason> {
        if !frame.header.is_whole(frame.payload) {
            // Nothing in a torn frame can be relied on, not even its sequence number.
            return Some(Reason::ObservationTorn);
        }
        let sequence_break = self.follow(frame);
        if sequence_break.is_some() {
            *flags |= ActionFlags::GAP;
        }
        if settings.deadlines.is_stale(Nanos(frame.header.ts_publish_ns), peeked) {
            *flags |= ActionFlags::STALE;
        }
        if !all_finite(frame.payload) {
            return Some(Reason::ObservationNonFinite);
        }
        if !settings.observation_bounds.contain(frame.payload) {
            return Some(Reason::ObservationOutOfRange);
        }
        if sequence_break.is_some() && settings.on_gap == OnGap::SafeDefault {
            return sequence_break;
        }
        (settings.enforce && *flags & ActionFlags::STALE != 0).then_some(Reason::Stale)
    }

    /// Compares how far the sequence moved with how far the position moved, so that observations which this
    /// side skipped on purpose are not reported as a gap. A feed that restarted within a skipped stretch
    /// still shows as a break, because its restart flag was never read.
    #[inline]
    fn follow(&mut self, frame: &Frame<'_>) -> Option<Reason> {
        let sequence = frame.header.sequence;
        let last = self.last.replace((sequence, frame.position));
        let (last_sequence, last_position) = last?;
        if frame.header.flags & ObservationFlags::RESTART != 0 {
            return None;
        }
        let moved = frame.position.wrapping_sub(last_position);
        let due = last_sequence.wrapping_add(moved);
        if sequence == due {
            None
        } else if sequence == last_sequence {
            Some(Reason::SequenceDuplicate)
        } else if sequence > due {
            Some(Reason::SequenceGap)
        } else {
            // Lower than the last number, or, if observations were skipped, lower than the number that was
            // due. In the second case numbers were repeated among the skipped ones, and none is missing.
            Some(Reason::SequenceReordered)
        }
    }
}

/// One observation, copied out of the ring.
pub(super) struct Frame<'a> {
    pub(super) header: ObservationHeader,
    pub(super) payload: &'a [f32],
    pub(super) position: u64,
}
