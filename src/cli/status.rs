//! `escapement status NAME`: what an agent is doing, from the agent itself where it answers, and from what it left where
//! it does not.
//!
//! ```text
//! $ escapement status example
//! example: armed since 2026-11-25T13:20:11.123456789Z
//!   process      pid 4711, epoch 3, heartbeat 0.2 ms ago
//!   ...
//! ```
//! A running daemon is asked through its control socket. One that hangs, is stopped or is dead is judged by the action
//! ring's header, the latch and the age of the heartbeat. `--json` prints the snapshot.
//!
//! | exit code | the agent |
//! |---|---|
//! | 0 | is armed, or on its way there, or draining |
//! | 1 | does not run: stopped, dead, or alive but not answering |
//! | 66 | is not known |
//! | 80 | is halted |

mod page;

use super::CommandResult;
use super::agent::AgentArguments;
use super::exit::ExitCode;
use super::locate::Located;
use crate::agent_files::{ControlRequest, ask_daemon};
use crate::bundle::hex;
use crate::halt::{Latch, LatchState};
use escapement_ring::clock::{Clock, MonotonicClock, Nanos};
use escapement_ring::directory::RingFile;
use escapement_ring::wire::{AgentState, Reason};
use serde_json::{Value, json};
use std::time::Duration;

/// Say what an agent is doing
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    agent: AgentArguments,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How long a daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    let agent = arguments.agent.locate()?;
    agent.must_exist()?;
    let latch = Latch::of(&agent.state).read();
    let (mut snapshot, answer) = match &agent.daemon {
        None => (from_the_ring(&agent), None),
        Some(_) => match ask_daemon(&agent.directory, &ControlRequest::Status {}, PATIENCE) {
            Ok(snapshot) => (snapshot, Some(Ok(()))),
            Err(error) => (from_the_ring(&agent), Some(Err(error))),
        },
    };
    let condition = condition(&snapshot, &latch, &answer);
    snapshot["condition"] = condition.into();
    snapshot["latch"] = latch.to_json();
    snapshot["state_directory"] = json!(agent.state.path());
    if arguments.json {
        println!("{snapshot:#}");
    } else {
        let trouble = answer.and_then(Result::err).map(|error| error.to_string());
        print!("{}", page::render(&snapshot, &latch, trouble.as_deref()));
    }
    Ok(match condition {
        "armed" | "starting" | "warming" | "draining" => ExitCode::Ok,
        "halted" => ExitCode::Halted,
        _ => ExitCode::Negative,
    })
}

/// One word for what an operator has to know first.
fn condition(snapshot: &Value, latch: &LatchState, answer: &Option<std::io::Result<()>>) -> &'static str {
    let word = snapshot["state"].as_str().unwrap_or_default();
    let known = AgentState::ALL.iter().find(|state| state.name() == word);
    match (known, answer) {
        _ if *latch != LatchState::Open => "halted",
        (Some(AgentState::Halted), _) => "halted",
        (Some(AgentState::Stopped) | None, None) => "stopped",
        (_, Some(Err(_))) => "not answering",
        (Some(state), Some(Ok(()))) => state.name(),
        (None, Some(Ok(()))) => "unknown",
        // The word says that it runs, and no process does.
        (Some(_), None) => "dead",
    }
}

/// What can be told without the daemon.
fn from_the_ring(agent: &Located) -> Value {
    let mut snapshot = json!({ "agent": agent.name, "state": null, "pid": agent.pid });
    let now = MonotonicClock.now();
    let age = |heartbeat: u64| (heartbeat > 0).then(|| now.since(Nanos(heartbeat)).0);
    if let Some(header) = agent.header() {
        let (state, reason) = header.state();
        let reason = u16::try_from(reason).ok().and_then(Reason::from_number);
        snapshot["state"] = json!(AgentState::from_number(state).map_or("unknown", AgentState::name));
        snapshot["reason"] = json!(reason.map_or("unknown", Reason::name));
        snapshot["epoch"] = json!(header.epoch());
        snapshot["bundle_sha256"] = json!(hex(&header.bundle_hash()));
        snapshot["heartbeat_age_ns"] = json!(age(header.producer_heartbeat_ns()));
    }
    if let Ok(region) = agent.directory.observe(RingFile::Observations) {
        snapshot["feed_heartbeat_age_ns"] = json!(age(region.header().producer_heartbeat_ns()));
    }
    snapshot
}
