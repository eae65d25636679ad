//! `escapement tap`: the reference order gateway. It drains an agent's actions, reads the state word and the heartbeat
//! before it would send each one, and keeps the ledger; it sends nothing anywhere.
//!
//! ```text
//! $ escapement tap -c config/agent.toml --log actions.csv
//! escapement: agent starting -> armed
//! escapement: agent armed -> silent: no heartbeat for 101 ms, nothing may be sent
//! ...
//! ```
//!
//! It ends at SIGTERM or SIGINT, after `--count` actions or `--seconds`, or when the agent has stopped or halted and
//! everything it left has been taken; with `--follow` it waits for the next start instead. An agent that was killed has
//! not stopped: the tap waits for its successor. At the end it prints the counts by outcome and reason, the latencies
//! and the ledger, as tables or with `--json`. It exits with 1 where the ledger does not hold.
//!
//! **The ledger.** Every action names the position of the observation it answers; the position grows by one from each
//! to the next, and by `n + 1` where `n` observations were skipped. At the end, `observations = actions + skipped +
//! waiting` must balance against the observation ring. A tap that starts late accounts from the first action that it
//! sees.
//!
//! **The log** (`--log`) has one line per action, handed to the kernel before the action is released: a tap that is
//! killed loses nothing, its successor appends, and `--check-log` proves from the file alone that every action is there
//! and none came twice.

mod report;

pub(super) use report::TapReport;

use super::CommandResult;
use super::agent::{AgentArguments, ProgressLine, StopSignals, once_there, seconds, take_role};
use super::exit::{ExitCode, Failure};
use crate::os::pin_to;
use escapement_ring::clock::{Clock, MonotonicClock, Nanos};
use escapement_ring::directory::{AgentDirectory, Role};
use escapement_ring::gateway::{Account, ActionLog, AttachError, Condition, Gateway, LogError, check_log};
use report::Tally;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Drain an agent's actions as an order gateway would, and keep the ledger
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    agent: AgentArguments,
    /// Look at a log instead: whether every action is in it, each once
    #[arg(long, value_name = "FILE", conflicts_with_all = ["config", "name", "log"])]
    check_log: Option<PathBuf>,
    /// Append every action to this file, as CSV, before it is released
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// End after so many actions
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End after so many seconds
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = seconds)]
    seconds: Option<Duration>,
    /// Go on when the agent stops or halts, and wait for its next start
    #[arg(long)]
    follow: bool,
    /// Take an agent for lost whose heartbeat is older than this
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    heartbeat_timeout_ms: u64,
    /// Wait so long for the agent's rings to appear, or for an agent that has ended to start again
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = seconds, default_value = "10")]
    wait: Duration,
    /// Burn a core while the ring is empty instead of sleeping
    #[arg(long)]
    spin: bool,
    /// Run on this core
    #[arg(long, value_name = "N")]
    core: Option<usize>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// How long an empty ring is left alone.
const EMPTY_SLEEP: Nanos = Nanos::from_micros(200);
/// How often the agent is told that this gateway is alive, and its condition is looked at between actions.
const ATTEND_EVERY: Nanos = Nanos::from_millis(1);
/// How often an agent that is not armed is looked at for having replaced its rings.
const REPLACED_EVERY: Nanos = Nanos::from_millis(50);

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    if let Some(path) = &arguments.check_log {
        return check(path);
    }
    let directory = arguments.agent.directory()?;
    let mut stop = StopSignals::install()?;
    if let Some(core) = arguments.core {
        pin_to(core).map_err(|error| Failure::new(ExitCode::Usage, format!("--core: {error}")))?;
    }
    let log = arguments
        .log
        .as_ref()
        .map(|path| {
            ActionLog::open(path)
                .map(|log| (path.clone(), log))
                .map_err(|error| Failure::from_io(path, &error))
        })
        .transpose()?;
    let timeout = Nanos::from_millis(arguments.heartbeat_timeout_ms);
    let attached = once_there(&mut stop, arguments.wait, || {
        let role = take_role(&directory, Role::Tap)?;
        Ok((role, Gateway::attach(&directory, timeout)?))
    })?;
    let Some((_role, gateway)) = attached else { return Ok(ExitCode::Ok) };
    let tap = Tap::new(arguments, &directory, gateway, log);
    let report = tap.run(&mut stop)?;
    if arguments.json {
        println!("{}", serde_json::to_string(&report).expect("a report of numbers and names"));
    } else {
        println!("{}", report.table());
    }
    Ok(if report.ledger.holds() { ExitCode::Ok } else { ExitCode::Negative })
}

/// A gateway at work.
struct Tap<'a> {
    arguments: &'a Arguments,
    directory: &'a AgentDirectory,
    gateway: Gateway,
    log: Option<(PathBuf, ActionLog)>,
    tally: Tally,
    /// The accounts of rings that were replaced.
    closed: Account,
    condition: Condition,
    /// Whether the agent was seen otherwise than ended.
    seen_alive: bool,
    next_attend: Nanos,
    next_replaced: Nanos,
    progress: ProgressLine,
}

impl<'a> Tap<'a> {
    fn new(
        arguments: &'a Arguments,
        directory: &'a AgentDirectory,
        gateway: Gateway,
        log: Option<(PathBuf, ActionLog)>,
    ) -> Self {
        let condition = gateway.condition();
        Self {
            arguments,
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

    fn run(mut self, stop: &mut StopSignals) -> Result<TapReport, Failure> {
        let clock = MonotonicClock;
        clock.sleep_exactly();
        let begun = clock.now();
        let mut taken = 0;
        // Whether the agent had ended before the ring was looked at: only then does an empty one say that all is taken.
        let mut ended = false;
        loop {
            let now = clock.now();
            if now >= self.next_attend {
                self.next_attend = now.plus(ATTEND_EVERY);
                self.attend(now);
                ended = self.has_ended(now.since(begun));
            }
            let elapsed = now.since(begun).to_duration();
            let out_of_time = self.arguments.seconds.is_some_and(|seconds| elapsed >= seconds);
            let has_enough = self.arguments.count.is_some_and(|count| taken >= count);
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
            if self.arguments.spin {
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

    fn take_one(&mut self) -> Result<bool, Failure> {
        let Self { gateway, log, tally, .. } = self;
        let taken = gateway.take(|received| {
            if let Some((path, log)) = log {
                log.append(received).map_err(|error| Failure::from_io(path, &error))?;
            }
            tally.note(received);
            Ok::<_, Failure>(())
        })?;
        Ok(taken.is_some())
    }

    /// Heartbeat, and the agent's condition: a change of it is said once.
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

    /// Whether there is nothing more to come. What an agent left that had ended before this gateway came does not end
    /// it: its successor is waited for.
    fn has_ended(&self, elapsed: Nanos) -> bool {
        let patient = !self.seen_alive && elapsed.to_duration() < self.arguments.wait;
        self.condition.has_ended() && !self.arguments.follow && !patient
    }

    /// Goes over to the agent's new rings, if it has replaced these; they are empty by then.
    fn follow_replaced_rings(&mut self, now: Nanos) -> Result<bool, Failure> {
        if self.condition == Condition::Armed || now < self.next_replaced {
            return Ok(false);
        }
        self.next_replaced = now.plus(REPLACED_EVERY);
        if !self.gateway.is_replaced(self.directory) {
            return Ok(false);
        }
        let timeout = Nanos::from_millis(self.arguments.heartbeat_timeout_ms);
        match Gateway::attach(self.directory, timeout) {
            Ok(next) => {
                self.closed += self.gateway.account();
                self.gateway = next;
                self.condition = self.gateway.condition();
                self.seen_alive |= !self.condition.has_ended();
                Ok(true)
            }
            // The other ring of the pair is still the old one; it is looked at again.
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

/// `--check-log`: what can be told from a log alone.
fn check(path: &Path) -> CommandResult {
    let summary = check_log(path).map_err(|error| match error {
        LogError::Io(error) => Failure::from_io(path, &error),
        LogError::Malformed { .. } => Failure::new(ExitCode::Usage, format!("{}: {error}", path.display())),
    })?;
    let mut account = Account::default();
    for (_, ledger) in &summary.ledgers {
        // What the observation ring held is not in the log: each ledger is closed with its last action.
        account += ledger.settled();
    }
    println!(
        "{} actions, {} skipped between them; {} lost, {} duplicates, {} out of order, {} torn, {} contradictions; \
         {} read again",
        account.actions,
        account.skipped,
        summary.lost,
        account.duplicates,
        account.out_of_order,
        account.torn,
        summary.contradictions,
        summary.read_again
    );
    let good = account.holds() && summary.lost == 0 && summary.contradictions == 0;
    Ok(if good { ExitCode::Ok } else { ExitCode::Negative })
}

impl From<AttachError> for Failure {
    fn from(error: AttachError) -> Self {
        match error {
            AttachError::Directory(error) => error.into(),
            AttachError::Violation(violation) => violation.into(),
            // A daemon is just replacing them: like rings that are not there yet.
            AttachError::NotAPair { .. } => Self::new(ExitCode::InputMissing, error.to_string()),
        }
    }
}
