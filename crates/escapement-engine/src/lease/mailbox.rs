//! A box that goes to and fro between two threads: the sender fills it, the receiver takes what is in it at a time of
//! its own and leaves in it what it wants to be rid of.
//!
//! So that the receiver neither allocates nor frees: it swaps its own values with those in the box, and the sender gets the
//! old ones back. There is one box; a second one is offered after the first has come back.

use escapement_ring::sync::{AtomicU64, Ordering, SharedCell};
use std::sync::Arc;

/// The sender's: nothing is offered, and what came back, if anything, is the sender's again.
const EMPTY: u64 = 0;
/// The receiver's.
const OFFERED: u64 = 1;

struct Shared<T> {
    word: AtomicU64,
    slot: SharedCell<Option<Box<T>>>,
}

/// The end that offers.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// The end that takes.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

/// Both ends of an empty mailbox.
pub fn mailbox<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared { word: AtomicU64::new(EMPTY), slot: SharedCell::new(None) });
    (Sender { shared: Arc::clone(&shared) }, Receiver { shared })
}

impl<T> Sender<T> {
    /// Offers a box.
    ///
    /// # Errors
    /// Hands it back while another one has not been taken, or was taken and its remains not been collected.
    pub fn offer(&mut self, offered: Box<T>) -> Result<(), Box<T>> {
        if !self.is_mine() {
            return Err(offered);
        }
        // SAFETY: the word says that the slot is this side's, and `is_mine` acquired what the receiver did; there is one
        // sender, borrowed.
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
        // SYNC POINT `OFFERED`, Release: partner is `Receiver::receive`. The box is in the slot before it is offered.
        self.shared.word.store(OFFERED, Ordering::Release);
        Ok(())
    }

    /// The box that the receiver is done with, and what it left in it.
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
    /// Whether there is something to take. One relaxed load: for a loop that asks again and again.
    #[inline]
    pub fn is_offered(&self) -> bool {
        self.shared.word.load(Ordering::Relaxed) == OFFERED
    }

    /// Runs `take` on what is in the box, if one is offered, and sends the box back.
    pub fn receive<R>(&mut self, take: impl FnOnce(&mut T) -> R) -> Option<R> {
        // SYNC POINT `OFFERED`, Acquire: partner is `Sender::offer`. The box that was offered is in the slot.
        self.receive_by(Ordering::Acquire, take)
    }

    /// The ordering is a parameter for the model, which plants a weak one.
    pub(super) fn receive_by<R>(&mut self, order: Ordering, take: impl FnOnce(&mut T) -> R) -> Option<R> {
        if self.shared.word.load(order) != OFFERED {
            return None;
        }
        // SAFETY: the word says that the slot is this side's until it is stored below; there is one receiver, borrowed.
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
        assert_eq!(sender.offer(Box::new(9)), Err(Box::new(9)), "the remains have not been collected");
        assert_eq!(sender.collect(), Some(Box::new(5)));
        sender.offer(Box::new(10)).expect("it is empty again");
    }
}
