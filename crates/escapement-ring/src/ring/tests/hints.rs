//! The hints about cache lines: which slots they name, and when the producer demotes.

use super::{SLOT, spec};
use crate::ring::producer::LOOK_EVERY;
use crate::ring::{Consumer, HeapRegion, Memory, Producer, Region, Tuning};
use crate::sync::AtomicU64;
use std::cell::RefCell;
use std::rc::Rc;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hint {
    Write(usize),
    Read(usize),
    Demote(usize),
}

/// A ring that records the hints.
#[derive(Debug, Clone)]
struct Recording {
    region: Region,
    hints: Rc<RefCell<Vec<Hint>>>,
}

// SAFETY: all but the hints is the region's own.
unsafe impl Memory for Recording {
    type Position = AtomicU64;

    fn producer_position(&self) -> &AtomicU64 {
        self.region.producer_position()
    }

    fn consumer_position(&self) -> &AtomicU64 {
        self.region.consumer_position()
    }

    fn capacity(&self) -> u64 {
        self.region.capacity()
    }

    fn slot_size(&self) -> usize {
        self.region.slot_size()
    }

    fn read_slot<R>(&self, index: usize, read: impl FnOnce(*const u8) -> R) -> R {
        self.region.read_slot(index, read)
    }

    fn write_slot<R>(&self, index: usize, write: impl FnOnce(*mut u8) -> R) -> R {
        self.region.write_slot(index, write)
    }

    fn tuning(&self) -> Tuning {
        self.region.tuning()
    }

    fn expect_write(&self, index: usize) {
        self.hints.borrow_mut().push(Hint::Write(index));
    }

    fn expect_read(&self, index: usize) {
        self.hints.borrow_mut().push(Hint::Read(index));
    }

    fn demote(&self, index: usize) {
        self.hints.borrow_mut().push(Hint::Demote(index));
    }
}

type Ends = (Producer<Recording>, Consumer<Recording>);

fn ring(capacity: u64, tuning: Tuning) -> (Ends, Rc<RefCell<Vec<Hint>>>) {
    let region = HeapRegion::ring(spec(capacity)).unwrap().tuned(tuning);
    let memory = Recording { region, hints: Rc::default() };
    let hints = Rc::clone(&memory.hints);
    ((Producer::attach(memory.clone()).unwrap(), Consumer::attach(memory).unwrap()), hints)
}

fn commit(producer: &mut Producer<Recording>) {
    let mut claim = producer.try_claim().unwrap();
    claim.write(0, &[1; SLOT]);
    claim.commit();
}

fn demoted(hints: &RefCell<Vec<Hint>>) -> Vec<usize> {
    let slot = |hint| if let Hint::Demote(slot) = hint { Some(slot) } else { None };
    hints.take().into_iter().filter_map(slot).collect()
}

#[test]
fn a_slot_is_demoted_only_for_a_consumer_that_keeps_up() {
    const CAPACITY: u64 = 1 << 10;
    let ((mut producer, mut consumer), hints) = ring(CAPACITY, Tuning { demote: true, ..Tuning::PLAIN });
    let mut step = |release: bool| {
        let slot = (producer.position() % CAPACITY) as usize;
        commit(&mut producer);
        if release {
            consumer.peek().unwrap().unwrap().release();
        }
        match demoted(&hints)[..] {
            [] => false,
            [one] => {
                assert_eq!(one, slot, "the slot just committed");
                true
            }
            ref more => panic!("{more:?}"),
        }
    };
    // Nothing is known before the first look.
    assert!((0..LOOK_EVERY).all(|_| !step(true)));
    // The consumer waits for each message.
    assert!((0..3 * LOOK_EVERY).all(|_| step(true)));
    // It falls behind: the next look ends the demotions.
    assert!((0..LOOK_EVERY).all(|_| step(false)));
    assert!((0..3 * LOOK_EVERY).all(|_| !step(true)));
}

#[test]
fn without_the_choice_nothing_is_demoted() {
    let ((mut producer, mut consumer), hints) = ring(4, Tuning::PLAIN);
    for _ in 0..3 * LOOK_EVERY {
        commit(&mut producer);
        consumer.peek().unwrap().unwrap().release();
    }
    assert_eq!(hints.take(), []);
}

#[test]
fn prefetches_name_free_slots_for_writing_and_committed_ones_for_reading() {
    for capacity in [2, 4, 8] {
        for ahead in [1, 2, 3, 200] {
            let tuning = Tuning { write_ahead: ahead, read_ahead: ahead, ..Tuning::PLAIN };
            let ((mut producer, mut consumer), hints) = ring(capacity, tuning);
            let mut found = [0, 0];
            for round in 0..64 {
                // So many in a row: from one to a full ring.
                for _ in 0..=round % capacity {
                    commit(&mut producer);
                    found[0] += check(&hints, producer.position(), consumer.position(), capacity);
                }
                while let Some(peek) = consumer.peek().unwrap() {
                    peek.release();
                    found[1] += check(&hints, producer.position(), consumer.position(), capacity);
                }
            }
            assert!(found[0] > 0, "no prefetch for writing, {capacity} slots, {ahead} ahead");
            assert!(found[1] > 0, "no prefetch for reading, {capacity} slots, {ahead} ahead");
        }
    }
}

/// Checks the recorded prefetches against the positions. Returns how many there were.
fn check(hints: &RefCell<Vec<Hint>>, committed: u64, released: u64, capacity: u64) -> usize {
    let holds_message =
        |slot: usize| (released..committed).any(|position| position % capacity == slot as u64);
    let recorded = hints.take();
    for hint in &recorded {
        match *hint {
            Hint::Write(slot) => assert!(!holds_message(slot), "{hint:?}, {released} to {committed}"),
            Hint::Read(slot) => assert!(holds_message(slot), "{hint:?}, {released} to {committed}"),
            Hint::Demote(_) => panic!("a demotion"),
        }
    }
    recorded.len()
}
