//! `escapement rearm NAME --reason TEXT`: lifts a halt, so that the next start may arm the agent. It starts
//! nothing.
//!
//! ```text
//! $ escapement rearm example --reason "venue is back, positions checked"
//! example: re-armed; it was halted since 2026-11-25T13:20:11.123456789Z, operator: venue is down, by trader
//! ```
//! The audit line is written first and the latch removed last, so that a re-arm that is interrupted leaves
//! the agent halted. While a daemon runs, the re-arm is refused (69). If the agent is not halted, it says so
//! (1). It lifts the halts that were there when it began; if a newer one has come since, nothing is changed
//! (75).

use super::CommandResult;
use super::agent::Order;
use super::exit::{ExitCode, Failure};
use crate::halt::{RearmError, rearm};

/// Lift a halt, so that the agent may be started again
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    order: Order,
}

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    let agent = arguments.order.agent.locate()?;
    agent.must_exist()?;
    let name = &agent.name;
    match rearm(agent.target(), &arguments.order.reason) {
        Ok(summary) => {
            println!("{name}: re-armed; it was halted {summary}");
            Ok(ExitCode::Ok)
        }
        Err(RearmError::NotHalted) => {
            Err(Failure::new(ExitCode::Negative, format!("{name}: not halted, nothing was changed")))
        }
        Err(RearmError::HaltedAnew(halt)) => {
            let by = halt.user.map_or_else(String::new, |user| format!(" by {user}"));
            let message = format!("{name}: halted anew{by} at {}, nothing was changed", halt.at);
            Err(Failure::new(ExitCode::Temporary, message))
        }
        Err(RearmError::Daemon(error)) => Err(error.into()),
        Err(RearmError::State(error)) => Err(error.into()),
    }
}
