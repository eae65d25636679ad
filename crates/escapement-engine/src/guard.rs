//! The deadline guard: answers in the engine's stead where the policy has not returned by the deadline.
//!
//! A check made after the policy returns is too late exactly when it matters. So the engine lends the right to answer
//! before it calls the policy (see `lease::turn`), and the guard, on another core, takes it once the deadline
//! has passed: it commits the safe default while the policy still computes. Whoever wins the claim commits the tick's one
//! action; what the other one has is discarded.
//!
//! The guard need not watch every tick. One that lives to its deadline is lent for as long, so that looking twice in the
//! shortest deadline sees it in time; and the engine keeps the line that both look at for all the ticks in between.

use super::desk::{Desk, Verdict};
use crate::lease::{Deputy, View};
use escapement_policy::words;
use escapement_ring::clock::{Clock, MonotonicClock, Nanos};
use escapement_ring::ring::Header;
use escapement_ring::wire::{Outcome, Reason};

/// How the guard waits until it must look again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardWake {
    /// It spins: for a core of its own. A takeover comes within a microsecond of the deadline.
    Spin,
    /// It sleeps between looks, and spins only where a tick in flight is near its deadline.
    Sleep,
}

words!(GuardWake { Spin = "spin", Sleep = "sleep" });

/// Takes over what is late, and notices what hangs.
pub struct DeadlineGuard<C> {
    clock: C,
    deputy: Deputy<Desk>,
    action_header: Header,
    wake: GuardWake,
    hang_timeout: Option<Nanos>,
    in_flight: Option<InFlight>,
}

/// A turn that has been seen in flight.
#[derive(Debug, Clone, Copy)]
struct InFlight {
    turn: u64,
    /// When it was first seen so, and when last.
    first: Nanos,
    seen: Nanos,
    /// How long it has been in flight under the guard's eyes.
    watched: Nanos,
    /// The sequence number of its observation, once the guard has answered it.
    answered: Option<u64>,
    /// Whether it was said that it is overdue.
    told: bool,
}

/// What the guard found when it looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Nothing is in flight, or nothing that is due: look again at this instant.
    Later(Nanos),
    /// A tick is in flight whose deadline is this instant: look right after it.
    Due(Nanos),
    /// It has answered a tick; with a halt, where the budget of misses was spent.
    TookOver {
        /// Whether that halted the agent.
        halted: bool,
    },
    /// The policy has been away so long that it may well hang, which it does after this instant. Said once of a tick.
    Overdue(Nanos),
    /// The policy has not returned within the hang timeout; the state word says halted.
    Hung {
        /// The observation that it does not return from, where the guard has answered it.
        sequence: Option<u64>,
    },
    /// The engine is gone.
    Closed,
}

/// What the guard says while it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// It is awake, and was so since the last time it said this.
    Awake(Nanos),
    /// It has woken from a sleep.
    Woke {
        /// When it was to end.
        due: Nanos,
        /// When it did.
        now: Nanos,
    },
    /// The policy may well hang: what should be done before the process ends has time until this instant.
    Overdue(Nanos),
}

/// How the guard's work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardEnd {
    /// The engine is gone.
    Closed,
    /// The policy hangs; see [`Look::Hung`].
    Hung {
        /// The observation that it does not return from, where the guard has answered it.
        sequence: Option<u64>,
    },
}

/// Looks in the shortest deadline.
const LOOKS: u64 = 2;
/// The longest and the shortest time between two looks.
const PACE: (Nanos, Nanos) = (Nanos(5_000), Nanos::from_millis(1));
/// A sleeping guard is awake this long before a deadline: most timed wake-ups are later than this only by chance.
const AWAKE_BEFORE: Nanos = Nanos::from_micros(80);
/// The most that one look adds to the time a turn has been in flight. A guard that was itself stopped (with the whole process,
/// mostly) knows nothing of what the policy could have done meanwhile.
const MOST_PER_LOOK: Nanos = Nanos::from_millis(5);
/// How long before the end of the hang timeout a policy is called overdue, at the most: time to make ready what is done then,
/// also for a thread that has to wait for its core. At most half of that timeout.
const OVERDUE_BEFORE: Nanos = Nanos::from_millis(250);
/// While it spins towards a deadline it looks this often whether the tick is still in flight.
const GLANCE: Nanos = Nanos::from_micros(20);

impl<C: Clock> DeadlineGuard<C> {
    pub(super) fn new(
        clock: C,
        deputy: Deputy<Desk>,
        action_header: Header,
        wake: GuardWake,
        hang_timeout: Option<Nanos>,
    ) -> Self {
        Self { clock, deputy, action_header, wake, hang_timeout, in_flight: None }
    }

    /// Looks once, and does what is due.
    pub fn look(&mut self) -> Look {
        let view = self.deputy.look();
        // After the look: a tick that is in flight now was lent before this instant.
        let now = self.clock.now();
        match view {
            View::Closed => Look::Closed,
            View::Held => {
                self.in_flight = None;
                Look::Later(now.plus(self.pace()))
            }
            View::Lent { turn, deadline } => {
                let hang = self.hang_at(turn, now);
                if now > hang {
                    self.halt()
                } else if now > deadline {
                    self.take_over(turn, now)
                } else if self.is_overdue(now, hang) {
                    Look::Overdue(hang)
                } else if deadline <= now.plus(self.pace()).plus(AWAKE_BEFORE) {
                    Look::Due(deadline.min(hang))
                } else {
                    Look::Later(now.plus(self.pace()).min(hang))
                }
            }
            View::Returned { turn } => {
                let hang = self.hang_at(turn, now);
                if now > hang {
                    self.halt()
                } else if self.is_overdue(now, hang) {
                    Look::Overdue(hang)
                } else {
                    Look::Later(now.plus(self.pace()).min(hang))
                }
            }
        }
    }

    /// Looks until the engine is gone or hangs. `between` is called in every turn of the loop while the guard is awake, and
    /// after every sleep: what watches the platform's own gaps hears of them there, and whoever has something to do before a
    /// policy that may hang is given up.
    pub fn run(&mut self, mut between: impl FnMut(Moment)) -> GuardEnd {
        if self.wake == GuardWake::Sleep {
            MonotonicClock.sleep_exactly();
        }
        loop {
            match self.look() {
                Look::Later(at) => match self.wake {
                    GuardWake::Spin => self.spin_until(at, &mut between),
                    GuardWake::Sleep => self.sleep_until(at, &mut between),
                },
                Look::Due(deadline) => self.wait_for_deadline(deadline, &mut between),
                Look::TookOver { .. } => {}
                Look::Overdue(hang) => between(Moment::Overdue(hang)),
                Look::Closed => return GuardEnd::Closed,
                Look::Hung { sequence } => return GuardEnd::Hung { sequence },
            }
        }
    }

    fn take_over(&mut self, turn: u64, now: Nanos) -> Look {
        let clock = &self.clock;
        let taken = self.deputy.take(turn, |desk| (desk.take_over(now, || clock.now()), desk.tick));
        match taken {
            Some((Verdict { outcome, .. }, tick)) => {
                // Now it is known when the tick began, which is before it was first seen.
                if let Some(known) = &mut self.in_flight {
                    let unseen = known.first.since(tick.peeked).min(MOST_PER_LOOK);
                    known.watched = known.watched.plus(unseen);
                    known.answered = Some(tick.observation.sequence);
                }
                Look::TookOver { halted: outcome == Outcome::Halt }
            }
            // The engine was faster. It lends again before long.
            None => Look::Later(now.plus(self.pace())),
        }
    }

    /// The gateway learns of it at once; what else there is to do is for whoever runs the guard.
    #[cold]
    fn halt(&self) -> Look {
        self.action_header.halt(Reason::PolicyHung.number().into());
        Look::Hung { sequence: self.in_flight.and_then(|known| known.answered) }
    }

    /// True once for a turn, from shortly before the hang timeout on.
    fn is_overdue(&mut self, now: Nanos, hang: Nanos) -> bool {
        let (Some(known), Some(timeout)) = (&mut self.in_flight, self.hang_timeout) else { return false };
        let before = OVERDUE_BEFORE.min(Nanos(timeout.0 / 2));
        let is_so = !known.told && now.plus(before) > hang;
        known.told |= is_so;
        is_so
    }

    /// The instant after which the turn in flight counts as hung: when it has been watched for the hang timeout.
    fn hang_at(&mut self, turn: u64, now: Nanos) -> Nanos {
        let known = match self.in_flight {
            Some(known) if known.turn == turn => {
                let watched = known.watched.plus(now.since(known.seen).min(MOST_PER_LOOK));
                InFlight { seen: now, watched, ..known }
            }
            _ => InFlight { turn, first: now, seen: now, watched: Nanos(0), answered: None, told: false },
        };
        self.in_flight = Some(known);
        let Some(timeout) = self.hang_timeout else { return Nanos(u64::MAX) };
        // Over by as much as it was watched too long, so that `now` is beyond it.
        Nanos(now.plus(timeout).0.saturating_sub(known.watched.0))
    }

    fn pace(&self) -> Nanos {
        Nanos(self.deputy.shortest().0 / LOOKS).clamp(PACE.0, PACE.1)
    }

    /// Waits until just after the deadline of the tick in flight, or less: the caller looks again.
    fn wait_for_deadline(&self, deadline: Nanos, between: &mut impl FnMut(Moment)) {
        let now = self.clock.now();
        let asleep_until = Nanos(deadline.0.saturating_sub(AWAKE_BEFORE.0));
        match self.wake {
            GuardWake::Spin => self.spin_until(Nanos(deadline.0.saturating_add(1)), between),
            GuardWake::Sleep if now < asleep_until => self.sleep_until(asleep_until, between),
            GuardWake::Sleep => {
                self.spin_until(Nanos(deadline.0.saturating_add(1)).min(now.plus(GLANCE)), between);
            }
        }
    }

    fn sleep_until(&self, due: Nanos, between: &mut impl FnMut(Moment)) {
        MonotonicClock.sleep_until(due);
        between(Moment::Woke { due, now: self.clock.now() });
    }

    fn spin_until(&self, at: Nanos, between: &mut impl FnMut(Moment)) {
        loop {
            let now = self.clock.now();
            between(Moment::Awake(now));
            if now >= at {
                return;
            }
            core::hint::spin_loop();
        }
    }
}
