//! `escapement tap`: the reference order gateway. It takes an agent's actions, reads the state word and the
//! heartbeat before each one, and keeps the ledger. It sends nothing.
//!
//! ```text
//! $ escapement tap -c config/agent.toml --log actions.csv
//! escapement: agent starting -> armed
//! escapement: agent armed -> silent: no heartbeat for 101 ms, nothing may be sent
//! ...
//! ```
//!
//! It ends at SIGTERM or SIGINT, after `--count` actions or `--seconds`, or when the agent has stopped or
//! halted and all its actions are taken. With `--follow` it waits for the next start instead. A killed agent
//! has not stopped: the tap waits for its successor. At the end the tap prints counts by outcome and reason,
//! latencies, how many actions it would have sent and why it withheld the others, and the ledger, as tables
//! or as JSON (`--json`). It exits with 1 if the ledger does not hold.
//!
//! **Withheld.** An action is withheld if it is `torn`, the record of a `halt`, of an earlier start of the
//! agent (`past_epoch`), older than `--max-action-age-ms` (`too_old`), stamped more than a millisecond ahead
//! (`stamped_ahead`), or if the agent is not `armed` or is `silent`.
//!
//! **The ledger.** Every action names the position of the observation that it answers. The position grows by
//! one from each action to the next, and by `n + 1` if `n` observations were skipped. At the end,
//! `observations = actions + skipped + waiting` must balance against the observation ring. A tap that starts
//! late accounts from the first action that it sees.
//!
//! **The log** (`--log`) has one line per action, passed to the kernel before the action is released. A
//! killed tap loses nothing, and its successor appends. `--check-log` proves from the file alone that every
//! action is there once.

use super::CommandResult;
use super::agent::AgentArguments;
use super::attach::{install_stop_signals, once_there, take_role};
use super::exit::{ExitCode, Failure};
use super::seconds::seconds;
use crate::os::pin_to;
use escapement_reference::tap::{Plan, Tap};
use escapement_ring::clock::Nanos;
use escapement_ring::directory::Role;
use escapement_ring::gateway::{Account, ActionLog, Gateway, Limits, LogError, check_log};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Take an agent's actions as an order gateway would, and account for them
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    agent: AgentArguments,
    /// Check a log instead: every action must be in it once
    #[arg(long, value_name = "FILE", conflicts_with_all = ["config", "name", "name_flag", "log"])]
    check_log: Option<PathBuf>,
    /// Append every action to this file, as CSV, before it is released
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// End after this many actions
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End after this many seconds
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = seconds)]
    seconds: Option<Duration>,
    /// When the agent stops or halts, wait for its next start
    #[arg(long)]
    follow: bool,
    /// Treat the agent as lost if its heartbeat is older than this
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    heartbeat_timeout_ms: u64,
    /// Withhold an action that was committed longer ago than this
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    max_action_age_ms: u64,
    /// Wait this long for the agent's rings to appear, or for an ended agent to start again
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

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    if let Some(path) = &arguments.check_log {
        return check(path);
    }
    let directory = arguments.agent.directory()?;
    let mut stop = install_stop_signals()?;
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
    let limits = Limits {
        heartbeat_timeout: Nanos::from_millis(arguments.heartbeat_timeout_ms),
        max_action_age: Nanos::from_millis(arguments.max_action_age_ms),
    };
    let attached = once_there(&mut stop, arguments.wait, || {
        let role = take_role(&directory, Role::Tap)?;
        Ok((role, Gateway::attach(&directory, limits)?))
    })?;
    let Some((_role, gateway)) = attached else { return Ok(ExitCode::Ok) };
    let plan = Plan {
        count: arguments.count,
        seconds: arguments.seconds,
        follow: arguments.follow,
        limits,
        wait: arguments.wait,
        spin: arguments.spin,
    };
    let report = Tap::new(plan, &directory, gateway, log).run(&mut stop)?;
    if arguments.json {
        println!("{}", serde_json::to_string(&report).expect("a report of numbers and names"));
    } else {
        println!("{}", report.table());
    }
    Ok(if report.ledger.holds() { ExitCode::Ok } else { ExitCode::Negative })
}

/// `--check-log`: checks a log by itself.
fn check(path: &Path) -> CommandResult {
    let summary = check_log(path).map_err(|error| match error {
        LogError::Io(error) => Failure::from_io(path, &error),
        LogError::Malformed { .. } => Failure::new(ExitCode::Usage, format!("{}: {error}", path.display())),
    })?;
    let mut account = Account::default();
    for (_, ledger) in &summary.ledgers {
        // The log does not say what the observation ring held. Each ledger ends with its last action.
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
