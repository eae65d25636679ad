//! What the algorithm asks of memory: two positions and a row of slots, however they are provided.

use crate::sync::{AtomicU64, Ordering};

/// A position that both sides see.
///
/// Which ordering each access has is the algorithm's business and stands beside it; an implementation carries it out.
/// The model check plants its bugs here: a word that quietly weakens every ordering must turn it red.
pub trait PositionWord {
    /// Reads the position.
    fn load(&self, order: Ordering) -> u64;
    /// Replaces the position.
    fn store(&self, position: u64, order: Ordering);
}

impl PositionWord for AtomicU64 {
    #[inline]
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    #[inline]
    fn store(&self, position: u64, order: Ordering) {
        self.store(position, order);
    }
}

/// The shared words and slots of one ring.
///
/// # Safety
/// An implementation keeps, for its whole life: `capacity` is a power of two that fits `usize` and never changes;
/// `slot_size` never changes; for every index below the capacity the slot functions pass a pointer that is valid for
/// `slot_size` bytes and aligned to 16, and different indices pass bytes that do not overlap; the position words are
/// the same two at every call.
pub unsafe trait Memory {
    /// How a position is kept.
    type Position: PositionWord;

    /// Slots ever committed. Written by the producer alone.
    fn producer_position(&self) -> &Self::Position;
    /// Slots ever released. Written by the consumer alone.
    fn consumer_position(&self) -> &Self::Position;
    /// Number of slots; a power of two.
    fn capacity(&self) -> u64;
    /// Bytes of one slot.
    fn slot_size(&self) -> usize;
    /// Runs `read` on the slot; the caller holds the consumer's right to it.
    fn read_slot<R>(&self, index: usize, read: impl FnOnce(*const u8) -> R) -> R;
    /// Runs `write` on the slot; the caller holds the producer's right to it.
    fn write_slot<R>(&self, index: usize, write: impl FnOnce(*mut u8) -> R) -> R;
    /// Asks for the slot's lines in advance, to be written: a hint that changes nothing.
    #[inline]
    fn expect_write(&self, _index: usize) {}
    /// Asks for the slot's lines in advance, to be read: a hint that changes nothing.
    #[inline]
    fn expect_read(&self, _index: usize) {}
}

/// The slot of a position. It depends on nothing that a peer can change.
#[inline]
pub(super) fn slot_index<M: Memory>(memory: &M, position: u64) -> usize {
    (position & (memory.capacity() - 1)) as usize
}

/// Whether `len` bytes from `offset` lie in a slot and begin where a copy may begin. Written without a sum that could
/// overflow: the copies rely on it.
#[inline]
pub(super) fn lies_in_slot<M: Memory>(memory: &M, offset: usize, len: usize) -> bool {
    let size = memory.slot_size();
    offset.is_multiple_of(16) && offset <= size && len <= size - offset
}
