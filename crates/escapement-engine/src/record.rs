//! The record of one tick, which the engine sends to the supervisor through a ring inside the process.

use crate::telemetry::Counters;
use escapement_ring::ring::{Consumer, HeapRegion, Producer, Spec};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What happened in one tick. Instants are on `CLOCK_MONOTONIC`, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TickRecord {
    /// The observation's sequence.
    pub sequence: u64,
    /// Its position in the observation ring.
    pub position: u64,
    /// When it happened at the venue (wall clock).
    pub ts_event_ns: u64,
    /// When the feed committed it.
    pub ts_publish_ns: u64,
    /// When the engine peeked it.
    pub ts_peek_ns: u64,
    /// When the policy was called; zero if it was not.
    pub ts_called_ns: u64,
    /// The instant of the verdict.
    pub ts_commit_ns: u64,
    /// When the guard had committed; zero if the engine committed.
    pub ts_done_ns: u64,
    /// The instant after which this tick was late; zero if nothing is enforced.
    pub deadline_ns: u64,
    /// From the policy's call to its return; zero if it was not called.
    pub inference_ns: u64,
    /// When the dry run began that ended just before the peek; zero if there was none.
    pub dry_begun_ns: u64,
    /// When it ended; zero if there was none.
    pub dry_ended_ns: u64,
    /// The number of observations skipped just before this one.
    pub skipped_before: u64,
    /// Number of the outcome; zero if there was no action.
    pub outcome: u16,
    /// Number of the reason.
    pub reason: u16,
    /// Bits of [`escapement_ring::wire::ActionFlags`].
    pub flags: u32,
    /// The revision of the settings that the tick used: 1 at the start, one more after each reload.
    pub revision: u32,
    /// Zero: the record has no padding.
    pub reserved: u32,
}

const RECORD_BYTES: usize = size_of::<TickRecord>();

/// Creates a ring of `capacity` records, which must be a power of two, and returns its two ends.
///
/// # Panics
/// Panics if the ring does not allow this capacity.
pub fn record_ring(capacity: u64) -> (Producer, Consumer) {
    let slot_size = RECORD_BYTES.next_multiple_of(64) as u32;
    let spec = Spec { kind: 0, slot_size, dimension: slot_size / 4, capacity, generation: 0 };
    let (_, producer, consumer) = HeapRegion::both_ends(spec).expect("the ring allows this capacity");
    (producer, consumer)
}

impl TickRecord {
    /// Sends the record. Counts it as lost if the supervisor has left no room.
    #[inline]
    pub(super) fn send(&self, records: &mut Producer, counters: &Counters) {
        match records.try_claim() {
            Ok(mut claim) => {
                claim.write(0, self.as_bytes());
                claim.commit();
            }
            Err(_) => counters.count_record_lost(),
        }
    }

    /// Takes the oldest record out of the ring, or returns `None` if there is none.
    pub fn take(records: &mut Consumer) -> Option<Self> {
        let peek = records.peek().ok()??;
        let mut record = Self::default();
        peek.read(0, record.as_mut_bytes());
        peek.release();
        Some(record)
    }
}
