//! What the algorithm requires of memory: two positions and an array of slots.

use super::tuning::Tuning;
use crate::sync::{AtomicU64, Ordering};

/// A position that both sides can access.
///
/// The algorithm chooses the ordering of each access; an implementation must apply it. The model check plants
/// its bugs here: a word that weakens every ordering must make the model fail.
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
/// An implementation must guarantee, for its whole life: `capacity` is a power of two that fits `usize` and
/// never changes; `slot_size` never changes; for every index below the capacity the slot functions pass a
/// pointer that is valid for `slot_size` bytes and aligned to 16, and different indices pass bytes that do
/// not overlap; the position words are the same two at every call.
pub unsafe trait Memory {
    /// The type of a position word.
    type Position: PositionWord;

    /// The number of slots ever committed. Only the producer writes it.
    fn producer_position(&self) -> &Self::Position;
    /// The number of slots ever released. Only the consumer writes it.
    fn consumer_position(&self) -> &Self::Position;
    /// Number of slots; a power of two.
    fn capacity(&self) -> u64;
    /// Bytes of one slot.
    fn slot_size(&self) -> usize;
    /// Runs `read` on the slot. The caller must hold the consumer's right to it.
    fn read_slot<R>(&self, index: usize, read: impl FnOnce(*const u8) -> R) -> R;
    /// Runs `write` on the slot. The caller must hold the producer's right to it.
    fn write_slot<R>(&self, index: usize, write: impl FnOnce(*mut u8) -> R) -> R;
    /// How the sides use the processor.
    #[inline]
    fn tuning(&self) -> Tuning {
        Tuning::PLAIN
    }
    /// Prefetches the slot's cache lines for writing. A hint: it changes nothing.
    #[inline]
    fn expect_write(&self, _index: usize) {}
    /// Demotes the slot's cache lines to the shared cache, where the other side finds them sooner. A hint: it
    /// changes nothing.
    #[inline]
    fn demote(&self, _index: usize) {}
    /// Prefetches the slot's cache lines for reading. A hint: it changes nothing.
    #[inline]
    fn expect_read(&self, _index: usize) {}
}

/// The index of a position's slot. It depends on nothing that the peer can change.
#[inline]
pub(super) fn slot_index<M: Memory>(memory: &M, position: u64) -> usize {
    (position & (memory.capacity() - 1)) as usize
}

/// Whether `len` bytes from `offset` lie in a slot, and `offset` is aligned for a copy. The test uses no sum,
/// so it cannot overflow. The copies rely on it.
#[inline]
pub(super) fn lies_in_slot<M: Memory>(memory: &M, offset: usize, len: usize) -> bool {
    let size = memory.slot_size();
    offset.is_multiple_of(16) && offset <= size && len <= size - offset
}
