//! The side that commits.

use super::memory::{Memory, PositionWord, lies_in_slot, slot_index};
use super::{ProtocolViolation, Region, copy, own_position};
use crate::sync::Ordering;

/// The producing side of a ring. There is one; who it is, is settled by a lock outside.
///
/// The value has cache lines of its own, so that it may lie beside the other side's without slowing both.
#[derive(Debug)]
#[repr(align(128))]
pub struct Producer<M: Memory = Region> {
    memory: M,
    /// Own position: the shared word holds the same value, but is never read back from memory a peer can write to.
    position: u64,
    /// The consumer's position when it was last looked up; it can only have grown since.
    consumer_seen: u64,
}

/// Why there is no slot to write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Every slot is committed and not yet released.
    #[error("the ring is full: {committed} committed, {released} released")]
    Full {
        /// The producer's position.
        committed: u64,
        /// The consumer's position.
        released: u64,
    },
    /// The consumer broke the protocol.
    #[error(transparent)]
    Violation(#[from] ProtocolViolation),
}

impl<M: Memory> Producer<M> {
    /// Takes up production where the ring's positions say the last producer left off. A slot that it had claimed and
    /// not committed is simply written again.
    ///
    /// That there is no other producer is the caller's to ensure. Two of them garble each other's frames, which
    /// checksums catch; every access still lies in the region.
    ///
    /// # Errors
    /// When the positions found are impossible.
    pub fn attach(memory: M) -> Result<Self, ProtocolViolation> {
        // SYNC POINT `COMMITTED`, Acquire: partner is `Claim::commit` of a predecessor. Its slots are seen before they
        // are looked at, and this side's next commit passes them on.
        let found = memory.producer_position().load(Ordering::Acquire);
        let position = own_position(&memory, "producer", found)?;
        let consumer_seen = position.saturating_sub(memory.capacity());
        let mut producer = Self { memory, position, consumer_seen };
        producer.refresh()?;
        Ok(producer)
    }

    /// Claims the next slot for writing.
    ///
    /// # Errors
    /// [`ClaimError::Full`] when the consumer has not released enough; a violation when its position is impossible.
    #[inline]
    pub fn try_claim(&mut self) -> Result<Claim<'_, M>, ClaimError> {
        // Possibly full: the consumer may have gone on since it was last looked up.
        if self.position - self.consumer_seen >= self.memory.capacity() {
            self.refresh()?;
            // Really full.
            if self.position - self.consumer_seen >= self.memory.capacity() {
                return Err(ClaimError::Full { committed: self.position, released: self.consumer_seen });
            }
        }
        Ok(Claim { producer: self })
    }

    /// Slots ever committed.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Slots ever released, looked up now.
    ///
    /// # Errors
    /// When the consumer's position is impossible.
    pub fn released(&mut self) -> Result<u64, ProtocolViolation> {
        self.refresh()?;
        Ok(self.consumer_seen)
    }

    /// Copies bytes out of the slot that this side committed last, if there is one: it stays intact until the next
    /// claim, whether or not it was released. Recovery reads it.
    ///
    /// # Panics
    /// When `offset` and the length leave the slot, or the offset is not a multiple of 16.
    pub fn read_last(&self, offset: usize, destination: &mut [u8]) -> bool {
        let Some(last) = self.position.checked_sub(1) else { return false };
        assert!(
            lies_in_slot(&self.memory, offset, destination.len()),
            "bytes outside the slot, or an offset that is no multiple of 16"
        );
        let index = slot_index(&self.memory, last);
        // SAFETY: in bounds by the assertion. The consumer never writes to slots, and this is the only producer.
        self.memory.read_slot(index, |slot| unsafe { copy::out_of_slot(slot.add(offset), destination) });
        true
    }

    #[inline]
    fn load_consumer(&self) -> u64 {
        // SYNC POINT `RELEASED`, Acquire: partner is `Consumer::store_position`. The consumer's reads of the slots it
        // released are over before this side overwrites them.
        self.memory.consumer_position().load(Ordering::Acquire)
    }

    #[cold]
    fn refresh(&mut self) -> Result<(), ProtocolViolation> {
        let found = self.load_consumer();
        // The order matters: only once `found` is known not to be ahead, the distance cannot wrap round.
        if found < self.consumer_seen
            || found > self.position
            || self.position - found > self.memory.capacity()
        {
            return Err(ProtocolViolation {
                side: "consumer",
                found,
                own: self.position,
                last_seen: self.consumer_seen,
                capacity: self.memory.capacity(),
            });
        }
        self.consumer_seen = found;
        Ok(())
    }
}

/// A slot that is being written. Dropped without [`Claim::commit`], it was never there.
#[derive(Debug)]
pub struct Claim<'a, M: Memory = Region> {
    producer: &'a mut Producer<M>,
}

impl<M: Memory> Claim<'_, M> {
    /// The position that this slot gets when it is committed.
    pub fn position(&self) -> u64 {
        self.producer.position
    }

    /// Copies bytes into the slot.
    ///
    /// # Panics
    /// When `offset` and the length leave the slot, or the offset is not a multiple of 16.
    #[inline]
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        let memory = &self.producer.memory;
        assert!(
            lies_in_slot(memory, offset, bytes.len()),
            "bytes outside the slot, or an offset that is no multiple of 16"
        );
        let index = slot_index(memory, self.producer.position);
        // SAFETY: in bounds by the assertion. `try_claim` saw that the consumer has released this slot, and there is
        // one producer, held by this claim.
        memory.write_slot(index, |slot| unsafe { copy::into_slot(bytes, slot.add(offset)) });
    }

    /// Hands the slot to the consumer.
    #[inline]
    pub fn commit(self) {
        let producer = self.producer;
        producer.position += 1;
        // SYNC POINT `COMMITTED`, Release: partner is `Consumer::load_producer`. The slot's bytes become visible
        // before the position that covers them.
        producer.memory.producer_position().store(producer.position, Ordering::Release);
        // Only a slot that is known to be free: the lines of another may be on their way to the consumer.
        if producer.position - producer.consumer_seen < producer.memory.capacity() {
            producer.memory.expect_write(slot_index(&producer.memory, producer.position));
        }
    }
}
