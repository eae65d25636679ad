//! The contents of a slot: observation and action frames, byte by byte.
//!
//! All integers and floats are little-endian. A frame is a fixed header followed by `f32[dimension]`.
//! `docs/FORMATS.md` has the same tables, for authors of feeds and gateways in other languages. A test holds
//! both to the bytes of sample frames.

mod action;
mod observation;
mod outcome;
mod state_word;

pub use action::{ActionFlags, ActionHeader};
pub use observation::{ObservationFlags, ObservationHeader};
pub use outcome::{AgentState, Outcome, Reason};
pub use state_word::StateWord;

/// `kind` of an observation ring, in its region header.
pub const KIND_OBSERVATION: u32 = 1;
/// `kind` of an action ring.
pub const KIND_ACTION: u32 = 2;

/// The largest number of elements of an observation or action.
pub const MAX_DIMENSION: usize = 4096;

/// Slots are aligned to cache lines, so that two slots never share one.
const SLOT_ALIGN: usize = 64;

/// Bytes of one slot for frames of the given header and dimension.
#[inline]
pub const fn slot_size(header_bytes: usize, dimension: usize) -> usize {
    (header_bytes + 4 * dimension).next_multiple_of(SLOT_ALIGN)
}

/// CRC-32C (Castagnoli, as in RFC 3720) over a frame's header up to its checksum field, then over its
/// payload.
#[inline]
pub fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(header), payload)
}

/// The bytes of a slice of `f32`, as they lie in a frame.
#[inline]
pub fn payload_bytes(payload: &[f32]) -> &[u8] {
    zerocopy::IntoBytes::as_bytes(payload)
}

#[cfg(target_endian = "big")]
compile_error!("frames are little-endian and are read in place");
