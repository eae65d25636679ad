//! The action frame: what the agent commits, and what the order gateway reads.

use super::{checksum, payload_bytes, slot_size};
use core::mem::{offset_of, size_of};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Header of an action frame; `f32[dimension]` follows it.
///
/// ```text
///  0               8               16              24              32
/// +---------------+---------------+---------------+---------------+
/// | sequence      | position      | ts_event_ns   | ts_publish_ns |
/// +---------------+---------------+---------------+---------------+
///  32              40              48              56      60    62    64
/// +---------------+---------------+---------------+-------+-----+-----+
/// | ts_commit_ns  | inference_ns  | queue_ns      | epoch | out | rsn |
/// +---------------+---------------+---------------+-------+-----+-----+
///  64      68      72      76      80
/// +---------------+-------+-------+-------------
/// | gen   | rsv   | flags | crc   | f32[dim] ...
/// +---------------+-------+-------+-------------
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ActionHeader {
    /// The `sequence` of the observation that this action answers.
    pub sequence: u64,
    /// The position of that observation in the observation ring. It only grows, also across restarts of
    /// either side. Recovery and ledgers use it: a jump of more than one is a run of skipped observations.
    pub position: u64,
    /// Copied from the observation.
    pub ts_event_ns: u64,
    /// Copied from the observation.
    pub ts_publish_ns: u64,
    /// The time of the verdict, just before this frame was committed, on `CLOCK_MONOTONIC`.
    pub ts_commit_ns: u64,
    /// From the policy's call to its return, or to the takeover by the guard. Zero if the policy was not
    /// called.
    pub inference_ns: u64,
    /// From the observation's commit to its peek.
    pub queue_ns: u64,
    /// The number of the daemon's start on this ring, from 1.
    pub epoch: u32,
    /// A number of [`super::Outcome`].
    pub outcome: u16,
    /// A number of [`super::Reason`].
    pub reason: u16,
    /// The revision of the settings that the tick used: 1 at the daemon's start, one more after each reload.
    pub generation: u32,
    /// Zero. Readers ignore it.
    pub reserved: u32,
    /// Bits of [`ActionFlags`].
    pub flags: u32,
    /// CRC-32C of bytes 0..76 and the payload.
    pub checksum: u32,
}

/// Bits of [`ActionHeader::flags`]: what was measured, enforced or not. Numbers are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActionFlags;

impl ActionFlags {
    /// The inference took longer than its deadline.
    pub const INFERENCE_LATE: u32 = 1;
    /// Peek to commit took longer than the end-to-end deadline.
    pub const END_TO_END_LATE: u32 = 2;
    /// The observation was older than the maximum age when it was peeked.
    pub const STALE: u32 = 4;
    /// The observation's sequence did not follow the previous one.
    pub const GAP: u32 = 8;
}

impl ActionHeader {
    /// The size of the header, which is also the payload's offset in the slot, in bytes.
    pub const BYTES: usize = size_of::<Self>();

    /// The size in bytes of a slot for actions of `dimension` elements.
    #[inline]
    pub const fn slot_size(dimension: usize) -> usize {
        slot_size(Self::BYTES, dimension)
    }

    /// Returns this header with its checksum set, computed over the header and `payload`.
    #[must_use]
    #[inline]
    pub fn sealed(mut self, payload: &[f32]) -> Self {
        self.checksum = self.computed_checksum(payload);
        self
    }

    /// Returns whether the checksum matches header and payload.
    #[inline]
    pub fn is_whole(&self, payload: &[f32]) -> bool {
        self.checksum == self.computed_checksum(payload)
    }

    #[inline]
    fn computed_checksum(&self, payload: &[f32]) -> u32 {
        checksum(&self.as_bytes()[..offset_of!(Self, checksum)], payload_bytes(payload))
    }
}

const _: () = {
    assert!(size_of::<ActionHeader>() == 80);
    assert!(offset_of!(ActionHeader, sequence) == 0);
    assert!(offset_of!(ActionHeader, position) == 8);
    assert!(offset_of!(ActionHeader, ts_event_ns) == 16);
    assert!(offset_of!(ActionHeader, ts_publish_ns) == 24);
    assert!(offset_of!(ActionHeader, ts_commit_ns) == 32);
    assert!(offset_of!(ActionHeader, inference_ns) == 40);
    assert!(offset_of!(ActionHeader, queue_ns) == 48);
    assert!(offset_of!(ActionHeader, epoch) == 56);
    assert!(offset_of!(ActionHeader, outcome) == 60);
    assert!(offset_of!(ActionHeader, reason) == 62);
    assert!(offset_of!(ActionHeader, generation) == 64);
    assert!(offset_of!(ActionHeader, reserved) == 68);
    assert!(offset_of!(ActionHeader, flags) == 72);
    assert!(offset_of!(ActionHeader, checksum) == 76);
};
