//! The reference gateway: takes an agent's actions, decides for each whether it may be sent, and accounts for
//! all.

mod report;

pub use report::{Latencies, TapReport};

use crate::ReferenceError;
use crate::progress::ProgressLine;
use crate::stop::StopSignals;
use escapement_ring::clock::{Clock, MonotonicClock, Nanos};
use escapement_ring::directory::AgentDirectory;
use escapement_ring::gateway::{Account, ActionLog, AttachError, Condition, Gateway, Limits};
use report::Tally;
use std::path::PathBuf;
use std::time::Duration;

/// When a tap ends, and how it waits.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Actions after which the tap ends.
    pub count: Option<u64>,
    /// The time after which the tap ends.
    pub seconds: Option<Duration>,
    /// Whether to wait for the next start when the agent stops or halts.
    pub follow: bool,
    /// The gateway's limits on the age of a heartbeat and of an action.
    pub limits: Limits,
    /// How long an agent that had ended before the tap came may take to start again.
    pub wait: Duration,
    /// Whether to wait by burning a core instead of sleeping.
    pub spin: bool,
}

/// How long to wait before looking at an empty ring again.
const EMPTY_SLEEP: Nanos = Nanos::from_micros(200);
/// The interval of this gateway's heartbeat and of its look at the agent's condition between actions.
const ATTEND_EVERY: Nanos = Nanos::from_millis(1);
/// How often to check whether an agent that is not armed has replaced its rings.
const REPLACED_EVERY: Nanos = Nanos::from_millis(50);

/// A running tap.
pub struct Tap<'a> {
    plan: Plan,
    directory: &'a AgentDirectory,
    gateway: Gateway,
    log: Option<(PathBuf, ActionLog)>,
    tally: Tally,
    /// The accounts of rings that were replaced.
    closed: Account,
    condition: Condition,
    /// Whether the agent was ever seen alive.
    seen_alive: bool,
    next_attend: Nanos,
    next_replaced: Nanos,
    progress: ProgressLine,
}

impl<'a> Tap<'a> {
    /// A tap that has taken nothing yet. Every action is appended to `log` before it is released.
    pub fn new(
        plan: Plan,
        directory: &'a AgentDirectory,
        gateway: Gateway,
        log: Option<(PathBuf, ActionLog)>,
    ) -> Self {
        let condition = gateway.condition();
        Self {
            plan,
            directory,
            gateway,
            log,
            tally: Tally::default(),
            closed: Account::default(),
            condition,
            seen_alive: !condition.has_ended(),
            next_attend: Nanos(0),
            next_replaced: Nanos(0),
            progress: ProgressLine::new(),
        }
    }

    /// Takes actions until the plan is done, the agent has ended, or a signal comes.
    ///
    /// # Errors
    /// Fails if the log cannot be written, the agent breaks the ring's protocol, or its new rings cannot be
    /// attached.
    pub fn run(mut self, stop: &mut StopSignals) -> Result<TapReport, ReferenceError> {
        let clock = MonotonicClock;
        clock.sleep_exactly();
        let begun = clock.now();
        let mut taken = 0;
        // Whether the agent had ended before the look at the ring. Only then does an empty ring mean that all
        // was taken.
        let mut ended = false;
        loop {
            let now = clock.now();
            if now >= self.next_attend {
                self.next_attend = now.plus(ATTEND_EVERY);
                self.attend(now);
                ended = self.has_ended(now.since(begun));
            }
            let elapsed = now.since(begun).to_duration();
            let out_of_time = self.plan.seconds.is_some_and(|seconds| elapsed >= seconds);
            let has_enough = self.plan.count.is_some_and(|count| taken >= count);
            if out_of_time || has_enough || stop.requested(now) {
                break;
            }
            if self.take_one()? {
                taken += 1;
                continue;
            }
            if self.follow_replaced_rings(now)? {
                continue;
            }
            if ended {
                break;
            }
            if self.plan.spin {
                std::hint::spin_loop();
            } else {
                clock.sleep_until(now.plus(EMPTY_SLEEP));
            }
        }
        self.progress.clear();
        let mut account = self.closed;
        account += self.gateway.account();
        Ok(self.tally.report(account))
    }

    fn take_one(&mut self) -> Result<bool, ReferenceError> {
        let Self { gateway, log, tally, .. } = self;
        let taken = gateway.take(|received| {
            if let Some((path, log)) = log {
                log.append(received).map_err(|error| ReferenceError::file(path, error))?;
            }
            tally.note(received);
            Ok::<_, ReferenceError>(())
        })?;
        Ok(taken.is_some())
    }

    /// Publishes the heartbeat and reports each change of the agent's condition once.
    fn attend(&mut self, now: Nanos) {
        self.gateway.beat();
        let condition = self.gateway.condition();
        if condition.name() != self.condition.name() {
            self.progress.clear();
            eprintln!(
                "escapement: agent {} -> {}{}",
                self.condition.name(),
                condition.name(),
                because(condition)
            );
        }
        self.condition = condition;
        self.seen_alive |= !condition.has_ended();
        let (tally, account) = (&self.tally, self.gateway.account());
        self.progress.update(now, || {
            format!(
                "tap: agent {}; {} actions, {} skipped, {} waiting; tick to action p50 {:.1} us",
                condition.name(),
                tally.actions(),
                account.skipped,
                account.waiting,
                tally.median_tick_to_action_ns() as f64 / 1_000.0
            )
        });
    }

    /// Returns whether no more actions will come. If the agent had ended before this tap started, the tap
    /// waits for its next start instead.
    fn has_ended(&self, elapsed: Nanos) -> bool {
        let patient = !self.seen_alive && elapsed.to_duration() < self.plan.wait;
        self.condition.has_ended() && !self.plan.follow && !patient
    }

    /// Moves to the agent's new rings, if it has replaced these. The old ones are empty by then.
    fn follow_replaced_rings(&mut self, now: Nanos) -> Result<bool, ReferenceError> {
        if self.condition == Condition::Armed || now < self.next_replaced {
            return Ok(false);
        }
        self.next_replaced = now.plus(REPLACED_EVERY);
        if !self.gateway.is_replaced(self.directory) {
            return Ok(false);
        }
        match Gateway::attach(self.directory, self.plan.limits) {
            Ok(next) => {
                self.closed += self.gateway.account();
                self.gateway = next;
                self.condition = self.gateway.condition();
                self.seen_alive |= !self.condition.has_ended();
                Ok(true)
            }
            // The other ring of the pair is still the old one. Try again later.
            Err(AttachError::NotAPair { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn because(condition: Condition) -> String {
    match condition {
        Condition::Silent { age } => {
            format!(": no heartbeat for {} ms, nothing may be sent", age.0 / 1_000_000)
        }
        Condition::NotArmed { reason: Some(reason), .. } if reason.number() != 0 => {
            format!(": {}", reason.name())
        }
        _ => String::new(),
    }
}
