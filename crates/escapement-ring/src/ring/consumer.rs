//! The side that releases.

use super::memory::{Memory, PositionWord, lies_in_slot, slot_index};
use super::{ProtocolViolation, Region, copy, own_position};
use crate::sync::Ordering;

/// The consuming side of a ring. There is one; who it is, is settled by a lock outside.
///
/// The value has cache lines of its own, so that it may lie beside the other side's without slowing both.
#[derive(Debug)]
#[repr(align(128))]
pub struct Consumer<M: Memory = Region> {
    memory: M,
    /// Own position: the shared word holds the same value, but is never read back from memory a peer can write to.
    position: u64,
    /// The producer's position when it was last looked up; it can only have grown since.
    producer_seen: u64,
}

impl<M: Memory> Consumer<M> {
    /// Takes up consumption where the ring's positions say the last consumer left off.
    ///
    /// That there is no other consumer is the caller's to ensure. Two of them see the same slots and make the producer
    /// overwrite what one still reads; every access still lies in the region.
    ///
    /// # Errors
    /// When the positions found are impossible.
    pub fn attach(memory: M) -> Result<Self, ProtocolViolation> {
        // SYNC POINT `RELEASED`, Acquire: partner is `Consumer::store_position` of a predecessor. Its reads are over
        // before this side's next store tells the producer so, whatever the lock between the two was made of.
        let found = memory.consumer_position().load(Ordering::Acquire);
        let position = own_position(&memory, "consumer", found)?;
        let mut consumer = Self { memory, position, producer_seen: position };
        consumer.refresh()?;
        Ok(consumer)
    }

    /// The oldest slot that is committed and not released, or `None` when there is none.
    ///
    /// # Errors
    /// When the producer's position is impossible.
    #[inline]
    pub fn peek(&mut self) -> Result<Option<Peek<'_, M>>, ProtocolViolation> {
        // Possibly empty: the producer may have gone on since it was last looked up.
        if self.producer_seen == self.position {
            self.refresh()?;
            // Really empty.
            if self.producer_seen == self.position {
                return Ok(None);
            }
        }
        Ok(Some(Peek { consumer: self }))
    }

    /// Releases everything but the newest slot and says how many that were.
    ///
    /// # Errors
    /// When the producer's position is impossible.
    pub fn skip_to_latest(&mut self) -> Result<u64, ProtocolViolation> {
        self.refresh()?;
        let skipped = (self.producer_seen - self.position).saturating_sub(1);
        if skipped > 0 {
            self.store_position(self.position + skipped);
        }
        Ok(skipped)
    }

    /// Slots ever released.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Slots ever committed, looked up now.
    ///
    /// # Errors
    /// When the producer's position is impossible.
    pub fn committed(&mut self) -> Result<u64, ProtocolViolation> {
        self.refresh()?;
        Ok(self.producer_seen)
    }

    #[inline]
    fn load_producer(&self) -> u64 {
        // SYNC POINT `COMMITTED`, Acquire: partner is `Claim::commit`. The bytes of every slot below this position
        // are visible.
        self.memory.producer_position().load(Ordering::Acquire)
    }

    #[inline]
    fn refresh(&mut self) -> Result<(), ProtocolViolation> {
        let found = self.load_producer();
        // `producer_seen` is never below the own position, so the distance cannot wrap round.
        if found < self.producer_seen || found - self.position > self.memory.capacity() {
            return Err(ProtocolViolation {
                side: "producer",
                found,
                own: self.position,
                last_seen: self.producer_seen,
                capacity: self.memory.capacity(),
            });
        }
        self.producer_seen = found;
        Ok(())
    }

    #[inline]
    fn store_position(&mut self, position: u64) {
        self.position = position;
        // SYNC POINT `RELEASED`, Release: partner is `Producer::load_consumer`. This side's reads of the slot are over
        // before the producer may overwrite it.
        self.memory.consumer_position().store(position, Ordering::Release);
    }
}

/// A committed slot that is being read. It stays the oldest until [`Peek::release`].
#[derive(Debug)]
pub struct Peek<'a, M: Memory = Region> {
    consumer: &'a mut Consumer<M>,
}

impl<M: Memory> Peek<'_, M> {
    /// The position of this slot.
    pub fn position(&self) -> u64 {
        self.consumer.position
    }

    /// Copies bytes out of the slot.
    ///
    /// # Panics
    /// When `offset` and the length leave the slot, or the offset is not a multiple of 16.
    #[inline]
    pub fn read(&self, offset: usize, destination: &mut [u8]) {
        let memory = &self.consumer.memory;
        assert!(
            lies_in_slot(memory, offset, destination.len()),
            "bytes outside the slot, or an offset that is no multiple of 16"
        );
        let index = slot_index(memory, self.consumer.position);
        // SAFETY: in bounds by the assertion. The slot is committed and not released; if the producer writes to it all
        // the same, the copy is garbage but still a copy.
        memory.read_slot(index, |slot| unsafe { copy::out_of_slot(slot.add(offset), destination) });
    }

    /// Hands the slot back to the producer.
    #[inline]
    pub fn release(self) {
        let consumer = self.consumer;
        consumer.store_position(consumer.position + 1);
        // Only a slot that is known to be committed: the lines of another belong to the producer.
        if consumer.producer_seen > consumer.position {
            consumer.memory.expect_read(slot_index(&consumer.memory, consumer.position));
        }
    }
}
