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
//!
//! # The peer is not trusted
//! A position from the other side is checked at every load: it must not go back, and the two may not be further apart
//! than the capacity. A violation is a typed, fatal error ([`ProtocolViolation`]); the ring is not used again. A slot's
//! index is computed from the side's *own* position and the capacity noted at attach, so no lie of the peer can move
//! an access out of the region. Slot bytes are copied by volatile words: the peer may scribble over them at any
//! moment, and then the copy is garbage, which the frame's checksum and the engine's validation catch.

mod consumer;
mod copy;
mod heap;
mod layout;
mod memory;
mod producer;

pub use consumer::{Consumer, Peek};
pub use heap::HeapRegion;
pub use layout::{Header, LAYOUT_VERSION, LayoutError, MAX_CAPACITY, MAX_SLOT_SIZE, MIN_CAPACITY, Spec};
pub use memory::{Backing, Memory, Region};
pub use producer::{Claim, ClaimError, Producer};

/// The other side's position contradicts the protocol. Fatal: nothing read from this ring can be relied upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{side} position {found} is impossible: own position {own}, last seen {last_seen}, capacity {capacity}"
)]
pub struct ProtocolViolation {
    /// Whose position it is: `producer` or `consumer`.
    pub side: &'static str,
    /// What was read.
    pub found: u64,
    /// The reading side's own position.
    pub own: u64,
    /// What the same word held before.
    pub last_seen: u64,
    /// Slots of the ring.
    pub capacity: u64,
}

#[cfg(all(test, loom))]
mod model;
#[cfg(all(test, not(loom)))]
mod tests;
