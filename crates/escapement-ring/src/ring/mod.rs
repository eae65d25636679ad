//! A lock-free single-producer single-consumer ring of fixed-size slots, on any memory.
//!
//! The ring moves bytes and does not interpret them. Between processes it lies in a file that both map
//! ([`Region`] over a file of `shm`); inside one process, in a heap allocation ([`HeapRegion`]); under loom,
//! in model memory. The algorithm sees all three through [`Memory`].
//!
//! # How it works
//! Two positions count the slots ever committed and ever released. Both only grow.
//! `position & (capacity - 1)` is the slot's index. The producer writes `producer_position`, the consumer
//! `consumer_position`, each on a cache line of its own. Each side keeps a copy of the other's position. It
//! reads the shared word only if the ring is *possibly* full or empty by that copy; the read then tells
//! whether it *really* is. In steady flow a message costs one cache line transfer for the slot and, now and
//! then, one for a position.
//!
//! Copies and cache hints fit the processor ([`Tuning`]); they change neither bytes nor order.
//!
//! # Synchronisation
//! | label | Release store | Acquire load | what the Acquire makes visible or certain |
//! |---|---|---|---|
//! | COMMITTED | producer, `producer_position` | consumer | the slot's bytes |
//! | RELEASED | consumer, `consumer_position` | producer | the consumer's reads of the slot are over |
//! | STATE | any writer of the state word | gateway | the epoch and bundle hash set before it |
//!
//! # The peer is not trusted
//! Each side checks the other's position at every load: it must not go back, and the two must not be further
//! apart than the capacity. A violation is a typed, fatal error ([`ProtocolViolation`]), and the ring is not
//! used again. A side reads its own position from shared memory once, when it attaches, and refuses it above
//! [`MAX_POSITION`]. From then on it uses a private copy. A slot's index follows from the side's *own*
//! position and from the capacity read at attach, so a false position cannot move an access out of the
//! region. Slot bytes are copied by volatile words. If the peer overwrites a slot during the copy, the copy
//! is garbage, and the frame's checksum or the engine's input check catches it.

mod consumer;
mod copy;
#[cfg(not(loom))]
mod header;
#[cfg(not(loom))]
mod heap;
#[cfg(not(loom))]
mod hint;
// Only real memory is formatted and opened.
#[cfg_attr(loom, allow(dead_code))]
mod layout;
mod memory;
mod producer;
#[cfg(not(loom))]
mod region;
// Under loom there is no header that calls it. The model in the file does.
#[cfg_attr(loom, allow(dead_code))]
mod state_word;
mod tuning;

pub use consumer::{Consumer, Peek};
pub use layout::{
    FieldPlace, LAYOUT_VERSION, LayoutError, MAGIC, MAX_CAPACITY, MAX_SLOT_SIZE, MIN_CAPACITY, REGION_FIELDS,
    Spec,
};
pub use memory::{Memory, PositionWord};
pub use producer::{Claim, ClaimError, Producer};
pub use state_word::HALTED;
#[doc(hidden)]
pub use {copy::Width, tuning::Tuning};

#[cfg(not(loom))]
pub use {header::Header, heap::HeapRegion, region::Region};

#[cfg(loom)]
mod model;
/// Under loom there is no real memory. Rings lie in the model's.
#[cfg(loom)]
pub use model::ModelMemory as Region;

#[cfg(all(test, not(loom)))]
mod tests;

/// The largest position that a side accepts as its own when it attaches. At 10⁹ messages a second a ring
/// reaches it after 146 years, so a larger position means damage. A position that starts below it never
/// overflows.
pub const MAX_POSITION: u64 = 1 << 62;

/// A position contradicts the protocol. Fatal: nothing read from this ring can be relied upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{side} position {found} is impossible: own position {own}, last seen {last_seen}, capacity {capacity}"
)]
pub struct ProtocolViolation {
    /// The side whose position it is: `producer` or `consumer`. Each side checks the other's, and its own at
    /// attach.
    pub side: &'static str,
    /// The value read.
    pub found: u64,
    /// The reading side's own position.
    pub own: u64,
    /// The value that the same word held before. When a side attaches, the least value allowed.
    pub last_seen: u64,
    /// The ring's number of slots.
    pub capacity: u64,
}

/// Checks a side's own position, as read from shared memory when it attaches.
fn own_position<M: Memory>(memory: &M, side: &'static str, found: u64) -> Result<u64, ProtocolViolation> {
    if found > MAX_POSITION {
        let capacity = memory.capacity();
        return Err(ProtocolViolation { side, found, own: found, last_seen: 0, capacity });
    }
    Ok(found)
}
