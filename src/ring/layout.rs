//! The region's bytes, apart from the algorithm: header fields, offsets, and the checks made when one is opened.
//!
//! ```text
//!    0  magic "ESCPRING"      8  layout_version u32   12  kind u32
//!   16  slot_size u32        20  dtype u32            24  dimension u32    28  data_offset u32
//!   32  capacity u64         40  generation u64       48  reserved, zero   60  header_checksum u32
//!  128  producer_position u64
//!  256  consumer_position u64
//!  384  producer_heartbeat_ns u64
//!  512  consumer_heartbeat_ns u64
//!  640  state u64 (low half: state, high half: reason)
//!  648  epoch u64           656  bundle_hash [u8; 32]
//! 4096  slots
//! ```
//! Words that different sides write stand 128 bytes apart: the processor prefetches lines in pairs.

use super::memory::Region;
use crate::sync::Ordering;
use core::ptr::NonNull;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// The layout this code writes, and the only one it reads.
pub const LAYOUT_VERSION: u32 = 1;
/// The smallest number of slots.
pub const MIN_CAPACITY: u64 = 2;
/// The largest number of slots.
pub const MAX_CAPACITY: u64 = 1 << 20;

pub(super) const DATA_OFFSET: usize = 4096;
pub(super) const PRODUCER_POSITION: usize = 128;
pub(super) const CONSUMER_POSITION: usize = 256;
const PRODUCER_HEARTBEAT: usize = 384;
const CONSUMER_HEARTBEAT: usize = 512;
const STATE: usize = 640;
const EPOCH: usize = 648;
const BUNDLE_HASH: usize = 656;

const MAGIC: [u8; 8] = *b"ESCPRING";
const DTYPE_F32: u32 = 1;
/// The largest slot, in bytes.
pub const MAX_SLOT_SIZE: u32 = 1 << 16;

/// What distinguishes one ring from another: fixed when it is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// What the frames are; a number of the `wire` module's.
    pub kind: u32,
    /// Bytes of one slot; a multiple of 64.
    pub slot_size: u32,
    /// Elements of the frame's payload.
    pub dimension: u32,
    /// Number of slots; a power of two.
    pub capacity: u64,
    /// Tells one incarnation of the region from the next: the wall clock, in nanoseconds, when it was laid out.
    pub generation: u64,
}

/// Why bytes are not a ring that this code can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The region is smaller or larger than its header says.
    #[error("the region has {found} bytes, its layout takes {expected}")]
    Size {
        /// Bytes there are.
        found: u64,
        /// Bytes there should be.
        expected: u64,
    },
    /// The first eight bytes are not the magic.
    #[error("not a ring: the region does not begin with ESCPRING")]
    Magic,
    /// Another version of the layout.
    #[error("layout version {found}, this program reads {LAYOUT_VERSION}")]
    Version {
        /// The version in the header.
        found: u32,
    },
    /// The header's own checksum does not match it.
    #[error("the header is damaged: its checksum does not match")]
    Checksum,
    /// A field holds what it must not.
    #[error("{field} is {found}; allowed: {allowed}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// What it holds.
        found: u64,
        /// What it may hold.
        allowed: &'static str,
    },
}

impl Spec {
    /// Bytes of a region that holds this ring.
    pub fn region_bytes(&self) -> usize {
        DATA_OFFSET + self.capacity as usize * self.slot_size as usize
    }

    pub(super) fn check(&self) -> Result<(), LayoutError> {
        let field = |field, found, allowed| Err(LayoutError::Field { field, found, allowed });
        if !self.capacity.is_power_of_two() || !(MIN_CAPACITY..=MAX_CAPACITY).contains(&self.capacity) {
            return field("capacity", self.capacity, "a power of two from 2 to 1048576");
        }
        if self.slot_size == 0 || !self.slot_size.is_multiple_of(64) || self.slot_size > MAX_SLOT_SIZE {
            return field("slot_size", self.slot_size.into(), "a multiple of 64 from 64 to 65536");
        }
        if self.dimension == 0 || self.dimension as usize * 4 > self.slot_size as usize {
            return field("dimension", self.dimension.into(), "1 up to what the slot holds");
        }
        Ok(())
    }
}

/// The immutable part of the header page, as it lies in memory.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct FixedHeader {
    magic: [u8; 8],
    layout_version: u32,
    kind: u32,
    slot_size: u32,
    dtype: u32,
    dimension: u32,
    data_offset: u32,
    capacity: u64,
    generation: u64,
    reserved: [u8; 12],
    checksum: u32,
}

const FIXED_BYTES: usize = core::mem::size_of::<FixedHeader>();
const CHECKED_BYTES: usize = core::mem::offset_of!(FixedHeader, checksum);
const _: () = assert!(FIXED_BYTES == 64 && CHECKED_BYTES == 60);

pub(super) fn write_header(base: NonNull<u8>, spec: &Spec) {
    let mut header = FixedHeader {
        magic: MAGIC,
        layout_version: LAYOUT_VERSION,
        kind: spec.kind,
        slot_size: spec.slot_size,
        dtype: DTYPE_F32,
        dimension: spec.dimension,
        data_offset: DATA_OFFSET as u32,
        capacity: spec.capacity,
        generation: spec.generation,
        reserved: [0; 12],
        checksum: 0,
    };
    header.checksum = crc32c::crc32c(&header.as_bytes()[..CHECKED_BYTES]);
    // SAFETY: the caller's backing holds at least a header page, writable. No other process sees the region yet: it
    // gets its name only after it is laid out.
    unsafe { base.as_ptr().cast::<[u8; FIXED_BYTES]>().write(zerocopy::transmute!(header)) };
}

pub(super) fn read_header(base: NonNull<u8>) -> Result<Spec, LayoutError> {
    let mut header = FixedHeader::new_zeroed();
    // SAFETY: the caller's backing holds at least a header page. The peer may write at any time, so the bytes are
    // copied by volatile reads and only the copy is looked at.
    unsafe { super::copy::out_of_slot(base.as_ptr(), header.as_mut_bytes()) };
    if header.magic != MAGIC {
        return Err(LayoutError::Magic);
    }
    if header.layout_version != LAYOUT_VERSION {
        return Err(LayoutError::Version { found: header.layout_version });
    }
    if header.checksum != crc32c::crc32c(&header.as_bytes()[..CHECKED_BYTES]) {
        return Err(LayoutError::Checksum);
    }
    let field = |field, found: u32, allowed| Err(LayoutError::Field { field, found: found.into(), allowed });
    if header.dtype != DTYPE_F32 {
        return field("dtype", header.dtype, "1 (f32)");
    }
    if header.data_offset as usize != DATA_OFFSET {
        return field("data_offset", header.data_offset, "4096");
    }
    let spec = Spec {
        kind: header.kind,
        slot_size: header.slot_size,
        dimension: header.dimension,
        capacity: header.capacity,
        generation: header.generation,
    };
    spec.check()?;
    Ok(spec)
}

/// The shared words beside the positions. Every one has a single writer.
#[derive(Debug, Clone)]
pub struct Header {
    region: Region,
}

impl Header {
    pub(super) fn new(region: Region) -> Self {
        Self { region }
    }

    /// Says that the producer is alive at `now_ns` (`CLOCK_MONOTONIC`).
    ///
    /// Heartbeats and the epoch order nothing else, so they are relaxed.
    #[inline]
    pub fn beat_producer(&self, now_ns: u64) {
        self.region.word(PRODUCER_HEARTBEAT).store(now_ns, Ordering::Relaxed);
    }

    /// Says that the consumer is alive at `now_ns` (`CLOCK_MONOTONIC`).
    #[inline]
    pub fn beat_consumer(&self, now_ns: u64) {
        self.region.word(CONSUMER_HEARTBEAT).store(now_ns, Ordering::Relaxed);
    }

    /// When the producer last said that it was alive; zero if never.
    pub fn producer_heartbeat_ns(&self) -> u64 {
        self.region.word(PRODUCER_HEARTBEAT).load(Ordering::Relaxed)
    }

    /// When the consumer last said that it was alive; zero if never.
    pub fn consumer_heartbeat_ns(&self) -> u64 {
        self.region.word(CONSUMER_HEARTBEAT).load(Ordering::Relaxed)
    }

    /// Sets state and reason in one store.
    ///
    /// SYNC POINT `STATE`, Release: partner is [`Header::state`]. Whoever reads `armed` also sees the epoch and
    /// bundle hash that were set before it.
    pub fn set_state(&self, state: u32, reason: u32) {
        let word = u64::from(state) | u64::from(reason) << 32;
        self.region.word(STATE).store(word, Ordering::Release);
    }

    /// State and reason.
    ///
    /// SYNC POINT `STATE`, Acquire: partner is [`Header::set_state`].
    pub fn state(&self) -> (u32, u32) {
        let word = self.region.word(STATE).load(Ordering::Acquire);
        (word as u32, (word >> 32) as u32)
    }

    /// Whether an address lies in the header page.
    pub fn covers(&self, address: usize) -> bool {
        self.region.header_page().contains(&address)
    }

    /// Sets how often a daemon has started on this ring.
    pub fn set_epoch(&self, epoch: u64) {
        self.region.word(EPOCH).store(epoch, Ordering::Relaxed);
    }

    /// How often a daemon has started on this ring.
    pub fn epoch(&self) -> u64 {
        self.region.word(EPOCH).load(Ordering::Relaxed)
    }

    /// Sets the SHA-256 of the policy that answers.
    pub fn set_bundle_hash(&self, hash: &[u8; 32]) {
        for (index, bytes) in hash.chunks_exact(8).enumerate() {
            let word = u64::from_le_bytes(bytes.try_into().expect("chunks of eight bytes"));
            self.region.word(BUNDLE_HASH + 8 * index).store(word, Ordering::Relaxed);
        }
    }

    /// The SHA-256 of the policy that answers; all zero before one is loaded.
    pub fn bundle_hash(&self) -> [u8; 32] {
        let mut hash = [0; 32];
        for (index, bytes) in hash.chunks_exact_mut(8).enumerate() {
            let word = self.region.word(BUNDLE_HASH + 8 * index).load(Ordering::Relaxed);
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        hash
    }
}
