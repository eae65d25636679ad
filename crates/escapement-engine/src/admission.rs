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
    /// The ring positions of the last breaks that a restart has excused, as a ring of their own; each plus
    /// one, and zero for none.
    excused: [u64; RESTARTS],
    next_excuse: usize,
}

/// How many breaks restarts may excuse among the last [`RESTART_WINDOW`] positions. A feed that restarts in
/// earnest needs far more than a hundred observations for each restart.
const RESTARTS: usize = 8;
const RESTART_WINDOW: u64 = 1024;

impl Admission {
    /// Creates an admission that continues from an observation answered before a restart.
    pub(super) fn resumed(last: Option<(u64, u64)>) -> Self {
        Self { last, ..Self::default() }
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
        if frame.header.ts_publish_ns > peeked.plus(settings.max_skew).0 {
            // First of all, so that it is always named: the age limit can say nothing about such a stamp.
            flag_gap(sequence_break, flags);
            return Some(Reason::StampedAhead);
        }
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

    /// Returns whether this frame's restart flag excuses a break, and counts it. A feed that sets the flag on
    /// every frame must not silence the sequence checks, so it excuses only some.
    #[cold]
    fn restart_excuses(&mut self, frame: &Frame<'_>) -> bool {
        if frame.header.flags & ObservationFlags::RESTART == 0 {
            return false;
        }
        let oldest = &mut self.excused[self.next_excuse];
        if *oldest != 0 && frame.position.wrapping_sub(*oldest - 1) < RESTART_WINDOW {
            return false;
        }
        *oldest = frame.position + 1;
        self.next_excuse = (self.next_excuse + 1) % RESTARTS;
        true
    }

    /// Compares how far the sequence moved with how far the position moved, so that observations which this
    /// side skipped on purpose are not reported as a gap. A feed that restarted within a skipped stretch
    /// still shows as a break, because its restart flag was never read.
    #[inline]
    fn follow(&mut self, frame: &Frame<'_>) -> Option<Reason> {
        let sequence = frame.header.sequence;
        let last = self.last.replace((sequence, frame.position));
        let (last_sequence, last_position) = last?;
        let moved = frame.position.wrapping_sub(last_position);
        let due = last_sequence.wrapping_add(moved);
        if sequence == due || self.restart_excuses(frame) {
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

#[cold]
fn flag_gap(sequence_break: Option<Reason>, flags: &mut u32) {
    if sequence_break.is_some() {
        *flags |= ActionFlags::GAP;
    }
}

/// One observation, copied out of the ring.
pub(super) struct Frame<'a> {
    pub(super) header: ObservationHeader,
    pub(super) payload: &'a [f32],
    pub(super) position: u64,
}
