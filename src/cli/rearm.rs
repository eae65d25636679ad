//! `escapement rearm NAME --reason TEXT`: lifts a halt, so that the next start may arm the agent. It starts nothing.
//!
//! ```text
//! $ escapement rearm example --reason "venue is back, positions checked"
//! example: re-armed; it was halted since 2026-11-25T13:20:11.123456789Z, operator: venue is down, by trader
//! ```
//! The audit line is written first and the latch removed last, so that a re-arm that is interrupted leaves the agent halted.
//! While a daemon runs it is refused (69); where nothing is halted it says so (1). It lifts the halts that were there when it
//! began, and none that came since: then nothing is changed (75).

use super::CommandResult;
use super::agent::Order;
use super::exit::{ExitCode, Failure};
use crate::bundle::hex;
use crate::halt::{Audit, AuditLine, Latch, LatchState, User, latches};
use escapement_ring::clock::{Nanos, rfc3339, wall_clock_ns};
use escapement_ring::ring::Header;
use escapement_ring::wire::{AgentState, Reason};

/// How long a halt may take that is under way.
const HALT_PATIENCE: Nanos = Nanos::from_millis(5_000);

/// Lift a halt, so that the agent may be started again
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    order: Order,
}

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    let agent = arguments.order.agent.locate()?;
    agent.must_exist()?;
    if !agent.state.path().is_dir() {
        return not_halted(&agent.name);
    }
    let begun = Audit::of(&agent.state).length();
    // Held by a daemon as long as it runs, also one that is just starting.
    let _role = agent.state.acquire()?;
    // A halt at the same time waits for this one's end, and then halts again; one that came before has left its line.
    let _no_halt_ends_meanwhile = agent.state.lock_rearm(HALT_PATIENCE)?;
    if let Some(halt) = Audit::of(&agent.state).halt_since(begun)? {
        let by = halt.user.map_or_else(String::new, |user| format!(" by {user}"));
        let message = format!("{}: halted anew{by} at {}, nothing was changed", agent.name, halt.at);
        return Err(Failure::new(ExitCode::Temporary, message));
    }
    let latch = Latch::of(&agent.state);
    let found = latch.read();
    let header = agent.header();
    let word = header.as_ref().and_then(halt_in_word);
    let (reason, summary) = match (&found, word) {
        (LatchState::Open, None) => return not_halted(&agent.name),
        (LatchState::Open, Some(reason)) => (reason.to_owned(), reason.to_owned()),
        (LatchState::Halted(halt), _) => (halt.reason.clone(), halt.summary()),
        (LatchState::Unexplained(why), _) => ("unexplained".to_owned(), why.clone()),
    };
    if let LatchState::Halted(halt) = &found {
        Audit::of(&agent.state).complete(halt)?;
    }
    let at_ns = wall_clock_ns();
    Audit::of(&agent.state).append(&AuditLine {
        at: rfc3339(at_ns),
        at_ns,
        what: "rearm".to_owned(),
        reason: Some(reason),
        text: Some(arguments.order.reason.clone()),
        user: Some(User::current()),
        pid: std::process::id(),
        epoch: header.as_ref().map(Header::epoch),
        sequence: None,
        bundle_sha256: header.as_ref().map(|header| hex(&header.bundle_hash())),
    })?;
    if let Some(header) = header.filter(|_| word.is_some()) {
        header.reset_state(AgentState::Stopped.number(), 0);
    }
    if found != LatchState::Open {
        latch.release()?;
    }
    println!("{}: re-armed; it was halted {summary}", agent.name);
    Ok(ExitCode::Ok)
}

fn not_halted(name: &str) -> CommandResult {
    Err(Failure::new(ExitCode::Negative, format!("{name}: not halted, nothing was changed")))
}

/// The reason of a halt in the state word that only a person may lift.
fn halt_in_word(header: &Header) -> Option<&'static str> {
    let (state, number) = header.state();
    let reason = u16::try_from(number).ok().and_then(Reason::from_number);
    let holds = state == AgentState::Halted.number() && reason.is_none_or(latches);
    holds.then(|| reason.map_or("unknown", Reason::name))
}
