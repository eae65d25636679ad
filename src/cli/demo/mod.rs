//! `escapement demo`: the main job in one command. It starts an agent, a feed and a gateway as three processes, lets them
//! run, stops them in order, and says what became of every observation.
//!
//! ```text
//! $ escapement demo --backend torch --rate 1000
//! outcome       reason                           count     share
//! policy        policy                            9983   99.83 %
//! safe_default  inference_late                      17    0.17 %
//!
//! latency, us          count         p50         p99       p99.9         max
//! queue                10000         0.6         8.9       151.2      1713.2
//! ...
//! ledger: 10000 observations, 10000 actions, 0 skipped, 0 duplicates, 0 out of order, 0 torn: it holds
//! ```
//!
//! Everything lives in a private directory that is removed afterwards. Without `-c`, the program's own example is used: a
//! small policy trained on an order book's features, fed by a synthetic market, or by a recording with `--replay`. The
//! feed and the gateway keep off the engine's core.
//!
//! It exits with 0 only if the ledger holds and the three processes' own counts agree with it, else with 1; where one of
//! the three fails, with its line and its code. Ctrl-C ends the run early, with the same report; a second one at once.

mod children;
mod workspace;

use super::CommandResult;
use super::agent::{ProgressLine, StopSignals, seconds};
use super::exit::{ExitCode, Failure};
use super::feed::{self, FeedReport};
use super::tap::TapReport;
use crate::policy::Backend;
use children::{Process, cores_without};
use escapement_ring::clock::{Clock, MonotonicClock, Nanos};
use escapement_ring::directory::RingFile;
use escapement_ring::ring::Region;
use escapement_ring::wire::AgentState;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;
use workspace::{DemoAgent, Workspace};

/// Run an agent, a feed and a gateway together, and account for every observation
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The agent's configuration [default: the example that the program carries]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Run the policy with another backend than the configuration's: auto, native, torch or null
    #[arg(long)]
    backend: Option<Backend>,
    /// Feed for so many seconds
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = seconds, default_value = "10")]
    seconds: Duration,
    /// Publish so many observations a second [default: 1000, but a replay as recorded]; or max
    #[arg(long, value_name = "N", value_parser = feed::checked_rate)]
    rate: Option<String>,
    /// Publish in groups of so many back to back, at the same mean rate
    #[arg(long, value_name = "N")]
    burst: Option<std::num::NonZeroU64>,
    /// Replay recorded observations instead of a synthetic market
    #[arg(long, value_name = "FILE.obs")]
    replay: Option<PathBuf>,
    /// Publish at the recorded times, so many times faster: 1 is as recorded; or max
    #[arg(long, value_name = "TIMES", value_parser = feed::checked_pace, conflicts_with_all = ["rate", "burst"])]
    pace: Option<String>,
    /// Spoil shares of the observations, as `feed --fault` does
    #[arg(long, value_name = "KIND=SHARE,...", value_parser = feed::checked_faults)]
    fault: Option<String>,
    /// Run the engine on this core
    #[arg(long, value_name = "N")]
    core: Option<usize>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// How long an agent may take to be armed: the slowest part is loading libtorch from a cold disk.
const ARMING_PATIENCE: Duration = Duration::from_secs(120);
/// How long each process may take to end when it was asked to.
const ENDING_PATIENCE: Duration = Duration::from_secs(20);
/// How often the three are looked at.
const POLL: Nanos = Nanos::from_millis(10);

/// The report; names as everywhere else.
#[derive(Serialize)]
struct Report<'a> {
    backend: &'a str,
    #[serde(flatten)]
    tap: &'a TapReport,
    feed: &'a FeedReport,
    verdict: &'static str,
    disagreements: &'a [String],
}

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    if let Some(path) = &arguments.replay {
        feed::check_recording(path)?;
    }
    let mut stop = StopSignals::install()?;
    let workspace = Workspace::make()?;
    let agent = workspace.configure(arguments.config.as_deref(), arguments.core)?;
    let mut trio = Trio::start(arguments, &workspace, &agent, &mut stop)?;
    trio.watch(&mut stop)?;
    let result = trio.end(&mut stop)?;
    report(arguments, &result)?;
    if let Some(failure) = result.failure {
        return Err(failure);
    }
    Ok(if result.tap.ledger.holds() && result.disagreements.is_empty() {
        ExitCode::Ok
    } else {
        ExitCode::Negative
    })
}

/// The three processes at work.
struct Trio<'a> {
    agent: &'a DemoAgent,
    // Dropped, and so killed, in this order when something fails.
    feed: Process,
    run: Process,
    tap: Process,
    observations: Region,
    actions: Region,
    begun: Nanos,
    seconds: Duration,
}

/// How it went.
struct Outcome {
    backend: String,
    tap: TapReport,
    feed: FeedReport,
    /// Where the processes' own counts contradict the ledger.
    disagreements: Vec<String>,
    failure: Option<Failure>,
}

impl<'a> Trio<'a> {
    fn start(
        arguments: &Arguments,
        workspace: &'a Workspace,
        agent: &'a DemoAgent,
        stop: &mut StopSignals,
    ) -> Result<Self, Failure> {
        let mut run_arguments = vec!["--config".to_owned(), agent.config.display().to_string()];
        if let Some(backend) = arguments.backend {
            run_arguments.extend(["--backend".to_owned(), backend.name().to_owned()]);
        }
        let mut run = Process::start("run", &run_arguments, None, workspace.path())?;
        let (observations, actions) = wait_until_armed(agent, &mut run, stop)?;
        let others = cores_without(agent.core);
        let tap = Process::start("tap", &selection(agent, workspace), others, workspace.path())?;
        let feed_arguments = feed_arguments(arguments, selection(agent, workspace));
        let begun = MonotonicClock.now();
        let feed = Process::start("feed", &feed_arguments, others, workspace.path())?;
        Ok(Self { agent, feed, run, tap, observations, actions, begun, seconds: arguments.seconds })
    }

    /// Waits until the feed has done its part, or something ends before its time.
    fn watch(&mut self, stop: &mut StopSignals) -> Result<(), Failure> {
        let mut progress = ProgressLine::new();
        let clock = MonotonicClock;
        loop {
            let now = clock.now();
            if self.feed.status().is_some() || self.run.status().is_some() || self.tap.status().is_some() {
                return Ok(());
            }
            if stop.requested(now) {
                return Ok(());
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

    /// Ends the three in the order of the stream: nothing that was committed is left behind.
    fn end(mut self, stop: &mut StopSignals) -> Result<Outcome, Failure> {
        stop.count();
        self.feed.ask_to_stop();
        wait_for_end(&mut self.feed, stop)?;
        self.run.ask_to_stop();
        wait_for_end(&mut self.run, stop)?;
        // The tap sees by itself that the agent has ended, if it ended in order.
        if self.run.status().is_some_and(|status| status.code().is_none()) {
            self.tap.ask_to_stop();
        }
        if self.tap.wait(ENDING_PATIENCE).is_none() {
            self.tap.ask_to_stop();
            wait_for_end(&mut self.tap, stop)?;
        }
        // The agent's failure comes first: the others' follow from it.
        let broken = |process: &mut Process| {
            // That the ledger does not hold is the tap's finding, and no failure of its own.
            process.failure().filter(|failure| failure.code != ExitCode::Negative)
        };
        let failure =
            broken(&mut self.run).or_else(|| broken(&mut self.feed)).or_else(|| broken(&mut self.tap));
        let (tap, feed) = match (parse::<TapReport>(&self.tap), parse::<FeedReport>(&self.feed)) {
            (Some(tap), Some(feed)) => (tap, feed),
            // Without reports there is nothing to show but why.
            _ => {
                let unknown = || Failure::new(ExitCode::Internal, "the feed or the tap gave no report");
                return Err(failure.unwrap_or_else(unknown));
            }
        };
        let status = std::fs::read(self.agent.directory.path().join("status.json"));
        let status = status.ok().and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
        let backend =
            status.as_ref().and_then(|status| status["backend"].as_str()).unwrap_or("unknown").to_owned();
        // Where one of them failed, the others ended at different points of the stream.
        let disagreements = match failure {
            None => disagreements(&tap, &feed, status.as_ref()),
            Some(_) => Vec::new(),
        };
        Ok(Outcome { backend, tap, feed, disagreements, failure })
    }
}

/// The agent's name and place, as arguments of its neighbours.
fn selection(agent: &DemoAgent, workspace: &Workspace) -> Vec<String> {
    let root = workspace.path().display().to_string();
    ["--name", &agent.name, "--root", &root, "--json"].map(str::to_owned).into()
}

fn feed_arguments(arguments: &Arguments, mut all: Vec<String>) -> Vec<String> {
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
) -> Result<(Region, Region), Failure> {
    let clock = MonotonicClock;
    let begun = clock.now();
    let mut progress = ProgressLine::new();
    loop {
        let now = clock.now();
        if let Some(status) = run.status() {
            let unexpected = || Failure::new(ExitCode::Internal, format!("run: ended with {status}"));
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
            return Err(Failure::new(ExitCode::Temporary, "interrupted before the agent was armed"));
        }
        if now.since(begun).to_duration() > ARMING_PATIENCE {
            let message = format!("the agent was not armed within {} s", ARMING_PATIENCE.as_secs());
            return Err(Failure::new(ExitCode::Temporary, message));
        }
        progress.update(now, || format!("demo: {} {}", agent.name, state.name()));
        clock.sleep_until(now.plus(POLL));
    }
}

/// Waits for a process that was asked to stop. Being told to stop once more ends everything at once.
fn wait_for_end(process: &mut Process, stop: &mut StopSignals) -> Result<(), Failure> {
    let begun = MonotonicClock.now();
    while process.wait(POLL.to_duration()).is_none() {
        if stop.count() > 0 {
            return Err(Failure::new(ExitCode::Temporary, "interrupted"));
        }
        if MonotonicClock.now().since(begun).to_duration() > ENDING_PATIENCE {
            return Err(Failure::new(
                ExitCode::Temporary,
                "a process did not stop when it was asked to; killed",
            ));
        }
    }
    Ok(())
}

fn parse<T: serde::de::DeserializeOwned>(process: &Process) -> Option<T> {
    serde_json::from_str(&process.output()).ok()
}

/// The ledger is told from the actions and the rings' positions. Two others have counted for themselves: the feed what
/// it committed, and the daemon what it answered and skipped.
fn disagreements(tap: &TapReport, feed: &FeedReport, status: Option<&serde_json::Value>) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |what: &str, counted: u64, ledger: u64| {
        if counted != ledger {
            found.push(format!("{what} {counted}, the ledger has {ledger}"));
        }
    };
    let ledger = &tap.ledger;
    compare("the feed published", feed.published, ledger.observations);
    if let Some(counters) = status.and_then(|status| status.get("counters")) {
        let count = |name: &str| counters[name].as_u64().unwrap_or(0);
        compare("the daemon committed actions", count("actions"), ledger.actions);
        compare("the daemon skipped", count("skipped"), ledger.skipped);
    }
    found
}

fn report(arguments: &Arguments, outcome: &Outcome) -> Result<(), Failure> {
    let holds = outcome.tap.ledger.holds() && outcome.disagreements.is_empty();
    if arguments.json {
        let report = Report {
            backend: &outcome.backend,
            tap: &outcome.tap,
            feed: &outcome.feed,
            verdict: if holds { "holds" } else { "broken" },
            disagreements: &outcome.disagreements,
        };
        println!("{}", serde_json::to_string(&report).expect("a report of numbers and names"));
        return Ok(());
    }
    let feed = &outcome.feed;
    println!(
        "backend {}; {} observations in {:.1} s, p99 of the feed's lag {:.0} us\n",
        outcome.backend,
        feed.published,
        feed.elapsed_ns as f64 / 1e9,
        feed.lag_ns.p99 as f64 / 1e3
    );
    println!("{}", outcome.tap.table());
    for disagreement in &outcome.disagreements {
        println!("but {disagreement}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use escapement_ring::gateway::Account;
    use serde_json::json;

    #[test]
    fn counts_that_contradict_the_ledger_are_named() {
        let ledger = Account { observations: 10, actions: 8, skipped: 2, ..Account::default() };
        let tap = TapReport { ledger, ..TapReport::default() };
        let feed = FeedReport { published: 10, ..FeedReport::default() };
        let status = json!({ "counters": { "actions": 8, "skipped": 2 } });
        assert!(disagreements(&tap, &feed, Some(&status)).is_empty());
        let other = FeedReport { published: 11, ..feed };
        let status = json!({ "counters": { "actions": 9, "skipped": 1 } });
        assert_eq!(
            disagreements(&tap, &other, Some(&status)),
            [
                "the feed published 11, the ledger has 10",
                "the daemon committed actions 9, the ledger has 8",
                "the daemon skipped 1, the ledger has 2"
            ]
        );
    }
}
