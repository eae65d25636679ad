//! The ring in loom's memory: every interleaving, and every value that the memory model allows a load to
//! return.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=2 cargo test --release -p escapement-ring --lib model
//! ```
//! Without `LOOM_MAX_PREEMPTIONS` the bound is 2. `ESCAPEMENT_LOOM_FULL=1` removes the bound, which takes
//! much longer and is for releases.
//!
//! The algorithm under test is the source that ships; only the memory differs. Loom's cells report two
//! unsynchronised accesses to a slot. So these tests prove that no message is lost, doubled or reordered, and
//! that no slot is read and written at once. Bugs planted in the *memory* prove that the model can fail: a
//! position word that weakens every ordering, and a ring that claims more slots than it has.

use super::memory::{Memory, PositionWord};
use crate::sync::AtomicU64;
use loom::cell::UnsafeCell;
use std::sync::Arc;

/// Bytes of a model slot. As few as the copies allow, because loom counts states per access, not per byte.
const SLOT_BYTES: usize = 16;

#[derive(Debug, Clone, Copy)]
#[repr(C, align(16))]
struct Slot([u8; SLOT_BYTES]);

/// Positions and slots under loom's control. Clones share them.
#[derive(Debug)]
pub struct ModelMemory<P = AtomicU64> {
    shared: Arc<Shared<P>>,
    /// The capacity that the ring sees. Above the number of slots only if a bug is planted.
    capacity: u64,
}

#[derive(Debug)]
struct Shared<P> {
    producer_position: P,
    consumer_position: P,
    slots: Vec<UnsafeCell<Slot>>,
}

// SAFETY: loom checks the cells, and panics on an access that is not synchronised.
unsafe impl<P: Sync> Sync for Shared<P> {}
// SAFETY: as for Sync.
unsafe impl<P: Send> Send for Shared<P> {}

impl<P> Clone for ModelMemory<P> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), capacity: self.capacity }
    }
}

// SAFETY: `capacity` is a power of two in every test and never changes; every index is reduced to a slot that
// exists, of SLOT_BYTES bytes and aligned to 16; the words are fields of one allocation. (A planted capacity
// makes two indices share a slot: the access stays in bounds, and loom reports the overlap.)
unsafe impl<P: PositionWord> Memory for ModelMemory<P> {
    type Position = P;

    fn producer_position(&self) -> &P {
        &self.shared.producer_position
    }

    fn consumer_position(&self) -> &P {
        &self.shared.consumer_position
    }

    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn slot_size(&self) -> usize {
        SLOT_BYTES
    }

    fn read_slot<R>(&self, index: usize, read: impl FnOnce(*const u8) -> R) -> R {
        self.shared.slots[index % self.shared.slots.len()].with(|slot| read(slot.cast()))
    }

    fn write_slot<R>(&self, index: usize, write: impl FnOnce(*mut u8) -> R) -> R {
        self.shared.slots[index % self.shared.slots.len()].with_mut(|slot| write(slot.cast()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::{ClaimError, Consumer, Producer};
    use crate::sync::Ordering;
    use loom::thread;

    /// A position whose every access is relaxed, whatever was asked for.
    #[derive(Debug)]
    struct Relaxed(AtomicU64);

    impl PositionWord for Relaxed {
        fn load(&self, _: Ordering) -> u64 {
            self.0.load(Ordering::Relaxed)
        }

        fn store(&self, position: u64, _: Ordering) {
            self.0.store(position, Ordering::Relaxed);
        }
    }

    fn memory<P: PositionWord>(word: impl Fn(AtomicU64) -> P, slots: u64, capacity: u64) -> ModelMemory<P> {
        let slots = (0..slots).map(|_| UnsafeCell::new(Slot([0; SLOT_BYTES]))).collect();
        let producer_position = word(AtomicU64::new(0));
        let consumer_position = word(AtomicU64::new(0));
        ModelMemory { shared: Arc::new(Shared { producer_position, consumer_position, slots }), capacity }
    }

    fn sound(capacity: u64) -> ModelMemory {
        memory(|word| word, capacity, capacity)
    }

    fn check(scenario: impl Fn() + Sync + Send + 'static) {
        crate::sync::explore(2, scenario);
    }

    /// Commits one message, waiting for a slot.
    fn send<P: PositionWord>(producer: &mut Producer<ModelMemory<P>>, message: u64) {
        loop {
            match producer.try_claim() {
                Ok(mut claim) => {
                    let mut bytes = [0; SLOT_BYTES];
                    bytes[..8].copy_from_slice(&message.to_le_bytes());
                    bytes[8..].copy_from_slice(&(!message).to_le_bytes());
                    claim.write(0, &bytes);
                    claim.commit();
                    return;
                }
                Err(ClaimError::Full { .. }) => thread::yield_now(),
                Err(ClaimError::Violation(violation)) => panic!("{violation}"),
            }
        }
    }

    fn decode(bytes: [u8; SLOT_BYTES]) -> u64 {
        let halves = u128::from_le_bytes(bytes);
        let message = halves as u64;
        assert_eq!((halves >> 64) as u64, !message, "a torn message");
        message
    }

    /// The oldest message, if there is one now.
    fn try_receive<P: PositionWord>(consumer: &mut Consumer<ModelMemory<P>>) -> Option<u64> {
        let peek = consumer.peek().expect("an honest producer")?;
        let mut bytes = [0; SLOT_BYTES];
        peek.read(0, &mut bytes);
        peek.release();
        Some(decode(bytes))
    }

    fn receive<P: PositionWord>(consumer: &mut Consumer<ModelMemory<P>>) -> u64 {
        loop {
            match try_receive(consumer) {
                Some(message) => return message,
                None => thread::yield_now(),
            }
        }
    }

    /// `messages` through a ring, in order and whole.
    fn stream<P: PositionWord + Send + Sync + 'static>(memory: ModelMemory<P>, messages: u64) {
        let mut producer = Producer::attach(memory.clone()).expect("a fresh ring");
        let sender = thread::spawn(move || (0..messages).for_each(|message| send(&mut producer, message)));
        let mut consumer = Consumer::attach(memory).expect("a fresh ring");
        for message in 0..messages {
            assert_eq!(receive(&mut consumer), message);
        }
        sender.join().expect("the sender");
        assert_eq!(try_receive(&mut consumer), None);
    }

    #[test]
    fn two_slots_carry_five_messages_round_and_round() {
        check(|| stream(sound(2), 5));
    }

    #[test]
    fn four_slots_carry_six_messages() {
        check(|| stream(sound(4), 6));
    }

    #[test]
    fn an_aborted_claim_was_never_there() {
        check(|| {
            let memory = sound(2);
            let mut producer = Producer::attach(memory.clone()).expect("a fresh ring");
            let sender = thread::spawn(move || {
                for message in 0..3 {
                    // The claim below is written to and dropped; the slot goes to the message after it.
                    if let Ok(mut claim) = producer.try_claim() {
                        claim.write(0, &[0xff; SLOT_BYTES]);
                    }
                    send(&mut producer, message);
                }
            });
            let mut consumer = Consumer::attach(memory).expect("a fresh ring");
            for message in 0..3 {
                assert_eq!(receive(&mut consumer), message);
            }
            sender.join().expect("the sender");
            assert_eq!(try_receive(&mut consumer), None);
        });
    }

    #[test]
    fn skipping_to_the_latest_loses_nothing_unaccounted_and_keeps_the_order() {
        check(|| {
            const MESSAGES: u64 = 4;
            let memory = sound(2);
            let mut producer = Producer::attach(memory.clone()).expect("a fresh ring");
            let sender =
                thread::spawn(move || (0..MESSAGES).for_each(|message| send(&mut producer, message)));
            let mut consumer = Consumer::attach(memory).expect("a fresh ring");
            let mut due = 0;
            while due < MESSAGES {
                due += consumer.skip_to_latest().expect("an honest producer");
                match try_receive(&mut consumer) {
                    Some(message) => {
                        assert_eq!(message, due);
                        due += 1;
                    }
                    None => thread::yield_now(),
                }
            }
            sender.join().expect("the sender");
        });
    }

    #[test]
    fn a_producer_that_dies_with_a_claim_open_is_succeeded_by_another() {
        check(|| {
            let memory = sound(2);
            let first_memory = memory.clone();
            let sender = thread::spawn(move || {
                let mut first = Producer::attach(first_memory.clone()).expect("a fresh ring");
                send(&mut first, 0);
                send(&mut first, 1);
                if let Ok(mut claim) = first.try_claim() {
                    claim.write(0, &[0xff; SLOT_BYTES]);
                }
                drop(first);
                let mut second = Producer::attach(first_memory).expect("positions of an honest predecessor");
                assert_eq!(second.position(), 2);
                let mut last = [0; SLOT_BYTES];
                assert!(second.read_last(0, &mut last));
                assert_eq!(decode(last), 1);
                send(&mut second, 2);
                send(&mut second, 3);
            });
            let mut consumer = Consumer::attach(memory).expect("a fresh ring");
            for message in 0..4 {
                assert_eq!(receive(&mut consumer), message);
            }
            sender.join().expect("the sender");
        });
    }

    #[test]
    fn a_consumer_that_dies_before_it_releases_is_succeeded_by_one_that_reads_again() {
        check(|| {
            let memory = sound(2);
            let mut producer = Producer::attach(memory.clone()).expect("a fresh ring");
            let sender = thread::spawn(move || (0..4).for_each(|message| send(&mut producer, message)));
            let mut first = Consumer::attach(memory.clone()).expect("a fresh ring");
            assert_eq!(receive(&mut first), 0);
            loop {
                if let Some(peek) = first.peek().expect("an honest producer") {
                    let mut bytes = [0; SLOT_BYTES];
                    peek.read(0, &mut bytes);
                    assert_eq!(decode(bytes), 1);
                    break;
                }
                thread::yield_now();
            }
            drop(first);
            let mut second = Consumer::attach(memory).expect("positions of an honest predecessor");
            for message in 1..4 {
                assert_eq!(receive(&mut second), message);
            }
            sender.join().expect("the sender");
        });
    }

    /// A successor that runs on another thread and knows of its predecessor's end by the position alone: what
    /// makes the predecessor's reads precede the producer's next write is the Acquire in `Consumer::attach`.
    #[test]
    fn a_successor_on_another_thread_needs_no_more_than_the_position() {
        const LOOKS: usize = 3;
        check(|| {
            let memory = sound(2);
            let mut producer = Producer::attach(memory.clone()).expect("a fresh ring");
            send(&mut producer, 0);
            send(&mut producer, 1);
            let mut first = Consumer::attach(memory.clone()).expect("a filled ring");
            let first = thread::spawn(move || assert_eq!(receive(&mut first), 0));
            let second = thread::spawn(move || {
                // Looking a few times, not until it is so: two threads that wait for each other's progress
                // would have more schedules than loom follows.
                for _ in 0..LOOKS {
                    let mut candidate = Consumer::attach(memory.clone()).expect("an honest predecessor");
                    if candidate.position() == 1 {
                        assert_eq!(receive(&mut candidate), 1);
                        return;
                    }
                    thread::yield_now();
                }
            });
            for _ in 0..LOOKS {
                if producer.released().expect("honest consumers") == 2 {
                    send(&mut producer, 2);
                    send(&mut producer, 3);
                    break;
                }
                thread::yield_now();
            }
            first.join().expect("the first consumer");
            second.join().expect("the second consumer");
        });
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn planted_bug_relaxed_positions_turn_the_model_red() {
        check(|| stream(memory(Relaxed, 2, 2), 3));
    }

    #[test]
    #[should_panic]
    fn planted_bug_a_capacity_beyond_the_slots_turns_the_model_red() {
        check(|| stream(memory(|word| word, 2, 4), 4));
    }
}
