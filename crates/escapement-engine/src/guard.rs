//! The deadline guard: it answers in place of the engine if the policy has not returned by the deadline.
//!
//! A check after the policy returns is too late exactly when it matters. So the engine grants a lease on the
//! responder before it calls the policy (see [`lease`](crate::lease)). Once the deadline has passed, the
//! guard, on another core, claims the lease and commits the safe default while the policy still computes. The
//! side that wins the claim commits the tick's one action; the other side's result is discarded.
//!
//! The guard need not watch every tick. A tick that reaches its deadline has been granted for that long, so a
//! guard that looks twice in the shortest deadline sees it in time. For all other ticks the shared cache line
//! stays with the engine.

use super::keep_warm::KeepWarm;
use super::private_responder::PrivateResponder;
use super::responder::Responder;
use super::settings::Settings;
use super::verdict::{InFlight, Verdict};
use crate::lease::{LeaseClaimant, LeaseState};
use escapement_policy::words;
use escapement_ring::clock::{Clock, MonotonicClock, Nanos};
use escapement_ring::ring::Header;
use escapement_ring::wire::{Outcome, Reason};
use std::sync::Arc;

/// How the guard waits between two looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardWake {
    /// It spins, on a core of its own. A takeover comes within a microsecond of the deadline.
    Spin,
    /// It sleeps between looks, and spins only if a tick in flight is near its deadline.
    Sleep,
}

words!(GuardWake { Spin = "spin", Sleep = "sleep" });

/// Takes over late ticks, and notices a policy that hangs.
pub struct DeadlineGuard<C> {
    clock: C,
    claimant: LeaseClaimant<Responder>,
    action_header: Header,
    wake: GuardWake,
    hang_timeout: Option<Nanos>,
    in_flight: Option<WatchedTick>,
    /// A lease of its own, to take over ticks that nobody has to answer.
    /// `None` if nothing is to be kept warm.
    rehearsal: Option<PrivateResponder>,
    rehearsed: Nanos,
}

/// A tick that the guard has seen in flight.
#[derive(Debug, Clone, Copy)]
struct WatchedTick {
    /// The number of its lease.
    number: u64,
    /// When the guard saw it first, and when last.
    first: Nanos,
    seen: Nanos,
    /// How long the guard has watched it.
    watched: Nanos,
    /// The sequence number of its observation, once the guard has answered it.
    answered: Option<u64>,
    /// True once it was reported as overdue.
    reported: bool,
}

/// What the guard found in one look, and did about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardPoll {
    /// No tick in flight is due. The guard must look again at this instant.
    Later(Nanos),
    /// A tick is in flight with this deadline. The guard must look right after it.
    Due(Nanos),
    /// The guard has answered a tick, with a halt if the budget of misses was exceeded.
    TookOver {
        /// True if that halted the agent.
        halted: bool,
    },
    /// The policy has been computing for so long that it may be hung. It counts as hung after this instant.
    /// Reported once for each tick.
    Overdue(Nanos),
    /// The policy has not returned within the hang timeout. The state word says halted.
    Hung {
        /// The sequence of the observation that it has not returned from, if the guard has answered it.
        sequence: Option<u64>,
    },
    /// The engine was dropped.
    Closed,
}

/// What the guard reports while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardEvent {
    /// It is awake, and has been since its last report.
    Awake(Nanos),
    /// It has woken from a sleep.
    Woke {
        /// When the sleep was due to end.
        due: Nanos,
        /// When it ended.
        now: Nanos,
    },
    /// The policy may be hung. Work that must be done before the process ends has time until this instant.
    Overdue(Nanos),
}

/// Why the guard ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardEnd {
    /// The engine was dropped.
    Closed,
    /// The policy is hung; see [`GuardPoll::Hung`].
    Hung {
        /// The sequence of the observation that it has not returned from, if the guard has answered it.
        sequence: Option<u64>,
    },
}

/// Looks per shortest deadline.
const LOOKS: u64 = 2;
/// The shortest and the longest time between two looks.
const PACE: (Nanos, Nanos) = (Nanos(5_000), Nanos::from_millis(1));
/// A sleeping guard wakes up this long before a deadline. Few timed wake-ups are later than this.
const AWAKE_BEFORE: Nanos = Nanos::from_micros(80);
/// The most that one look adds to the time for which a tick was watched. A guard that was itself stopped,
/// usually with the whole process, cannot judge the policy for that time.
const MOST_PER_LOOK: Nanos = Nanos::from_millis(5);
/// A policy is reported as overdue at most this long before the end of the hang timeout, and at most half the
/// timeout before it. That leaves time to prepare for the end, also for a thread that has to wait for its
/// core.
const OVERDUE_BEFORE: Nanos = Nanos::from_millis(250);
/// The guard rehearses a takeover this often while nothing is due.
const REHEARSE_EVERY: Nanos = Nanos::from_micros(200);
/// While the guard spins towards a deadline, it looks this often whether the tick is still in flight.
const GLANCE: Nanos = Nanos::from_micros(20);

impl<C: Clock> DeadlineGuard<C> {
    pub(super) fn new(
        clock: C,
        claimant: LeaseClaimant<Responder>,
        action_header: Header,
        wake: GuardWake,
        hang_timeout: Option<Nanos>,
        settings: &Arc<Settings>,
    ) -> Self {
        let rehearsal = (settings.keep_warm != KeepWarm::Off).then(|| PrivateResponder::new(settings));
        let rehearsed = Nanos(0);
        Self { clock, claimant, action_header, wake, hang_timeout, in_flight: None, rehearsal, rehearsed }
    }

    /// Looks once, and does what is due. Never waits.
    pub fn poll(&mut self) -> GuardPoll {
        let view = self.claimant.state();
        // After the look, so that a tick that was seen in flight was granted before this instant.
        let now = self.clock.now();
        match view {
            LeaseState::Closed => GuardPoll::Closed,
            LeaseState::Held => {
                self.in_flight = None;
                GuardPoll::Later(now.plus(self.pace()))
            }
            LeaseState::Granted { number, deadline } => {
                let hang = self.hang_at(number, now);
                if now > hang {
                    self.halt()
                } else if now > deadline {
                    self.take_over(number, now)
                } else if self.is_overdue(now, hang) {
                    GuardPoll::Overdue(hang)
                } else if deadline <= now.plus(self.pace()).plus(AWAKE_BEFORE) {
                    GuardPoll::Due(deadline.min(hang))
                } else {
                    GuardPoll::Later(now.plus(self.pace()).min(hang))
                }
            }
            LeaseState::Returned { number } => {
                let hang = self.hang_at(number, now);
                if now > hang {
                    self.halt()
                } else if self.is_overdue(now, hang) {
                    GuardPoll::Overdue(hang)
                } else {
                    GuardPoll::Later(now.plus(self.pace()).min(hang))
                }
            }
        }
    }

    /// Looks until the engine is dropped or hangs. Calls `report` on every pass of the loop while the guard
    /// is awake, after every sleep, and when a policy is overdue. The caller can measure the platform's own
    /// gaps from these reports, and prepare for the end of a policy that may be hung.
    pub fn run(&mut self, mut report: impl FnMut(GuardEvent)) -> GuardEnd {
        if self.wake == GuardWake::Sleep {
            MonotonicClock.sleep_exactly();
        }
        loop {
            match self.poll() {
                GuardPoll::Later(at) => {
                    self.keep_warm();
                    match self.wake {
                        GuardWake::Spin => self.spin_until(at, &mut report),
                        GuardWake::Sleep => self.sleep_until(at, &mut report),
                    }
                }
                GuardPoll::Due(deadline) => self.wait_for_deadline(deadline, &mut report),
                GuardPoll::TookOver { .. } => {}
                GuardPoll::Overdue(hang) => report(GuardEvent::Overdue(hang)),
                GuardPoll::Closed => return GuardEnd::Closed,
                GuardPoll::Hung { sequence } => return GuardEnd::Hung { sequence },
            }
        }
    }

    // Never inlined, because the rehearsal keeps exactly this code warm.
    #[inline(never)]
    fn take_over(&mut self, number: u64, now: Nanos) -> GuardPoll {
        let clock = &self.clock;
        let taken = self
            .claimant
            .claim(number, |responder| (responder.take_over(now, || clock.now()), responder.tick));
        match taken {
            Some((Verdict { outcome, .. }, tick)) => {
                // The guard now knows when the tick began, which is before it was first seen.
                if let Some(known) = &mut self.in_flight {
                    let unseen = known.first.since(tick.peeked).min(MOST_PER_LOOK);
                    known.watched = known.watched.plus(unseen);
                    known.answered = Some(tick.observation.sequence);
                }
                GuardPoll::TookOver { halted: outcome == Outcome::Halt }
            }
            // The engine was faster.
            None => GuardPoll::Later(now.plus(self.pace())),
        }
    }

    /// Rehearses a takeover from time to time, so that the first real one does not wait for code and data.
    fn keep_warm(&mut self) {
        let now = self.clock.now();
        if now.since(self.rehearsed) >= REHEARSE_EVERY {
            self.rehearse(now);
            self.rehearsed = now;
        }
    }

    /// Takes over a tick of the private lease.
    pub(super) fn rehearse(&mut self, now: Nanos) {
        // Taken out of `self` meanwhile, because `take_over` borrows the whole guard.
        let Some(mut rehearsal) = self.rehearsal.take() else { return };
        let tick = InFlight { peeked: now, called: now, ..InFlight::default() };
        rehearsal.holder.with(|responder| {
            responder.tick = tick;
            responder.halted = None;
        });
        rehearsal.holder.grant(Nanos(0));
        let watched = self.in_flight.take();
        std::mem::swap(&mut self.claimant, &mut rehearsal.claimant);
        if let LeaseState::Granted { number, .. } = self.claimant.state() {
            self.take_over(number, now);
        }
        std::mem::swap(&mut self.claimant, &mut rehearsal.claimant);
        self.in_flight = watched;
        let back = rehearsal.holder.recover();
        debug_assert!(back, "this thread has claimed and returned the lease");
        rehearsal.answers.discard();
        self.rehearsal = Some(rehearsal);
    }

    /// Tells the gateway at once. The caller of the guard must do the rest.
    #[cold]
    fn halt(&self) -> GuardPoll {
        self.action_header.halt(Reason::PolicyHung.number().into());
        GuardPoll::Hung { sequence: self.in_flight.and_then(|known| known.answered) }
    }

    /// Returns true once for each tick, from shortly before the hang timeout on.
    fn is_overdue(&mut self, now: Nanos, hang: Nanos) -> bool {
        let (Some(known), Some(timeout)) = (&mut self.in_flight, self.hang_timeout) else { return false };
        let before = OVERDUE_BEFORE.min(Nanos(timeout.0 / 2));
        let is_overdue = !known.reported && now.plus(before) > hang;
        known.reported |= is_overdue;
        is_overdue
    }

    /// Returns the instant after which the tick in flight counts as hung: when it has been watched for the
    /// hang timeout.
    fn hang_at(&mut self, number: u64, now: Nanos) -> Nanos {
        let known = match self.in_flight {
            Some(known) if known.number == number => {
                let watched = known.watched.plus(now.since(known.seen).min(MOST_PER_LOOK));
                WatchedTick { seen: now, watched, ..known }
            }
            _ => WatchedTick {
                number,
                first: now,
                seen: now,
                watched: Nanos(0),
                answered: None,
                reported: false,
            },
        };
        self.in_flight = Some(known);
        let Some(timeout) = self.hang_timeout else { return Nanos(u64::MAX) };
        // If it was watched for too long, this instant lies before `now` by the excess.
        Nanos(now.plus(timeout).0.saturating_sub(known.watched.0))
    }

    fn pace(&self) -> Nanos {
        Nanos(self.claimant.shortest_deadline().0 / LOOKS).clamp(PACE.0, PACE.1)
    }

    /// Waits until just after the deadline of the tick in flight, or less. The caller must look again.
    fn wait_for_deadline(&self, deadline: Nanos, report: &mut impl FnMut(GuardEvent)) {
        let now = self.clock.now();
        let asleep_until = Nanos(deadline.0.saturating_sub(AWAKE_BEFORE.0));
        match self.wake {
            GuardWake::Spin => self.spin_until(Nanos(deadline.0.saturating_add(1)), report),
            GuardWake::Sleep if now < asleep_until => self.sleep_until(asleep_until, report),
            GuardWake::Sleep => {
                self.spin_until(Nanos(deadline.0.saturating_add(1)).min(now.plus(GLANCE)), report);
            }
        }
    }

    fn sleep_until(&self, due: Nanos, report: &mut impl FnMut(GuardEvent)) {
        MonotonicClock.sleep_until(due);
        report(GuardEvent::Woke { due, now: self.clock.now() });
    }

    fn spin_until(&self, at: Nanos, report: &mut impl FnMut(GuardEvent)) {
        loop {
            let now = self.clock.now();
            report(GuardEvent::Awake(now));
            if now >= at {
                return;
            }
            core::hint::spin_loop();
        }
    }
}
