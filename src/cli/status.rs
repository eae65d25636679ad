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
//! | 1 | does not run: stopped, dead, or alive but not answering, or its rings are lost |
//! | 66 | is not known |
//! | 80 | is halted |

mod page;

use super::CommandResult;
use super::agent::AgentArguments;
use super::exit::ExitCode;
use super::locate::Located;
use crate::agent_files::{ControlRequest, ask_daemon, lock_holder};
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

/// What the daemon said when it was asked.
enum Answer {
    /// No daemon runs.
    NoDaemon,
    /// This process runs as the daemon, and its files beside the rings are gone.
    Unreachable(u32),
    /// A daemon runs and does not answer.
    Silent(String),
    /// A daemon of another version has answered with a page that this program cannot read.
    Unreadable(String),
    /// The page.
    Page(Box<StatusPage>),
}

fn ask(agent: &Located) -> Answer {
    if !agent.is_listed {
        return lock_holder(&agent.state).map_or(Answer::NoDaemon, Answer::Unreachable);
    }
    match ask_daemon(&agent.directory, &ControlRequest::Status {}, PATIENCE) {
        Ok(page) => Answer::Page(page),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            Answer::Unreadable(format!("the daemon's page is not readable by this version: {error}"))
        }
        Err(error) => Answer::Silent(format!("the daemon does not answer: {error}")),
    }
}

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    let agent = arguments.agent.locate()?;
    agent.must_exist()?;
    let latch = Latch::of(&agent.state).read();
    let answer = ask(&agent);
    let from_rings = || StatusSource::Rings(from_the_rings(&agent, latch.clone()));
    let (source, life, trouble) = match answer {
        // The file decides, not the daemon's copy of it.
        Answer::Page(page) => {
            let page = StatusPage { latch: latch.clone(), ..*page };
            (StatusSource::Daemon(Box::new(page)), Life::Answers, None)
        }
        Answer::Unreadable(trouble) => (from_rings(), Life::Answers, Some(trouble)),
        Answer::Silent(trouble) => (from_rings(), Life::Silent, Some(trouble)),
        Answer::Unreachable(pid) => {
            let rings = RingStatus { pid: Some(pid), ..from_the_rings(&agent, latch.clone()) };
            let trouble = format!("process {pid} runs, and its files beside the rings are gone");
            (StatusSource::Rings(rings), Life::Unreachable, Some(trouble))
        }
        Answer::NoDaemon => (from_rings(), Life::Gone, None),
    };
    let condition = condition(&source, life);
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

/// Whether a daemon runs and answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Gone,
    Silent,
    /// It runs, and cannot be asked.
    Unreachable,
    Answers,
}

/// The condition in one word.
fn condition(source: &StatusSource, life: Life) -> &'static str {
    let word = source.state().unwrap_or_default();
    let state = AgentState::ALL.iter().find(|state| state.name() == word);
    match (state, life) {
        _ if *source.latch() != LatchState::Open => "halted",
        (Some(AgentState::Halted), _) => "halted",
        (Some(AgentState::Stopped) | None, Life::Gone) => "stopped",
        (_, Life::Silent) => "not answering",
        (_, Life::Unreachable) => "rings lost",
        (Some(state), Life::Answers) => state.name(),
        (None, Life::Answers) => "unknown",
        // The word says that the agent runs, and no process does.
        (Some(_), Life::Gone) => "dead",
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

#[cfg(test)]
mod tests {
    use super::*;

    fn rings(state: Option<&str>, latch: LatchState) -> StatusSource {
        let (agent, state) = ("eth".to_owned(), state.map(str::to_owned));
        let (pid, actions, observations) = (None, None, None);
        StatusSource::Rings(RingStatus { agent, state, pid, latch, actions, observations })
    }

    /// A daemon of another version whose page cannot be read is not taken for a silent one.
    #[test]
    fn the_condition_tells_silence_from_an_unreadable_answer() {
        let armed = rings(Some("armed"), LatchState::Open);
        assert_eq!(condition(&armed, Life::Answers), "armed");
        assert_eq!(condition(&armed, Life::Silent), "not answering");
        assert_eq!(condition(&armed, Life::Gone), "dead");
        assert_eq!(condition(&rings(None, LatchState::Open), Life::Unreachable), "rings lost");
        assert_eq!(condition(&rings(Some("stopped"), LatchState::Open), Life::Gone), "stopped");
        assert_eq!(condition(&rings(None, LatchState::Open), Life::Gone), "stopped");
        assert_eq!(condition(&rings(Some("unknown"), LatchState::Open), Life::Answers), "unknown");
    }

    #[test]
    fn a_latch_goes_before_everything() {
        let torn = LatchState::Unexplained("torn".to_owned());
        for life in [Life::Gone, Life::Silent, Life::Answers] {
            assert_eq!(condition(&rings(Some("armed"), torn.clone()), life), "halted");
        }
    }
}
