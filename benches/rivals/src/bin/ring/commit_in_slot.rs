//! A prototype: the commit word lies in the slot, so that the consumer's poll brings the first line of the
//! data.
//!
//! Every slot begins with a word that says which message it holds: the position plus one. The word takes the
//! place of the message's own first word, which the reader restores, so that a message has as many lines as
//! in the other rings. The consumer's position is a shared word, as in ours. Peers are trusted.

use super::message::{Message, WORDS, digest, message};
use super::rings::{CAPACITY, Receiver, Sender};
use escapement::backing::Backing;
use escapement::ring::HeapRegion;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const SLOT: usize = size_of::<Message>();
const HEAD: usize = 4096;

/// What both sides share: a page with the consumer's position, then the slots.
#[derive(Clone)]
struct Shared {
    _memory: Arc<dyn Backing>,
    base: *mut u8,
    demotes: bool,
}

// SAFETY: the sides keep apart by the words of the protocol.
unsafe impl Send for Shared {}

impl Shared {
    #[inline(always)]
    fn released(&self) -> &AtomicU64 {
        // SAFETY: the first page is there, and this word is accessed as an atomic alone.
        unsafe { &*self.base.cast() }
    }

    #[inline(always)]
    fn slot(&self, position: u64) -> *mut u8 {
        // SAFETY: the index is below the capacity.
        unsafe { self.base.add(HEAD + (position as usize % CAPACITY) * SLOT) }
    }

    #[inline(always)]
    fn word(&self, position: u64) -> &AtomicU64 {
        // SAFETY: the slot's first word is accessed as an atomic alone.
        unsafe { &*self.slot(position).cast() }
    }

    #[inline(always)]
    fn demote(&self, position: u64) {
        for line in 0..SLOT / 64 {
            // SAFETY: a demotion never faults and changes no memory.
            unsafe {
                core::arch::asm!(
                    "cldemote [{}]",
                    in(reg) self.slot(position).wrapping_add(64 * line),
                    options(nostack, preserves_flags, readonly)
                );
            }
        }
    }
}

/// The sending end.
pub struct Producer {
    shared: Shared,
    position: u64,
    released: u64,
}

/// The receiving end, and the buffer that it copies into.
pub struct Consumer {
    shared: Shared,
    position: u64,
    copied: Message,
}

impl Sender for Producer {
    #[inline]
    fn try_send(&mut self, number: u64) -> bool {
        if self.position - self.released >= CAPACITY as u64 {
            self.released = self.shared.released().load(Ordering::Acquire);
            if self.position - self.released >= CAPACITY as u64 {
                return false;
            }
        }
        let message = message(number);
        let slot = self.shared.slot(self.position);
        // SAFETY: the consumer has released the slot.
        unsafe {
            for index in (8..WORDS).chain(1..8) {
                slot.cast::<u64>().add(index).write_volatile(message[index]);
            }
        }
        self.position += 1;
        self.shared.word(self.position - 1).store(self.position, Ordering::Release);
        if self.shared.demotes {
            self.shared.demote(self.position - 1);
        }
        true
    }
}

impl Receiver for Consumer {
    #[inline]
    fn try_receive(&mut self) -> Option<u64> {
        if self.shared.word(self.position).load(Ordering::Acquire) <= self.position {
            return None;
        }
        let slot = self.shared.slot(self.position);
        // SAFETY: the producer has committed the slot.
        unsafe {
            for index in (8..WORDS).chain(1..8) {
                self.copied[index] = slot.cast::<u64>().add(index).read_volatile();
            }
        }
        self.copied[0] = self.copied[1] - 1;
        self.position += 1;
        self.shared.released().store(self.position, Ordering::Release);
        Some(digest(&self.copied))
    }
}

fn heap(demotes: bool) -> (Producer, Consumer) {
    let memory: Arc<dyn Backing> = Arc::new(HeapRegion::new(HEAD + CAPACITY * SLOT));
    let shared = Shared { base: memory.base().as_ptr(), _memory: memory, demotes };
    let consumer = Consumer { shared: shared.clone(), position: 0, copied: [0; WORDS] };
    (Producer { shared, position: 0, released: 0 }, consumer)
}

/// Both ends, without hints.
pub fn plain() -> (Producer, Consumer) {
    heap(false)
}

/// Both ends; the producer demotes every slot.
pub fn demoted() -> (Producer, Consumer) {
    heap(true)
}
