//! The producing side: claims free slots and commits them.

use super::memory::{Memory, PositionWord, lies_in_slot, slot_index};
use super::{ProtocolViolation, Region, copy, own_position};
use crate::sync::Ordering;

/// After how many commits the producer looks whether the consumer keeps up. A look takes a cache line from
/// the consumer, so it must be rare.
pub(super) const LOOK_EVERY: u64 = 64;

/// The producing side of a ring. There must be only one: a role lock outside this module makes sure of it.
///
/// Aligned to 128 bytes, so that it can lie beside the other side's value without false sharing.
#[derive(Debug)]
#[repr(align(128))]
pub struct Producer<M: Memory = Region> {
    memory: M,
    /// Own position: the shared word holds the same value, but is never read back from memory a peer can
    /// write to.
    position: u64,
    /// The consumer's position when it was last looked up; it can only have grown since.
    consumer_seen: u64,
    /// Whether the consumer was waiting for the newest message at the last look.
    consumer_keeps_up: bool,
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
    /// Attaches at the position where the last producer stopped. A slot that it had claimed but not committed
    /// is written again.
    ///
    /// The caller must make sure that there is no other producer. Two producers garble each other's frames,
    /// which the checksums catch. Every access stays inside the region even then.
    ///
    /// # Errors
    /// Fails if the positions found are impossible.
    pub fn attach(memory: M) -> Result<Self, ProtocolViolation> {
        // SYNC POINT `COMMITTED`, Acquire: partner is `Claim::commit` of a predecessor. Its slots are seen
        // before they are looked at, and this side's next commit passes them on.
        let found = memory.producer_position().load(Ordering::Acquire);
        let position = own_position(&memory, "producer", found)?;
        let consumer_seen = position.saturating_sub(memory.capacity());
        let mut producer = Self { memory, position, consumer_seen, consumer_keeps_up: false };
        producer.refresh()?;
        Ok(producer)
    }

    /// Claims the next slot for writing.
    ///
    /// # Errors
    /// [`ClaimError::Full`] if every slot is in use; [`ClaimError::Violation`] if the consumer's position is
    /// impossible.
    #[inline]
    pub fn try_claim(&mut self) -> Result<Claim<'_, M>, ClaimError> {
        // Possibly full: the consumer may have released more since the last look.
        if self.position - self.consumer_seen >= self.memory.capacity() {
            self.refresh()?;
            // Really full.
            if self.position - self.consumer_seen >= self.memory.capacity() {
                return Err(ClaimError::Full { committed: self.position, released: self.consumer_seen });
            }
        }
        Ok(Claim { producer: self })
    }

    /// The number of slots ever committed.
    #[inline]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The number of slots ever released. Reads the shared position.
    ///
    /// # Errors
    /// Fails if the consumer's position is impossible.
    pub fn released(&mut self) -> Result<u64, ProtocolViolation> {
        self.refresh()?;
        Ok(self.consumer_seen)
    }

    /// Copies bytes out of the slot that was committed last. Returns false if nothing was ever committed.
    ///
    /// That slot stays intact until the next claim, even after it was released. Recovery reads it.
    ///
    /// # Panics
    /// Panics if the range from `offset` leaves the slot, or if `offset` is not a multiple of 16.
    pub fn read_last(&self, offset: usize, destination: &mut [u8]) -> bool {
        let Some(last) = self.position.checked_sub(1) else { return false };
        assert!(
            lies_in_slot(&self.memory, offset, destination.len()),
            "bytes outside the slot, or an offset that is no multiple of 16"
        );
        let (index, width) = (slot_index(&self.memory, last), self.memory.tuning().width);
        // SAFETY: in bounds by the assertion. The consumer never writes to slots, and this is the only
        // producer.
        self.memory
            .read_slot(index, |slot| unsafe { copy::out_of_slot(width, slot.add(offset), destination) });
        true
    }

    #[inline]
    fn load_consumer(&self) -> u64 {
        // SYNC POINT `RELEASED`, Acquire: partner is `Consumer::store_position`. The consumer's reads of the
        // slots it released are over before this side overwrites them.
        self.memory.consumer_position().load(Ordering::Acquire)
    }

    /// Looks whether the consumer had released everything before the message that was just committed. If it
    /// had not, it is busy, or messages follow one another faster than a position travels. Then a demotion
    /// gains nothing and slows the producer.
    #[inline]
    fn look_at_consumer(&mut self) {
        // An impossible position gives a useless hint here. The next refresh reports it.
        self.consumer_keeps_up = self.load_consumer().saturating_add(1) >= self.position;
    }

    #[cold]
    fn refresh(&mut self) -> Result<(), ProtocolViolation> {
        let found = self.load_consumer();
        // The order of the tests matters: the difference cannot wrap once `found` is known not to be ahead.
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

/// A slot that is being written. Dropping it without [`Claim::commit`] aborts: the consumer never sees the
/// slot.
#[derive(Debug)]
pub struct Claim<'a, M: Memory = Region> {
    producer: &'a mut Producer<M>,
}

impl<M: Memory> Claim<'_, M> {
    /// The position that this slot has once it is committed.
    #[inline]
    pub fn position(&self) -> u64 {
        self.producer.position
    }

    /// Copies bytes into the slot, starting at byte `offset` of the slot.
    ///
    /// # Panics
    /// Panics if the range from `offset` leaves the slot, or if `offset` is not a multiple of 16.
    #[inline]
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        let memory = &self.producer.memory;
        assert!(
            lies_in_slot(memory, offset, bytes.len()),
            "bytes outside the slot, or an offset that is no multiple of 16"
        );
        let (index, width) = (slot_index(memory, self.producer.position), memory.tuning().width);
        // SAFETY: in bounds by the assertion. `try_claim` saw that the consumer has released this slot, and
        // there is one producer, held by this claim.
        memory.write_slot(index, |slot| unsafe { copy::into_slot(width, bytes, slot.add(offset)) });
    }

    /// Commits the slot: the consumer can see it from now on.
    #[inline]
    pub fn commit(self) {
        let producer = self.producer;
        let committed = producer.position;
        producer.position += 1;
        // SYNC POINT `COMMITTED`, Release: partner is `Consumer::load_producer`. The slot's bytes become
        // visible before the position that covers them.
        producer.memory.producer_position().store(producer.position, Ordering::Release);
        let tuning = producer.memory.tuning();
        if tuning.demote {
            if producer.consumer_keeps_up {
                producer.memory.demote(slot_index(&producer.memory, committed));
            }
            if producer.position.is_multiple_of(LOOK_EVERY) {
                producer.look_at_consumer();
            }
        }
        // Only for a slot that is known to be free: the consumer may be loading the cache lines of any other
        // slot.
        let ahead = u64::from(tuning.write_ahead);
        if ahead > 0 && committed + ahead - producer.consumer_seen < producer.memory.capacity() {
            producer.memory.expect_write(slot_index(&producer.memory, committed + ahead));
        }
    }
}
