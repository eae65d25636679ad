//! A lease with a deadline: the exclusive right to a value, granted by its holder and claimable once the
//! deadline has passed.
//!
//! ```text
//!            grant(deadline)                     take_back: compare-and-swap
//!   HELD ──────────────────────▶ GRANTED ──────────────────────────────────▶ HELD
//!    ▲                              │
//!    │ recover                      │ claim, once the deadline has passed: compare-and-swap
//!    └──────── RETURNED ◀──────── CLAIMED
//!                      done
//! ```
//!
//! The word holds the number of the lease, which grows with every grant and is never used twice. So a
//! claimant that was stopped between its look and its claim cannot claim a later lease than the one it looked
//! at. Both ways out of GRANTED are a compare-and-swap on the same word, so exactly one side gets the value,
//! wherever either side is stopped.

use crossbeam::utils::CachePadded;
use escapement_ring::clock::Nanos;
use escapement_ring::sync::{AtomicU64, Ordering, SharedCell};
use std::sync::Arc;

/// The phase of a lease: the low bits of the word.
const PHASE_BITS: u32 = 2;
const HELD: u64 = 0;
const GRANTED: u64 = 1;
const CLAIMED: u64 = 2;
const RETURNED: u64 = 3;
/// The word after the holder was dropped.
const CLOSED: u64 = u64::MAX;

/// What both sides reach.
struct Shared<T> {
    /// On cache lines of its own: the claimant reads it again and again, and each read takes the line from
    /// the holder.
    control: CachePadded<Control>,
    value: CachePadded<SharedCell<T>>,
}

struct Control {
    /// The number of the last lease, and its phase.
    word: AtomicU64,
    /// The deadline of the current lease, in nanoseconds.
    deadline: AtomicU64,
    /// The shortest time from a grant to its deadline, as announced by the holder: it decides how often the
    /// claimant must look.
    shortest: AtomicU64,
}

/// The side that has the value, except between a grant and the matching [`LeaseHolder::take_back`] or
/// [`LeaseHolder::recover`].
pub struct LeaseHolder<T> {
    shared: Arc<Shared<T>>,
    /// The number of the last lease.
    number: u64,
    holds: bool,
}

/// The side that may claim a granted lease after its deadline.
pub struct LeaseClaimant<T> {
    shared: Arc<Shared<T>>,
}

/// The state of a lease, as the claimant sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    /// The holder has the value.
    Held,
    /// The lease is granted until its deadline.
    Granted {
        /// The lease's number.
        number: u64,
        /// The lease may be claimed after this instant, not at it.
        deadline: Nanos,
    },
    /// The claimant claimed this lease and is done; the holder has not recovered the value yet.
    Returned {
        /// The lease's number.
        number: u64,
    },
    /// The holder was dropped.
    Closed,
}

/// Creates a lease on `value` and returns both sides. The holder has the value.
pub fn lease<T>(value: T) -> (LeaseHolder<T>, LeaseClaimant<T>) {
    let control = Control {
        word: AtomicU64::new(HELD),
        deadline: AtomicU64::new(u64::MAX),
        shortest: AtomicU64::new(u64::MAX),
    };
    let shared = Arc::new(Shared {
        control: CachePadded::new(control),
        value: CachePadded::new(SharedCell::new(value)),
    });
    let claimant = LeaseClaimant { shared: Arc::clone(&shared) };
    (LeaseHolder { shared, number: 0, holds: true }, claimant)
}

impl<T> LeaseHolder<T> {
    /// Runs `body` on the value. Returns `None` while the lease is granted or claimed.
    #[inline]
    pub fn with<R>(&mut self, body: impl FnOnce(&mut T) -> R) -> Option<R> {
        if !self.holds {
            return None;
        }
        // SAFETY: this side holds the value. The claimant enters only after it has claimed a granted lease,
        // and none is granted now; `recover` acquired what it did in an earlier one. There is one holder, and
        // it is borrowed for as long as the body runs.
        Some(unsafe { self.shared.value.with(body) })
    }

    /// Grants a lease: the claimant may claim it after `deadline`. Does nothing if this side does not hold
    /// the value.
    #[inline]
    pub fn grant(&mut self, deadline: Nanos) {
        if !self.holds {
            return;
        }
        self.holds = false;
        self.number += 1;
        let control = &self.shared.control;
        control.deadline.store(deadline.0, Ordering::Relaxed);
        // SYNC POINT `GRANTED`, Release: partner is `LeaseClaimant::state`. The value as this side left it,
        // and the deadline above, become visible before the lease can be claimed.
        control.word.store(word(self.number, GRANTED), Ordering::Release);
    }

    /// Takes the value back. Returns false if the claimant has claimed it first: exactly one of the two gets
    /// it.
    #[inline]
    #[must_use]
    pub fn take_back(&mut self) -> bool {
        if self.holds {
            return true;
        }
        let (from, to) = (word(self.number, GRANTED), word(self.number, HELD));
        // Relaxed is enough for the winner: the value was not touched since this side granted the lease. The
        // loser acquires what was done to the value in `recover`.
        self.holds =
            self.shared.control.word.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        self.holds
    }

    /// Recovers the value after the claimant has claimed it. Returns false while the claimant is still at
    /// work. Never waits.
    #[inline]
    #[must_use]
    pub fn recover(&mut self) -> bool {
        // SYNC POINT `RETURNED`, Acquire: partner is `LeaseClaimant::claim`. What the claimant did to the
        // value is visible.
        self.recover_by(Ordering::Acquire)
    }

    /// The ordering is a parameter for the model, which plants a weaker one.
    #[inline]
    pub(super) fn recover_by(&mut self, order: Ordering) -> bool {
        if !self.holds && self.shared.control.word.load(order) == word(self.number, RETURNED) {
            self.hold();
        }
        self.holds
    }

    /// Relaxed: the claimant only learns that this side holds again, and reads no data because of it.
    #[inline]
    pub(super) fn hold(&mut self) {
        self.shared.control.word.store(word(self.number, HELD), Ordering::Relaxed);
        self.holds = true;
    }

    /// Announces the shortest time from a grant to its deadline from now on.
    pub fn set_shortest_deadline(&self, shortest: Nanos) {
        // Relaxed: a claimant that sees the new value late looks once more at the old pace.
        self.shared.control.shortest.store(shortest.0, Ordering::Relaxed);
    }
}

impl<T> Drop for LeaseHolder<T> {
    /// Does not interrupt a claimant that is at work: it finishes before it looks again.
    fn drop(&mut self) {
        // Relaxed: this publishes nothing but the end itself.
        self.shared.control.word.store(CLOSED, Ordering::Relaxed);
    }
}

impl<T> LeaseClaimant<T> {
    /// Returns the state of the lease.
    #[inline]
    pub fn state(&self) -> LeaseState {
        let control = &self.shared.control;
        // SYNC POINT `GRANTED`, Acquire: partner is `LeaseHolder::grant`. The deadline read below is the one
        // of this lease or of a later one, and in the second case the claim fails.
        let word = control.word.load(Ordering::Acquire);
        let number = word >> PHASE_BITS;
        match word & ((1 << PHASE_BITS) - 1) {
            _ if word == CLOSED => LeaseState::Closed,
            GRANTED => {
                LeaseState::Granted { number, deadline: Nanos(control.deadline.load(Ordering::Relaxed)) }
            }
            RETURNED => LeaseState::Returned { number },
            // This side alone sets CLAIMED, and has left it before it looks again.
            _ => LeaseState::Held,
        }
    }

    /// Claims the lease with this number and runs `body` on the value. Returns `None` if the holder has taken
    /// it back, or has granted a later lease since. The caller must have checked that the deadline has
    /// passed.
    pub fn claim<R>(&mut self, number: u64, body: impl FnOnce(&mut T) -> R) -> Option<R> {
        let control = &self.shared.control;
        // SYNC POINT `GRANTED`, Acquire: partner is `LeaseHolder::grant`. The value is as the holder left it.
        control
            .word
            .compare_exchange(
                word(number, GRANTED),
                word(number, CLAIMED),
                Ordering::Acquire,
                Ordering::Relaxed,
            )
            .ok()?;
        // SAFETY: the lease is claimed: the holder enters again only after `recover` has seen the store
        // below, and this is the one claimant.
        let result = unsafe { self.shared.value.with(body) };
        // SYNC POINT `RETURNED`, Release: partner is `LeaseHolder::recover`. What was done to the value
        // becomes visible first. A holder that was dropped has left CLOSED in the word, which stays.
        let done = control.word.compare_exchange(
            word(number, CLAIMED),
            word(number, RETURNED),
            Ordering::Release,
            Ordering::Relaxed,
        );
        debug_assert!(done.is_ok() || control.word.load(Ordering::Relaxed) == CLOSED);
        Some(result)
    }

    /// Returns the shortest time from a grant to its deadline, as last announced by the holder.
    pub fn shortest_deadline(&self) -> Nanos {
        Nanos(self.shared.control.shortest.load(Ordering::Relaxed))
    }
}

/// Packs a lease's number and phase into one word. Numbers stay below 2^62: at 10^9 leases a second that
/// lasts 146 years.
#[inline]
const fn word(number: u64, phase: u64) -> u64 {
    number << PHASE_BITS | phase
}
