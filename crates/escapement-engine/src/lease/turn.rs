//! The right to a value, lent with a deadline.
//!
//! ```text
//!            lend(deadline)                      reclaim: compare-and-swap
//!   HELD ──────────────────────▶ LENT ─────────────────────────────────────▶ HELD
//!    ▲                            │
//!    │ regain                     │ take, once the deadline has passed: compare-and-swap
//!    └──────── RETURNED ◀─────── TAKEN
//!                      done
//! ```
//!
//! The word counts the times the right was lent, so that a deputy which was stopped between its look and its claim
//! cannot claim a later turn than the one it looked at: numbers are never used twice. Both ways out of LENT are
//! a compare-and-swap on the same word, so exactly one side has the value whatever either of them is stopped at.

use crossbeam::utils::CachePadded;
use escapement_ring::clock::Nanos;
use escapement_ring::sync::{AtomicU64, Ordering, SharedCell};
use std::sync::Arc;

/// What becomes of a turn; the low bits of the word.
const PHASE_BITS: u32 = 2;
const HELD: u64 = 0;
const LENT: u64 = 1;
const TAKEN: u64 = 2;
const RETURNED: u64 = 3;
/// The word of a holder that is gone.
const CLOSED: u64 = u64::MAX;

/// What both sides reach.
struct Shared<T> {
    /// Apart from the value: the deputy looks at it again and again, and each look takes the line from the holder.
    control: CachePadded<Control>,
    value: CachePadded<SharedCell<T>>,
}

struct Control {
    /// How often the right was lent, and the phase of the last time.
    word: AtomicU64,
    /// The deadline of the turn that is lent, in nanoseconds.
    deadline: AtomicU64,
    /// The shortest time from lending to deadline, as far as the holder knows: how often the deputy must look.
    shortest: AtomicU64,
}

/// The side that has the right, unless it has lent it and not got it back.
pub struct Holder<T> {
    shared: Arc<Shared<T>>,
    /// How often the right was lent.
    lent: u64,
    holds: bool,
}

/// The side that steps in.
pub struct Deputy<T> {
    shared: Arc<Shared<T>>,
}

/// What the deputy sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// The holder holds.
    Held,
    /// The right is lent until the deadline, for this turn.
    Lent {
        /// The turn's number.
        turn: u64,
        /// When it may be taken: not at this instant, but after it.
        deadline: Nanos,
    },
    /// The deputy has taken this turn and is done; the holder has not come back yet.
    Returned {
        /// The turn's number.
        turn: u64,
    },
    /// There is no holder any more.
    Closed,
}

/// Both ends of a right to `value`; the holder holds.
pub fn turn<T>(value: T) -> (Holder<T>, Deputy<T>) {
    let control = Control {
        word: AtomicU64::new(HELD),
        deadline: AtomicU64::new(u64::MAX),
        shortest: AtomicU64::new(u64::MAX),
    };
    let shared = Arc::new(Shared {
        control: CachePadded::new(control),
        value: CachePadded::new(SharedCell::new(value)),
    });
    let deputy = Deputy { shared: Arc::clone(&shared) };
    (Holder { shared, lent: 0, holds: true }, deputy)
}

impl<T> Holder<T> {
    /// Runs `body` on the value; `None` where the right is not here.
    #[inline]
    pub fn with<R>(&mut self, body: impl FnOnce(&mut T) -> R) -> Option<R> {
        if !self.holds {
            return None;
        }
        // SAFETY: this side holds. The deputy enters only after it has won a turn that was lent, and none is; what it
        // did in an earlier one was acquired by `regain`. There is one holder, borrowed for as long as the body runs.
        Some(unsafe { self.shared.value.with(body) })
    }

    /// Lends the right: from after `deadline` on the deputy may take it. Does nothing where the right is not here.
    #[inline]
    pub fn lend(&mut self, deadline: Nanos) {
        if !self.holds {
            return;
        }
        self.holds = false;
        self.lent += 1;
        let control = &self.shared.control;
        control.deadline.store(deadline.0, Ordering::Relaxed);
        // SYNC POINT `LENT`, Release: partner is `Deputy::look`. The value as this side left it, and the deadline
        // above, become visible before the turn can be taken.
        control.word.store(word(self.lent, LENT), Ordering::Release);
    }

    /// Takes the right back; false where the deputy was faster. Exactly one of the two gets it.
    #[inline]
    #[must_use]
    pub fn reclaim(&mut self) -> bool {
        if self.holds {
            return true;
        }
        let (from, to) = (word(self.lent, LENT), word(self.lent, HELD));
        // Relaxed is enough to win: nobody has touched the value since this side lent it. A loser learns what was done
        // to the value in `regain`.
        self.holds =
            self.shared.control.word.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        self.holds
    }

    /// Whether the right is here again, after the deputy has taken it: once it is done. Never waits.
    #[inline]
    #[must_use]
    pub fn regain(&mut self) -> bool {
        // SYNC POINT `RETURNED`, Acquire: partner is `Deputy::take`. What the deputy did to the value is visible.
        self.regain_by(Ordering::Acquire)
    }

    /// The ordering is a parameter for the model, which plants a weak one.
    #[inline]
    pub(super) fn regain_by(&mut self, order: Ordering) -> bool {
        if !self.holds && self.shared.control.word.load(order) == word(self.lent, RETURNED) {
            self.hold_again();
        }
        self.holds
    }

    /// Relaxed: the deputy only learns that this side is back, and takes nothing by it.
    #[inline]
    pub(super) fn hold_again(&mut self) {
        self.shared.control.word.store(word(self.lent, HELD), Ordering::Relaxed);
        self.holds = true;
    }

    /// Says how short the time from lending to deadline may be from now on.
    pub fn expect_deadlines_of(&self, shortest: Nanos) {
        // Relaxed: a deputy that sees it late looks at the old pace once more.
        self.shared.control.shortest.store(shortest.0, Ordering::Relaxed);
    }
}

impl<T> Drop for Holder<T> {
    /// A deputy that is at work is left alone: what it takes is finished before it looks again.
    fn drop(&mut self) {
        // Relaxed: nothing but the end itself is told.
        self.shared.control.word.store(CLOSED, Ordering::Relaxed);
    }
}

impl<T> Deputy<T> {
    /// Looks whose turn it is.
    #[inline]
    pub fn look(&self) -> View {
        let control = &self.shared.control;
        // SYNC POINT `LENT`, Acquire: partner is `Holder::lend`. The deadline read below is that of this turn or of a
        // later one, and then the claim fails.
        let word = control.word.load(Ordering::Acquire);
        let turn = word >> PHASE_BITS;
        match word & ((1 << PHASE_BITS) - 1) {
            _ if word == CLOSED => View::Closed,
            LENT => View::Lent { turn, deadline: Nanos(control.deadline.load(Ordering::Relaxed)) },
            RETURNED => View::Returned { turn },
            // TAKEN is this side's own doing, and over before it looks.
            _ => View::Held,
        }
    }

    /// Takes the turn and runs `body` on the value; `None` where the holder was faster, or lends another turn by now.
    /// That the deadline has passed is the caller's to know.
    pub fn take<R>(&mut self, turn: u64, body: impl FnOnce(&mut T) -> R) -> Option<R> {
        let control = &self.shared.control;
        // SYNC POINT `LENT`, Acquire: partner is `Holder::lend`. The value is as the holder left it.
        control
            .word
            .compare_exchange(word(turn, LENT), word(turn, TAKEN), Ordering::Acquire, Ordering::Relaxed)
            .ok()?;
        // SAFETY: the turn is won: the holder enters again only after `regain` has seen what is stored below, and this
        // is the one deputy.
        let result = unsafe { self.shared.value.with(body) };
        // SYNC POINT `RETURNED`, Release: partner is `Holder::regain`. What was done to the value becomes visible first. A
        // holder that is gone has left its own word, which stays.
        let done = control.word.compare_exchange(
            word(turn, TAKEN),
            word(turn, RETURNED),
            Ordering::Release,
            Ordering::Relaxed,
        );
        debug_assert!(done.is_ok() || control.word.load(Ordering::Relaxed) == CLOSED);
        Some(result)
    }

    /// The shortest time from lending to deadline that the holder has said.
    pub fn shortest(&self) -> Nanos {
        Nanos(self.shared.control.shortest.load(Ordering::Relaxed))
    }
}

/// A turn's number and phase in one word. Numbers stay below 2^62: at a thousand million turns a second that is 146
/// years.
#[inline]
const fn word(turn: u64, phase: u64) -> u64 {
    turn << PHASE_BITS | phase
}
