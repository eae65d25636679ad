//! The consuming side: peeks at committed slots and releases them.

use super::memory::{Memory, PositionWord, lies_in_slot, slot_index};
use super::{ProtocolViolation, Region, copy, own_position};
use crate::sync::Ordering;

/// The consuming side of a ring. There must be only one: a role lock outside this module makes sure of it.
///
/// Aligned to 128 bytes, so that it can lie beside the other side's value without false sharing.
#[derive(Debug)]
#[repr(align(128))]
pub struct Consumer<M: Memory = Region> {
    memory: M,
    /// Own position: the shared word holds the same value, but is never read back from memory a peer can
    /// write to.
    position: u64,
    /// The producer's position when it was last looked up; it can only have grown since.
    producer_seen: u64,
}

impl<M: Memory> Consumer<M> {
    /// Attaches at the position where the last consumer stopped.
    ///
    /// The caller must make sure that there is no other consumer. Two consumers see the same slots, and the
    /// producer overwrites slots that one of them still reads. Every access stays inside the region even
    /// then.
    ///
    /// # Errors
    /// Fails if the positions found are impossible.
    pub fn attach(memory: M) -> Result<Self, ProtocolViolation> {
        // SYNC POINT `RELEASED`, Acquire: partner is `Consumer::store_position` of a predecessor. Its reads
        // are over before this side's next store tells the producer so, whatever the lock between the two was
        // made of.
        let found = memory.consumer_position().load(Ordering::Acquire);
        let position = own_position(&memory, "consumer", found)?;
        let mut consumer = Self { memory, position, producer_seen: position };
        consumer.refresh()?;
        Ok(consumer)
    }

    /// Returns the oldest slot that is committed and not released, or `None` if there is none.
    ///
    /// # Errors
    /// Fails if the producer's position is impossible.
    #[inline]
    pub fn peek(&mut self) -> Result<Option<Peek<'_, M>>, ProtocolViolation> {
        // Possibly empty: the producer may have committed more since the last look.
        if self.producer_seen == self.position {
            self.refresh()?;
            // Really empty.
            if self.producer_seen == self.position {
                return Ok(None);
            }
        }
        Ok(Some(Peek { consumer: self }))
    }

    /// Releases every slot except the newest one. Returns how many it released.
    ///
    /// # Errors
    /// Fails if the producer's position is impossible.
    #[inline]
    pub fn skip_to_latest(&mut self) -> Result<u64, ProtocolViolation> {
        self.refresh()?;
        let skipped = (self.producer_seen - self.position).saturating_sub(1);
        if skipped > 0 {
            self.store_position(self.position + skipped);
        }
        Ok(skipped)
    }

    /// The number of slots ever released.
    #[inline]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The number of slots ever committed. Reads the shared position.
    ///
    /// # Errors
    /// Fails if the producer's position is impossible.
    #[inline]
    pub fn committed(&mut self) -> Result<u64, ProtocolViolation> {
        self.refresh()?;
        Ok(self.producer_seen)
    }

    #[inline]
    fn load_producer(&self) -> u64 {
        // SYNC POINT `COMMITTED`, Acquire: partner is `Claim::commit`. The bytes of every slot below this
        // position are visible.
        self.memory.producer_position().load(Ordering::Acquire)
    }

    #[inline]
    fn refresh(&mut self) -> Result<(), ProtocolViolation> {
        let found = self.load_producer();
        // `producer_seen` is never below the own position, so the difference cannot wrap.
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
        // SYNC POINT `RELEASED`, Release: partner is `Producer::load_consumer`. This side's reads of the slot
        // are over before the producer may overwrite it.
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
    #[inline]
    pub fn position(&self) -> u64 {
        self.consumer.position
    }

    /// Copies bytes out of the slot, starting at byte `offset` of the slot.
    ///
    /// # Panics
    /// Panics if the range from `offset` leaves the slot, or if `offset` is not a multiple of 16.
    #[inline]
    pub fn read(&self, offset: usize, destination: &mut [u8]) {
        let memory = &self.consumer.memory;
        assert!(
            lies_in_slot(memory, offset, destination.len()),
            "bytes outside the slot, or an offset that is no multiple of 16"
        );
        let (index, width) = (slot_index(memory, self.consumer.position), memory.tuning().width);
        // SAFETY: in bounds by the assertion. The slot is committed and not released; if the producer writes
        // to it anyway, the copy holds garbage but is still a copy.
        memory.read_slot(index, |slot| unsafe { copy::out_of_slot(width, slot.add(offset), destination) });
    }

    /// Gives the slot back to the producer.
    #[inline]
    pub fn release(self) {
        let consumer = self.consumer;
        consumer.store_position(consumer.position + 1);
        // Only for a slot that is known to be committed: the cache lines of any other slot belong to the
        // producer.
        let ahead = u64::from(consumer.memory.tuning().read_ahead);
        if ahead > 0 && consumer.producer_seen - consumer.position >= ahead {
            let expected = consumer.position + ahead - 1;
            consumer.memory.expect_read(slot_index(&consumer.memory, expected));
        }
    }
}
