//! `escapement demo`: the main job in one command. It starts an agent, a feed and a gateway as three
//! processes, stops them in order, and accounts for every observation.
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
//! All files lie in a private directory that is removed afterwards. Without `-c` the demo uses the embedded
//! example: a small policy trained on an order book's features, fed by a synthetic market, or by a recording
//! with `--replay`. The feed and the gateway do not run on the engine's core.
//!
//! It exits with 0 only if the ledger holds and the three processes' own counts agree with it, otherwise
//! with 1. If one of the three fails, the demo prints its line and exits with its code. Ctrl-C ends the run
//! early with the same report; a second Ctrl-C ends it at once.

use super::CommandResult;
use super::attach::install_stop_signals;
use super::exit::{ExitCode, Failure};
use super::feed;
use super::seconds::seconds;
use crate::config;
use crate::policy::Backend;
use escapement_reference::demo::{AgentOutline, Outcome, Plan, Trio, Workspace};
use escapement_reference::feed::FeedReport;
use escapement_reference::tap::TapReport;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Run an agent, a feed and a gateway together, and account for every observation
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The agent's configuration [default: the embedded example]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Run the policy with another backend than the configuration's: auto, native, torch or null
    #[arg(long)]
    backend: Option<Backend>,
    /// Feed for this many seconds
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = seconds, default_value = "10")]
    seconds: Duration,
    /// Publish this many observations a second [default: 1000, but a replay as recorded]; or max
    #[arg(long, value_name = "N", value_parser = feed::checked_rate)]
    rate: Option<String>,
    /// Publish in groups of this many back to back, at the same mean rate
    #[arg(long, value_name = "N")]
    burst: Option<std::num::NonZeroU64>,
    /// Replay recorded observations instead of a synthetic market
    #[arg(long, value_name = "FILE.obs")]
    replay: Option<PathBuf>,
    /// Publish at the recorded times, this many times faster: 1 is as recorded; or max
    #[arg(long, value_name = "TIMES", value_parser = feed::checked_pace, conflicts_with_all = ["rate", "burst"])]
    pace: Option<String>,
    /// Spoil a share of the observations, as `feed --fault` does
    #[arg(long, value_name = "KIND=SHARE,...", value_parser = feed::checked_faults)]
    fault: Option<String>,
    /// Run the engine on this core
    #[arg(long, value_name = "N")]
    core: Option<usize>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// The report as JSON. The names are those of the other reports.
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
    let mut stop = install_stop_signals()?;
    let workspace = Workspace::make()?;
    let agent = workspace.configure(arguments.config.as_deref(), arguments.core, outline)?;
    let mut trio = Trio::start(&arguments.plan(), &workspace, &agent, &mut stop)?;
    trio.watch(&mut stop);
    let result = trio.end(&mut stop)?;
    report(arguments, &result)?;
    if let Some(failure) = result.failure {
        return Err(failure.into());
    }
    Ok(if result.tap.ledger.holds() && result.disagreements.is_empty() {
        ExitCode::Ok
    } else {
        ExitCode::Negative
    })
}

impl Arguments {
    fn plan(&self) -> Plan {
        Plan {
            backend: self.backend.map(|backend| backend.name().to_owned()),
            seconds: self.seconds,
            rate: self.rate.clone(),
            burst: self.burst,
            replay: self.replay.clone(),
            pace: self.pace.clone(),
            fault: self.fault.clone(),
        }
    }
}

/// What the demo needs to know of the configuration at `path`.
fn outline(path: &Path) -> Result<AgentOutline, Failure> {
    let config = config::load(path)?;
    Ok(AgentOutline { name: config.name, root: config.root, core: config.engine.core })
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
    use crate::config::PolicySource;
    use escapement_reference::demo::DemoAgent;

    const CONFIG: &str = include_str!("../../config/demo.toml");

    fn configure(
        workspace: &Workspace,
        given: Option<&Path>,
        core: Option<usize>,
    ) -> Result<DemoAgent, Failure> {
        workspace.configure(given, core, outline)
    }

    #[test]
    fn the_carried_configuration_is_good_and_its_policy_is_there() {
        let workspace = Workspace::make().unwrap();
        let path = workspace.path().to_owned();
        let agent = configure(&workspace, None, None).unwrap();
        let config = config::load(&agent.config).unwrap();
        assert_eq!(config.root.as_deref(), Some(path.as_path()));
        assert!(agent.directory.path().starts_with(&path));
        let PolicySource::Path(policy) = config.policy.source else { panic!("the demo has a policy") };
        let original = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/example.bundle");
        for name in ["bundle.toml", "golden.safetensors", "policy.pt"] {
            assert_eq!(
                std::fs::read(policy.join(name)).unwrap(),
                std::fs::read(original.join(name)).unwrap()
            );
        }
        drop(workspace);
        assert!(!path.exists());
    }

    #[test]
    fn a_given_configuration_keeps_everything_but_its_place() {
        let workspace = Workspace::make().unwrap();
        let given = workspace.path().join("mine.toml");
        std::fs::write(&given, CONFIG).unwrap();
        let agent = configure(&workspace, Some(&given), Some(0)).unwrap();
        let (mine, moved) = (config::load(&given).unwrap(), config::load(&agent.config).unwrap());
        assert_eq!(moved.engine.core, Some(0));
        assert_eq!(mine.policy.source, moved.policy.source);
        assert_eq!((mine.settings, mine.dimensions), (moved.settings, moved.dimensions));
    }

    #[test]
    fn what_is_wrong_is_told_with_the_users_own_file() {
        let workspace = Workspace::make().unwrap();
        let given = workspace.path().join("mine.toml");
        std::fs::write(&given, CONFIG.replace("dimension = 3", "dimension = \"three\"")).unwrap();
        let failure = configure(&workspace, Some(&given), None).unwrap_err();
        assert_eq!(failure.code, ExitCode::Config);
        assert!(failure.message.contains("mine.toml"), "{}", failure.message);
        let missing = configure(&workspace, Some(Path::new("no/such.toml")), None).unwrap_err();
        assert_eq!(missing.code, ExitCode::InputMissing);
        let core = configure(&workspace, None, Some(100_000)).unwrap_err();
        assert_eq!(core.code, ExitCode::Usage);
    }
}
