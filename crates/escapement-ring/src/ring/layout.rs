//! The bytes of a region: header fields, offsets, and the checks made when a region is opened.
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

use super::copy::Width;
use core::mem::offset_of;
use core::ptr::NonNull;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// The layout version that this code writes. It reads no other.
pub const LAYOUT_VERSION: u32 = 1;
/// The smallest number of slots.
pub const MIN_CAPACITY: u64 = 2;
/// The largest number of slots.
pub const MAX_CAPACITY: u64 = 1 << 20;

/// The largest slot, in bytes.
pub const MAX_SLOT_SIZE: u32 = 1 << 16;

pub(super) const DATA_OFFSET: usize = 4096;
pub(super) const PRODUCER_POSITION: usize = 128;
pub(super) const CONSUMER_POSITION: usize = 256;
pub(super) const PRODUCER_HEARTBEAT: usize = 384;
pub(super) const CONSUMER_HEARTBEAT: usize = 512;
pub(super) const STATE: usize = 640;
pub(super) const GENERATION: usize = offset_of!(FixedHeader, generation);
pub(super) const EPOCH: usize = 648;
pub(super) const BUNDLE_HASH: usize = 656;

/// The first bytes of every region.
pub const MAGIC: [u8; 8] = *b"ESCPRING";
const DTYPE_F32: u32 = 1;

/// The place of a field in the region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldPlace {
    /// The field's name. Documents and the C header use the same one.
    pub name: &'static str,
    /// Bytes from the beginning of the region.
    pub offset: usize,
    /// Bytes of the field.
    pub size: usize,
}

/// Every field of the region, ordered by offset. A test holds the documents and the C header to it.
pub const REGION_FIELDS: &[FieldPlace] = &{
    const fn at(name: &'static str, offset: usize, size: usize) -> FieldPlace {
        FieldPlace { name, offset, size }
    }
    [
        at("magic", offset_of!(FixedHeader, magic), 8),
        at("layout_version", offset_of!(FixedHeader, layout_version), 4),
        at("kind", offset_of!(FixedHeader, kind), 4),
        at("slot_size", offset_of!(FixedHeader, slot_size), 4),
        at("dtype", offset_of!(FixedHeader, dtype), 4),
        at("dimension", offset_of!(FixedHeader, dimension), 4),
        at("data_offset", offset_of!(FixedHeader, data_offset), 4),
        at("capacity", offset_of!(FixedHeader, capacity), 8),
        at("generation", offset_of!(FixedHeader, generation), 8),
        at("reserved", offset_of!(FixedHeader, reserved), 12),
        at("header_checksum", offset_of!(FixedHeader, checksum), 4),
        at("producer_position", PRODUCER_POSITION, 8),
        at("consumer_position", CONSUMER_POSITION, 8),
        at("producer_heartbeat_ns", PRODUCER_HEARTBEAT, 8),
        at("consumer_heartbeat_ns", CONSUMER_HEARTBEAT, 8),
        at("state", STATE, 8),
        at("epoch", EPOCH, 8),
        at("bundle_hash", BUNDLE_HASH, 32),
        at("slots", DATA_OFFSET, 0),
    ]
};

/// A ring's geometry and identity. Fixed when the ring is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// The kind of the frames, such as `wire::KIND_OBSERVATION`.
    pub kind: u32,
    /// Bytes of one slot; a multiple of 64.
    pub slot_size: u32,
    /// Elements of the frame's payload.
    pub dimension: u32,
    /// Number of slots; a power of two.
    pub capacity: u64,
    /// Distinguishes a region from earlier ones of the same name: the wall clock, in nanoseconds, when it was
    /// laid out.
    pub generation: u64,
}

/// Why bytes are not a ring that this code can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The region's size is not the one that its header implies.
    #[error("the region has {found} bytes, its layout takes {expected}")]
    Size {
        /// Bytes found.
        found: u64,
        /// Bytes expected.
        expected: u64,
    },
    /// The region does not begin with [`MAGIC`].
    #[error("not a ring: the region does not begin with ESCPRING")]
    Magic,
    /// Another version of the layout.
    #[error("layout version {found}, this program reads {LAYOUT_VERSION}")]
    Version {
        /// The version in the header.
        found: u32,
    },
    /// The header does not match its checksum.
    #[error("the header is damaged: its checksum does not match")]
    Checksum,
    /// A field holds a value that is not allowed.
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
    /// The size in bytes of a region that holds this ring. For a geometry that is not allowed, or too large
    /// for the address space, the result is a size that no region has.
    pub fn region_bytes(&self) -> usize {
        let slots = self.capacity.saturating_mul(self.slot_size.into());
        usize::try_from(slots.saturating_add(DATA_OFFSET as u64)).unwrap_or(usize::MAX)
    }

    pub(super) fn check(&self) -> Result<(), LayoutError> {
        let field = |field, found, allowed| Err(LayoutError::Field { field, found, allowed });
        if !self.capacity.is_power_of_two() || !(MIN_CAPACITY..=MAX_CAPACITY).contains(&self.capacity) {
            return field("capacity", self.capacity, "a power of two from 2 to 1048576");
        }
        if self.slot_size == 0 || !self.slot_size.is_multiple_of(64) || self.slot_size > MAX_SLOT_SIZE {
            return field("slot_size", self.slot_size.into(), "a multiple of 64 from 64 to 65536");
        }
        if self.dimension == 0 || u64::from(self.dimension) * 4 > self.slot_size.into() {
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
const CHECKED_BYTES: usize = offset_of!(FixedHeader, checksum);
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
    // SAFETY: the caller's backing holds at least a header page, writable and page-aligned.
    unsafe { super::copy::into_slot(Width::NARROW, header.as_bytes(), base.as_ptr()) };
}

pub(super) fn read_header(base: NonNull<u8>) -> Result<Spec, LayoutError> {
    let mut header = FixedHeader::new_zeroed();
    // SAFETY: the caller's backing holds at least a header page, page-aligned. The peer may write at any
    // time, so the bytes are copied by volatile reads and only the copy is looked at.
    unsafe { super::copy::out_of_slot(Width::NARROW, base.as_ptr(), header.as_mut_bytes()) };
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
