//! `escapement status NAME`: what an agent is doing.
//!
//! ```text
//! $ escapement status example
//! example: armed since 2026-11-25T13:20:11.123456789Z
//!   process      pid 4711, epoch 3, heartbeat 0.2 ms ago
//!   ...
//! ```
//! A running daemon is asked through its control socket. An agent that hangs, is stopped or is dead is judged
//! by the action ring's header, the latch and the age of the heartbeat. `--json` prints the report as JSON.
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
use crate::halt::{Latch, LatchState, state_of};
use crate::hex::hex;
use crate::status::{
    ActionRingStatus, ObservationRingStatus, RingStatus, StatusPage, StatusReport, StatusSource,
};
use escapement_ring::clock::{Clock, MonotonicClock, Nanos};
use escapement_ring::directory::RingFile;
use escapement_ring::wire::AgentState;
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
    let mut trouble = None;
    let mut source = None;
    if agent.daemon.is_some() {
        match ask_daemon::<StatusPage>(&agent.directory, &ControlRequest::Status {}, PATIENCE) {
            // The file decides, not the daemon's copy of it.
            Ok(page) => {
                source = Some(StatusSource::Daemon(Box::new(StatusPage { latch: latch.clone(), ..page })))
            }
            Err(error) => trouble = Some(error.to_string()),
        }
    }
    let source = source.unwrap_or_else(|| StatusSource::Rings(from_the_rings(&agent, latch)));
    let condition = condition(&source, trouble.is_some());
    let report = StatusReport {
        condition: condition.to_owned(),
        state_directory: agent.state.path().to_owned(),
        source,
    };
    if arguments.json {
        println!("{:#}", report.to_json());
    } else {
        print!("{}", page::render(&report, trouble.as_deref()));
    }
    Ok(match condition {
        "armed" | "starting" | "warming" | "draining" => ExitCode::Ok,
        "halted" => ExitCode::Halted,
        _ => ExitCode::Negative,
    })
}

/// The condition in one word. `is_silent` says that a daemon runs and does not answer.
fn condition(source: &StatusSource, is_silent: bool) -> &'static str {
    let word = source.state().unwrap_or_default();
    let state = AgentState::ALL.iter().find(|state| state.name() == word);
    let has_answered = matches!(source, StatusSource::Daemon(_));
    match state {
        _ if *source.latch() != LatchState::Open => "halted",
        Some(AgentState::Halted) => "halted",
        Some(AgentState::Stopped) | None if !has_answered && !is_silent => "stopped",
        _ if is_silent => "not answering",
        Some(state) if has_answered => state.name(),
        None => "unknown",
        // The word says that the agent runs, and no process does.
        Some(_) => "dead",
    }
}

/// What can be told without the daemon.
fn from_the_rings(agent: &Located, latch: LatchState) -> RingStatus {
    let now = MonotonicClock.now();
    let age = |heartbeat: u64| (heartbeat > 0).then(|| now.since(Nanos(heartbeat)).0);
    let header = agent.header();
    let word = header.as_ref().map(state_of);
    let actions = header.zip(word).map(|(header, word)| ActionRingStatus {
        reason: word.reason_name().to_owned(),
        epoch: header.epoch(),
        bundle_sha256: hex(&header.bundle_hash()),
        heartbeat_age_ns: age(header.producer_heartbeat_ns()),
    });
    let observations = agent.directory.observe(RingFile::Observations).ok().map(|region| {
        ObservationRingStatus { feed_heartbeat_age_ns: age(region.header().producer_heartbeat_ns()) }
    });
    RingStatus {
        agent: agent.name.clone(),
        state: word.map(|word| word.state_name().to_owned()),
        pid: agent.pid,
        latch,
        actions,
        observations,
    }
}
