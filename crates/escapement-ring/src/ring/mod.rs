//! L2. A lock-free single-producer single-consumer ring of fixed-size slots, on any memory.
//!
//! The ring moves bytes; what they mean is the business of whoever claims and peeks. In production it lies in a file
//! that two processes map ([`Region`] from `shm`), inside one process in a heap allocation ([`HeapRegion`]), and under
//! loom in model memory, all through [`Memory`].
//!
//! # How it works
//! Two positions count the slots ever committed and ever released. Both only grow; `position & (capacity - 1)` is
//! the slot's index. The producer owns `producer_position`, the consumer `consumer_position`, each on a cache line of
//! its own. Each side keeps a copy of the other's position and reads the shared word only when the copy says *possibly*
//! full or empty; that read then says whether it *really* is. In steady flow a message costs one transferred line for
//! the slot and, every so often, one for a position.
//!
//! # Synchronisation
//! | label | Release store | Acquire load | makes visible |
//! |---|---|---|---|
//! | COMMITTED | producer stores `producer_position` | consumer loads it | the slot's bytes, before the consumer reads them |
//! | RELEASED | consumer stores `consumer_position` | producer loads it | that the consumer's reads are over, before the producer overwrites |
//! | STATE | whoever changes the state word | gateway loads it | the epoch and bundle hash set before it |
//!
//! # The peer is not trusted
//! A position from the other side is checked at every load: it must not go back, and the two may not be further apart
//! than the capacity. A side's own position is believed once, when it attaches, and refused above [`MAX_POSITION`]; from
//! then on it is a private number. A violation is a typed, fatal error ([`ProtocolViolation`]); the ring is not used again. A slot's
//! index is computed from the side's *own* position and the capacity noted at attach, so no lie of the peer can move
//! an access out of the region. Slot bytes are copied by volatile words: the peer may scribble over them at any
//! moment, and then the copy is garbage, which the frame's checksum and the engine's validation catch.

mod consumer;
mod copy;
#[cfg(not(loom))]
mod header;
#[cfg(not(loom))]
mod heap;
// Formatting and opening are for real memory only.
#[cfg_attr(loom, allow(dead_code))]
mod layout;
mod memory;
#[cfg(not(loom))]
mod prefetch;
mod producer;
#[cfg(not(loom))]
mod region;
// Under loom there is no header that would call it; the model in the file does.
#[cfg_attr(loom, allow(dead_code))]
mod state_word;

pub use consumer::{Consumer, Peek};
pub use layout::{
    FieldPlace, LAYOUT_VERSION, LayoutError, MAGIC, MAX_CAPACITY, MAX_SLOT_SIZE, MIN_CAPACITY, REGION_FIELDS,
    Spec,
};
pub use memory::{Memory, PositionWord};
pub use producer::{Claim, ClaimError, Producer};
pub use state_word::HALTED;

#[cfg(not(loom))]
pub use {header::Header, heap::HeapRegion, region::Region};

#[cfg(loom)]
mod model;
/// Under loom there is no real memory: rings lie in the model's.
#[cfg(loom)]
pub use model::ModelMemory as Region;

#[cfg(all(test, not(loom)))]
mod tests;

/// The largest position that a side accepts as its own when it attaches. At a thousand million messages a second a
/// ring gets there after 146 years, so a larger one is damage; and positions that start below it never overflow.
pub const MAX_POSITION: u64 = 1 << 62;

/// The other side's position contradicts the protocol. Fatal: nothing read from this ring can be relied upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{side} position {found} is impossible: own position {own}, last seen {last_seen}, capacity {capacity}"
)]
pub struct ProtocolViolation {
    /// Whose position it is: `producer` or `consumer`. Each side checks the other's, and its own when it attaches.
    pub side: &'static str,
    /// What was read.
    pub found: u64,
    /// The reading side's own position.
    pub own: u64,
    /// What the same word held before; when a side attaches, the least it may hold.
    pub last_seen: u64,
    /// Slots of the ring.
    pub capacity: u64,
}

/// A side's own position, as found in shared memory when it attaches.
fn own_position<M: Memory>(memory: &M, side: &'static str, found: u64) -> Result<u64, ProtocolViolation> {
    if found > MAX_POSITION {
        let capacity = memory.capacity();
        return Err(ProtocolViolation { side, found, own: found, last_seen: 0, capacity });
    }
    Ok(found)
}
