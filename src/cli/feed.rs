//! `escapement feed`: the reference feed handler. It commits observations to an agent's ring on a schedule
//! that is fixed in advance. The observations come from a synthetic market, from noise of any dimension, or
//! from a recording.
//!
//! ```text
//! $ escapement feed -c config/agent.toml --rate 1000 --seconds 10
//! 10000 observations published, 0 dropped, 0 waited for room; lag p50 58 us, p99 96 us, max 1204 us
//! $ escapement feed eth --replay eth.obs --pace 10
//! $ escapement feed eth --rate 40000 --burst 100 --fault nan=0.001,gap=0.01
//! ```
//!
//! **Sources.** Without `--replay`, a seeded synthetic market gives the 32 features of
//! `config/features.toml`. For an agent of another dimension the source is independent noise. `--source`
//! chooses. `--replay` reads a `.obs` file, which `scripts/convert_capture.py` makes from a capture.
//!
//! **Schedule.** `--rate` publishes evenly, or in groups of `--burst` back to back at the same mean rate.
//! `--pace` publishes at the source's own times, multiplied in speed. The default is pace 1 for a recording
//! and 1000 a second otherwise. The schedule is open loop: it does not wait for a feed that has fallen
//! behind. `lag_ns` reports how late each observation was committed. Between observations the feed sleeps,
//! which makes each about 50 us late on a usual machine. With `--spin` it burns a core instead.
//!
//! **A full ring.** `--on-full wait` publishes every observation, however late. `--on-full drop` drops it,
//! and the agent sees the gap in the sequence numbers.
//!
//! **Faults.** `--fault KIND=SHARE,...` spoils that share of the observations: `nan`, `inf`, `out_of_range`
//! (one element), `gap`, `duplicate`, `reorder` (sequence numbers), `stale` (a publish stamp ten seconds
//! old), `torn` (the checksum).
//!
//! The feed waits for the ring (`--wait`) and takes the feed's role; a second feed exits with 69. If the
//! agent restarts with a new ring, the feed moves to it. It ends with its plan, or at SIGTERM or SIGINT.

use super::CommandResult;
use super::agent::AgentArguments;
use super::attach::{install_stop_signals, once_there, take_role};
use super::exit::{ExitCode, Failure};
use super::seconds::seconds;
use crate::os::pin_to;
use escapement_reference::feed::{
    FaultRates, FeedReport, Injector, MARKET_DIMENSION, OnFull, Pace, Plan, Publisher, Rate, Recording,
    Schedule, Source,
};
use escapement_ring::clock::Nanos;
use escapement_ring::directory::{RingFile, Role};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

/// The default rate, in observations a second.
const DEFAULT_RATE: Rate = Rate::PerSecond(NonZeroU64::new(1_000).expect("not zero"));

/// Feed an agent: a synthetic market, or a replay of recorded observations
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    agent: AgentArguments,
    /// The synthetic source [default: market if the agent takes its 32 features, else noise]
    #[arg(long, value_enum, value_name = "KIND", conflicts_with = "replay")]
    source: Option<Kind>,
    /// Replay recorded observations
    #[arg(long, value_name = "FILE.obs")]
    replay: Option<PathBuf>,
    /// Replay them this many times
    #[arg(long, value_name = "TIMES", requires = "replay", default_value = "1")]
    repeat: NonZeroU64,
    /// Publish at the source's own times, this many times faster: 1 is as recorded; or max
    #[arg(long, value_name = "TIMES", allow_negative_numbers = true, conflicts_with_all = ["rate", "burst"])]
    pace: Option<Pace>,
    /// Publish this many observations a second, evenly [default: 1000, but a replay as recorded]; or max
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    rate: Option<Rate>,
    /// Publish in groups of this many back to back, at the same mean rate
    #[arg(long, value_name = "N", default_value = "1")]
    burst: NonZeroU64,
    /// End after this many observations
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End after this many seconds
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = seconds)]
    seconds: Option<Duration>,
    /// Seed of all random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Spoil a share of the observations: nan, inf, out_of_range, gap, duplicate, reorder, stale, torn
    #[arg(long, value_name = "KIND=SHARE,...", default_value = None)]
    fault: Option<FaultRates>,
    /// What to do when the ring is full
    #[arg(long, value_enum, default_value_t = OnFull::Wait)]
    on_full: OnFull,
    /// Wait this long for the agent's ring to appear
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = seconds, default_value = "10")]
    wait: Duration,
    /// Burn a core between observations instead of sleeping
    #[arg(long)]
    spin: bool,
    /// Run on this core
    #[arg(long, value_name = "N")]
    core: Option<usize>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// A synthetic source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// A synthetic order book's 32 features
    Market,
    /// Independent, roughly standard normal elements, of any dimension
    Noise,
}

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    let directory = arguments.agent.directory()?;
    // Errors in the recording are reported before waiting for anything.
    let recording = arguments.replay.as_deref().map(Recording::open).transpose()?;
    let mut stop = install_stop_signals()?;
    if let Some(core) = arguments.core {
        pin_to(core).map_err(|error| Failure::new(ExitCode::Usage, format!("--core: {error}")))?;
    }
    let attached = once_there(&mut stop, arguments.wait, || {
        let role = take_role(&directory, Role::Feed)?;
        Ok((role, directory.attach(RingFile::Observations)?))
    })?;
    let Some((_role, region)) = attached else { return Ok(ExitCode::Ok) };
    let plan = plan(arguments, recording, region.spec().dimension as usize)?;
    let report = Publisher::new(&directory, &mut stop, region)?.run(plan)?;
    if arguments.json {
        println!("{}", serde_json::to_string(&report).expect("a report of numbers and names"));
    } else {
        println!("{}", summary(&report));
    }
    Ok(ExitCode::Ok)
}

/// Checks an argument that `demo` passes on to a feed. Returns the text unchanged.
fn checked<T: std::str::FromStr<Err = String>>(text: &str) -> Result<String, String> {
    text.parse::<T>().map(|_| text.to_owned())
}

pub(super) fn checked_rate(text: &str) -> Result<String, String> {
    checked::<Rate>(text)
}

pub(super) fn checked_pace(text: &str) -> Result<String, String> {
    checked::<Pace>(text)
}

pub(super) fn checked_faults(text: &str) -> Result<String, String> {
    checked::<FaultRates>(text)
}

/// Checks the header of a recording.
pub(super) fn check_recording(path: &std::path::Path) -> Result<(), Failure> {
    Recording::open(path)?;
    Ok(())
}

/// The plan for an agent of this dimension.
fn plan(arguments: &Arguments, recording: Option<Recording>, dimension: usize) -> Result<Plan, Failure> {
    let usage = |message: String| Failure::new(ExitCode::Usage, message);
    let mismatch = |what: String| usage(format!("{what}; the agent takes {dimension}"));
    let is_recorded = recording.is_some();
    let kind = arguments.source.unwrap_or(match dimension {
        MARKET_DIMENSION => Kind::Market,
        _ => Kind::Noise,
    });
    let source = match recording {
        Some(recording) if recording.dimension() != dimension => {
            let path = arguments.replay.as_deref().unwrap_or("the recording".as_ref());
            let features = recording.dimension();
            return Err(mismatch(format!("{}: observations of {features} features", path.display())));
        }
        Some(recording) => Source::recorded(recording, arguments.repeat.get()),
        None if kind == Kind::Market && dimension != MARKET_DIMENSION => {
            return Err(mismatch(format!("--source market: it has {MARKET_DIMENSION} features")));
        }
        None if kind == Kind::Market => Source::market(arguments.seed),
        None if arguments.pace.is_some() => {
            return Err(usage("--pace: noise has no times of its own; allowed: --rate".to_owned()));
        }
        None => Source::noise(arguments.seed),
    };
    let schedule = match (arguments.pace, arguments.rate) {
        (Some(pace), _) => Schedule::AsTimed { pace },
        (None, None) if is_recorded => Schedule::AsTimed { pace: Pace::Times(1.0) },
        (None, rate) => Schedule::Even { rate: rate.unwrap_or(DEFAULT_RATE), burst: arguments.burst },
    };
    Ok(Plan {
        source,
        schedule,
        injector: Injector::new(&arguments.fault.clone().unwrap_or_default(), arguments.seed),
        on_full: arguments.on_full,
        count: arguments.count,
        span: arguments.seconds.map(|span| Nanos(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))),
        spin: arguments.spin,
    })
}

fn summary(report: &FeedReport) -> String {
    let lag = &report.lag_ns;
    let mut text = format!(
        "{} observations published, {} dropped, {} waited for room; lag p50 {} us, p99 {} us, max {} us",
        report.published,
        report.dropped,
        report.waited,
        lag.p50 / 1_000,
        lag.p99 / 1_000,
        lag.max / 1_000
    );
    if !report.faults.is_empty() {
        let faults: Vec<_> = report.faults.iter().map(|(name, count)| format!("{name} {count}")).collect();
        text += &format!("; faults: {}", faults.join(", "));
    }
    if report.rings_replaced > 0 {
        let (rings, left) = (report.rings_replaced, report.abandoned);
        text += &format!("; the agent replaced its rings {rings} times, leaving {left} observations behind");
    }
    text
}
