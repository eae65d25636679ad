//! The observation frame: what a feed handler commits.

use super::{checksum, payload_bytes, slot_size};
use core::mem::{offset_of, size_of};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Header of an observation frame; `f32[dimension]` follows it.
///
/// ```text
///  0               8               16              24      28      32
/// +---------------+---------------+---------------+-------+-------+-------------
/// | sequence      | ts_event_ns   | ts_publish_ns | flags | crc   | f32[dim] ...
/// +---------------+---------------+---------------+-------+-------+-------------
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ObservationHeader {
    /// The feed's own number: one more than the previous observation's. Never a ring position.
    pub sequence: u64,
    /// The time of the event at the venue, in nanoseconds since the Unix epoch. Copied through, never used in
    /// a deadline.
    pub ts_event_ns: u64,
    /// The time of the feed's commit on `CLOCK_MONOTONIC`, in nanoseconds.
    pub ts_publish_ns: u64,
    /// Bits of [`ObservationFlags`].
    pub flags: u32,
    /// CRC-32C of bytes 0..28 and the payload. Valid only with [`ObservationFlags::CHECKED`].
    pub checksum: u32,
}

/// Bits of [`ObservationHeader::flags`]. Numbers are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObservationFlags;

impl ObservationFlags {
    /// `checksum` holds the frame's CRC-32C, and the agent verifies it.
    pub const CHECKED: u32 = 1;
    /// The first observation of a feed that has just started: its `sequence` need not follow the previous
    /// one.
    pub const RESTART: u32 = 2;
}

impl ObservationHeader {
    /// The size of the header, which is also the payload's offset in the slot, in bytes.
    pub const BYTES: usize = size_of::<Self>();

    /// The size in bytes of a slot for observations of `dimension` elements.
    #[inline]
    pub const fn slot_size(dimension: usize) -> usize {
        slot_size(Self::BYTES, dimension)
    }

    /// Returns this header with its checksum and [`ObservationFlags::CHECKED`] set.
    #[must_use]
    #[inline]
    pub fn sealed(mut self, payload: &[f32]) -> Self {
        self.flags |= ObservationFlags::CHECKED;
        self.checksum = self.computed_checksum(payload);
        self
    }

    /// Returns whether the checksum matches. Also true if the frame has no checksum.
    #[inline]
    pub fn is_whole(&self, payload: &[f32]) -> bool {
        self.flags & ObservationFlags::CHECKED == 0 || self.checksum == self.computed_checksum(payload)
    }

    #[inline]
    fn computed_checksum(&self, payload: &[f32]) -> u32 {
        checksum(&self.as_bytes()[..offset_of!(Self, checksum)], payload_bytes(payload))
    }
}

const _: () = {
    assert!(size_of::<ObservationHeader>() == 32);
    assert!(offset_of!(ObservationHeader, sequence) == 0);
    assert!(offset_of!(ObservationHeader, ts_event_ns) == 8);
    assert!(offset_of!(ObservationHeader, ts_publish_ns) == 16);
    assert!(offset_of!(ObservationHeader, flags) == 24);
    assert!(offset_of!(ObservationHeader, checksum) == 28);
};
