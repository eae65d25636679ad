//! A mailbox for one box that goes back and forth between two threads. The sender fills the box. The receiver
//! takes its content when it is ready, and may leave old values in it.
//!
//! So the receiver neither allocates nor frees: it swaps its own values with those in the box, and the sender
//! gets the old ones back. The sender can offer a second box only after the first has come back.

use escapement_ring::sync::{AtomicU64, Ordering, SharedCell};
use std::sync::Arc;

/// Nothing is offered. The slot belongs to the sender; a box in it has come back.
const EMPTY: u64 = 0;
/// A box is offered. The slot belongs to the receiver.
const OFFERED: u64 = 1;

struct Shared<T> {
    word: AtomicU64,
    slot: SharedCell<Option<Box<T>>>,
}

/// The end that offers boxes.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// The end that takes what is in them.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

/// Creates an empty mailbox and returns both ends.
pub fn mailbox<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared { word: AtomicU64::new(EMPTY), slot: SharedCell::new(None) });
    (Sender { shared: Arc::clone(&shared) }, Receiver { shared })
}

impl<T> Sender<T> {
    /// Offers a box.
    ///
    /// # Errors
    /// Returns the box if the previous one has not been taken, or was taken but not collected.
    pub fn offer(&mut self, offered: Box<T>) -> Result<(), Box<T>> {
        if !self.is_mine() {
            return Err(offered);
        }
        // SAFETY: the word says that the slot belongs to this side, and `is_mine` acquired what the receiver
        // did. There is one sender, and it is borrowed.
        let refused = unsafe {
            self.shared.slot.with(|slot| match slot {
                Some(_) => Some(offered),
                None => {
                    *slot = Some(offered);
                    None
                }
            })
        };
        if let Some(offered) = refused {
            return Err(offered);
        }
        // SYNC POINT `OFFERED`, Release: partner is `Receiver::receive`. The box is in the slot before it is
        // offered.
        self.shared.word.store(OFFERED, Ordering::Release);
        Ok(())
    }

    /// Returns the box that the receiver is done with, and what it left in it; `None` if there is none.
    pub fn collect(&mut self) -> Option<Box<T>> {
        if !self.is_mine() {
            return None;
        }
        // SAFETY: as in `offer`.
        unsafe { self.shared.slot.with(Option::take) }
    }

    fn is_mine(&self) -> bool {
        // SYNC POINT `EMPTIED`, Acquire: partner is `Receiver::receive`. The receiver has left the slot.
        self.shared.word.load(Ordering::Acquire) == EMPTY
    }
}

impl<T> Receiver<T> {
    /// Returns true if a box is offered. One relaxed load, for a loop that asks again and again.
    #[inline]
    pub fn is_offered(&self) -> bool {
        self.shared.word.load(Ordering::Relaxed) == OFFERED
    }

    /// Runs `take` on the content of the box, if one is offered, and sends the box back.
    pub fn receive<R>(&mut self, take: impl FnOnce(&mut T) -> R) -> Option<R> {
        // SYNC POINT `OFFERED`, Acquire: partner is `Sender::offer`. The box that was offered is in the slot.
        self.receive_by(Ordering::Acquire, take)
    }

    /// The ordering is a parameter for the model, which plants a weaker one.
    pub(super) fn receive_by<R>(&mut self, order: Ordering, take: impl FnOnce(&mut T) -> R) -> Option<R> {
        if self.shared.word.load(order) != OFFERED {
            return None;
        }
        // SAFETY: the word says that the slot belongs to this side until the store below. There is one
        // receiver, and it is borrowed.
        let result = unsafe { self.shared.slot.with(|slot| slot.as_deref_mut().map(take)) };
        // SYNC POINT `EMPTIED`, Release: partner is `Sender::is_mine`. This side has left the slot.
        self.shared.word.store(EMPTY, Ordering::Release);
        result
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_box_goes_and_comes_back_with_what_was_left_in_it() {
        let (mut sender, mut receiver) = mailbox();
        assert!(sender.collect().is_none());
        assert_eq!(receiver.receive(|_: &mut u32| ()), None);
        sender.offer(Box::new(7)).expect("the mailbox is empty");
        assert!(receiver.is_offered());
        assert_eq!(sender.offer(Box::new(8)), Err(Box::new(8)), "one box at a time");
        assert!(sender.collect().is_none(), "it has not been taken");
        assert_eq!(receiver.receive(|value| std::mem::replace(value, 5)), Some(7));
        assert!(!receiver.is_offered());
        assert_eq!(sender.offer(Box::new(9)), Err(Box::new(9)), "the old box has not been collected");
        assert_eq!(sender.collect(), Some(Box::new(5)));
        sender.offer(Box::new(10)).expect("it is empty again");
    }
}
