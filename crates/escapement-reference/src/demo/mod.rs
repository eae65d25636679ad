//! The demo: a feed, an agent and a tap as three processes, and the comparison of their counts.

mod children;
mod feed_beside;
mod workspace;

pub use feed_beside::FeedBeside;
pub use workspace::{AgentOutline, DemoAgent, Workspace};

use crate::ReferenceError;
use crate::feed::FeedReport;
use crate::progress::ProgressLine;
use crate::stop::StopSignals;
use crate::tap::TapReport;
use children::{Process, cores_without};
use escapement_engine::telemetry::CounterSnapshot;
use escapement_ring::clock::{Clock, MonotonicClock, Nanos};
use escapement_ring::directory::RingFile;
use escapement_ring::ring::Region;
use escapement_ring::wire::AgentState;
use serde::Deserialize;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

/// What the demo passes on to its processes, as text for the command lines of `run` and `feed`.
#[derive(Debug, Clone)]
pub struct Plan {
    /// `run --backend`.
    pub backend: Option<String>,
    /// `feed --seconds`.
    pub seconds: Duration,
    /// `feed --rate`.
    pub rate: Option<String>,
    /// `feed --burst`.
    pub burst: Option<NonZeroU64>,
    /// `feed --replay`.
    pub replay: Option<PathBuf>,
    /// `feed --pace`.
    pub pace: Option<String>,
    /// `feed --fault`.
    pub fault: Option<String>,
}

/// The exit code of a tap whose ledger does not hold. That is a finding, not a failure of the tap.
const NEGATIVE: i32 = 1;
/// How long an agent may take to be armed. The slowest part is loading libtorch from a cold disk.
const ARMING_PATIENCE: Duration = Duration::from_secs(120);
/// How long each process may take to end after SIGTERM.
const ENDING_PATIENCE: Duration = Duration::from_secs(20);
/// How often the three processes are checked.
const POLL: Nanos = Nanos::from_millis(10);

/// The three running processes.
pub struct Trio<'a> {
    agent: &'a DemoAgent,
    // Dropped, and so killed, in this order if something fails.
    feed: Process,
    run: Process,
    tap: Process,
    observations: Region,
    actions: Region,
    begun: Nanos,
    seconds: Duration,
}

/// The result of a demo.
pub struct Outcome {
    /// The backend that answered.
    pub backend: String,
    /// The tap's report, with the ledger.
    pub tap: TapReport,
    /// The feed's report.
    pub feed: FeedReport,
    /// The processes' own counts that contradict the ledger, one text each.
    pub disagreements: Vec<String>,
    /// The first failure of the three. The agent's comes before the others'.
    pub failure: Option<ReferenceError>,
}

impl<'a> Trio<'a> {
    /// Starts the agent, waits until it is armed, and starts tap and feed.
    ///
    /// # Errors
    /// Fails if one of the three cannot be started, or the agent is not armed in time.
    pub fn start(
        plan: &Plan,
        workspace: &'a Workspace,
        agent: &'a DemoAgent,
        stop: &mut StopSignals,
    ) -> Result<Self, ReferenceError> {
        let mut run_arguments = vec!["--config".to_owned(), agent.config.display().to_string()];
        if let Some(backend) = &plan.backend {
            run_arguments.extend(["--backend".to_owned(), backend.clone()]);
        }
        let mut run = Process::start("run", &run_arguments, None, workspace.path())?;
        let (observations, actions) = wait_until_armed(agent, &mut run, stop)?;
        let others = cores_without(agent.core);
        let tap = Process::start("tap", &selection(agent, workspace), others, workspace.path())?;
        let feed_arguments = feed_arguments(plan, selection(agent, workspace));
        let begun = MonotonicClock.now();
        let feed = Process::start("feed", &feed_arguments, others, workspace.path())?;
        Ok(Self { agent, feed, run, tap, observations, actions, begun, seconds: plan.seconds })
    }

    /// Waits until the feed has finished, a signal comes, or one of the three ends early.
    pub fn watch(&mut self, stop: &mut StopSignals) {
        let mut progress = ProgressLine::new();
        let clock = MonotonicClock;
        loop {
            let now = clock.now();
            if self.feed.status().is_some() || self.run.status().is_some() || self.tap.status().is_some() {
                return;
            }
            if stop.requested(now) {
                return;
            }
            progress.update(now, || self.progress(now));
            clock.sleep_until(now.plus(POLL));
        }
    }

    fn progress(&self, now: Nanos) -> String {
        let (committed, released) = self.observations.positions();
        let (answered, _) = self.actions.positions();
        let (state, _) = self.actions.header().state();
        format!(
            "demo: {} {}, {:.0} of {:.0} s; {committed} observations, {answered} actions, {} waiting",
            self.agent.name,
            AgentState::from_number(state).map_or("unknown", AgentState::name),
            now.since(self.begun).to_duration().as_secs_f64(),
            self.seconds.as_secs_f64(),
            committed.saturating_sub(released),
        )
    }

    /// Ends the three in the order of the stream, so that every committed observation is accounted for.
    ///
    /// # Errors
    /// Fails if a process does not stop when asked to, or if the feed or the tap gives no report.
    pub fn end(mut self, stop: &mut StopSignals) -> Result<Outcome, ReferenceError> {
        stop.count();
        self.feed.ask_to_stop();
        wait_for_end(&mut self.feed, stop)?;
        self.run.ask_to_stop();
        wait_for_end(&mut self.run, stop)?;
        // The tap ends by itself if the agent ended in order.
        if self.run.status().is_some_and(|status| status.code().is_none()) {
            self.tap.ask_to_stop();
        }
        if self.tap.wait(ENDING_PATIENCE).is_none() {
            self.tap.ask_to_stop();
            wait_for_end(&mut self.tap, stop)?;
        }
        // The agent's failure comes first, because the others follow from it.
        let broken = |process: &mut Process| {
            // A ledger that does not hold is a finding of the tap, not a failure.
            process
                .failure()
                .filter(|failure| !matches!(failure, ReferenceError::Process { code: Some(NEGATIVE), .. }))
        };
        let failure =
            broken(&mut self.run).or_else(|| broken(&mut self.feed)).or_else(|| broken(&mut self.tap));
        let (tap, feed) = match (parse::<TapReport>(&self.tap), parse::<FeedReport>(&self.feed)) {
            (Some(tap), Some(feed)) => (tap, feed),
            // Without reports there is only the reason to show.
            _ => {
                let unknown = || ReferenceError::Internal("the feed or the tap gave no report".to_owned());
                return Err(failure.unwrap_or_else(unknown));
            }
        };
        let status = std::fs::read(self.agent.directory.path().join("status.json"));
        let status = status.ok().and_then(|bytes| serde_json::from_slice::<DaemonStatus>(&bytes).ok());
        let backend = status.as_ref().map_or("unknown", |status| &status.backend).to_owned();
        // If one of them failed, the others ended at different points of the stream.
        let disagreements = match failure {
            None => disagreements(&tap, &feed, status.as_ref()),
            Some(_) => Vec::new(),
        };
        Ok(Outcome { backend, tap, feed, disagreements, failure })
    }
}

/// What the demo reads of the daemon's last status page.
#[derive(Debug, Deserialize)]
struct DaemonStatus {
    backend: String,
    counters: CounterSnapshot,
}

/// The arguments of `feed` and `tap` that name the agent.
fn selection(agent: &DemoAgent, workspace: &Workspace) -> Vec<String> {
    let root = workspace.path().display().to_string();
    [&agent.name, "--root", &root, "--json"].map(str::to_owned).into()
}

fn feed_arguments(arguments: &Plan, mut all: Vec<String>) -> Vec<String> {
    all.push(format!("--seconds={}", arguments.seconds.as_secs_f64()));
    for (name, value) in [
        ("--rate", arguments.rate.clone()),
        ("--burst", arguments.burst.map(|burst| burst.to_string())),
        ("--pace", arguments.pace.clone()),
        ("--fault", arguments.fault.clone()),
    ] {
        all.extend(value.map(|value| format!("{name}={value}")));
    }
    if let Some(path) = &arguments.replay {
        all.extend(["--replay".to_owned(), path.display().to_string()]);
    }
    all
}

fn wait_until_armed(
    agent: &DemoAgent,
    run: &mut Process,
    stop: &mut StopSignals,
) -> Result<(Region, Region), ReferenceError> {
    let clock = MonotonicClock;
    let begun = clock.now();
    let mut progress = ProgressLine::new();
    loop {
        let now = clock.now();
        if let Some(status) = run.status() {
            let unexpected = || ReferenceError::Internal(format!("run: ended with {status}"));
            return Err(run.failure().unwrap_or_else(unexpected));
        }
        let rings =
            (agent.directory.attach(RingFile::Observations), agent.directory.attach(RingFile::Actions));
        let mut state = AgentState::Starting;
        if let (Ok(observations), Ok(actions)) = rings {
            state = AgentState::from_number(actions.header().state().0).unwrap_or(state);
            if state == AgentState::Armed {
                return Ok((observations, actions));
            }
        }
        if stop.requested(now) {
            return Err(ReferenceError::Temporary("interrupted before the agent was armed".to_owned()));
        }
        if now.since(begun).to_duration() > ARMING_PATIENCE {
            let message = format!("the agent was not armed within {} s", ARMING_PATIENCE.as_secs());
            return Err(ReferenceError::Temporary(message));
        }
        progress.update(now, || format!("demo: {} {}", agent.name, state.name()));
        clock.sleep_until(now.plus(POLL));
    }
}

/// Waits for a process after SIGTERM. A second stop signal to the demo ends everything at once.
fn wait_for_end(process: &mut Process, stop: &mut StopSignals) -> Result<(), ReferenceError> {
    let begun = MonotonicClock.now();
    while process.wait(POLL.to_duration()).is_none() {
        if stop.count() > 0 {
            return Err(ReferenceError::Temporary("interrupted".to_owned()));
        }
        if MonotonicClock.now().since(begun).to_duration() > ENDING_PATIENCE {
            return Err(ReferenceError::Temporary(
                "a process did not stop when it was asked to; killed".to_owned(),
            ));
        }
    }
    Ok(())
}

fn parse<T: serde::de::DeserializeOwned>(process: &Process) -> Option<T> {
    serde_json::from_str(&process.output()).ok()
}

/// Compares the ledger, which follows from the actions and the rings' positions, with two independent counts:
/// the feed's commits, and the daemon's answers and skips.
fn disagreements(tap: &TapReport, feed: &FeedReport, status: Option<&DaemonStatus>) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |what: &str, counted: u64, ledger: u64| {
        if counted != ledger {
            found.push(format!("{what} {counted}, the ledger has {ledger}"));
        }
    };
    let ledger = &tap.ledger;
    compare("the feed published", feed.published, ledger.observations);
    if let Some(DaemonStatus { counters, .. }) = status {
        compare("the daemon committed actions", counters.actions, ledger.actions);
        compare("the daemon skipped", counters.skipped, ledger.skipped);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use escapement_ring::gateway::Account;

    fn status(actions: u64, skipped: u64) -> DaemonStatus {
        let counters = CounterSnapshot { actions, skipped, ..CounterSnapshot::default() };
        DaemonStatus { backend: "null".to_owned(), counters }
    }

    #[test]
    fn counts_that_contradict_the_ledger_are_named() {
        let ledger = Account { observations: 10, actions: 8, skipped: 2, ..Account::default() };
        let tap = TapReport { ledger, ..TapReport::default() };
        let feed = FeedReport { published: 10, ..FeedReport::default() };
        assert!(disagreements(&tap, &feed, Some(&status(8, 2))).is_empty());
        let other = FeedReport { published: 11, ..feed };
        assert_eq!(
            disagreements(&tap, &other, Some(&status(9, 1))),
            [
                "the feed published 11, the ledger has 10",
                "the daemon committed actions 9, the ledger has 8",
                "the daemon skipped 1, the ledger has 2"
            ]
        );
    }
}
