//! `escapement validate POLICY --rate N`: does this policy meet its deadline on this core?
//!
//! ```text
//! $ escapement validate config/example.bundle --core 1
//! ns              count      min      p50      p90      p99    p99.9      max
//! paced           10000     1276     1654     3099     5271    33823    70847
//!   hiccups        9999        0       12       19       26     6211    48991
//! back to back    10000     1292     1317     1464     2749    11351    48095
//!   hiccups       10000        0       12       14       20     1539    43071
//! paced: 1000 a second, evenly; keep-warm auto: after 10 us without work, 796019 calls of 1.56 us; ...
//! backend native, core 1: 100.0000 % of paced calls within 100 us (100.0000 % back to back), 99 % asked ...
//! ```
//!
//! It calls the policy on a pinned core, after a warm-up, with nothing enforced, in two ways (see the
//! `latency` module):
//!
//! - *paced*: one call for each observation that arrives. `--rate` gives observations a second, evenly
//!   [default: 1000]. `--gaps poisson:N` gives N a second on average, at random. `--gaps FILE` takes the gaps
//!   of a recording (`.obs`), or of a text with one gap in microseconds on each line, again and again. In
//!   between the thread polls as the engine does, and stays warm as `--keep-warm` says. The default number of
//!   paced calls is what arrives within 10 s, at most 10,000; `--paced-trials` gives another one.
//! - *back to back*: `--trials` calls without a pause.
//!
//! Random gaps and observations are the same in every run. Both ways have the platform's own hiccups beside
//! them.
//!
//! With `--feed` the paced observations come from a feed in a process of its own, through a ring in shared
//! memory, so that another core and the shared cache lines are active. It publishes noise, evenly.
//!
//! Observations are random, uniform in -1 to 1, unless a file is given. The objective is the given one, else
//! the bundle's claim in `[slo]`, else 99 % within 100 µs. The verdict is on the paced calls: exit code 0 if
//! that share of them met the deadline and there is no regression against the baseline, else 1.
//!
//! A baseline is the output of an earlier run with `--json` that was paced in the same way. A run is a
//! regression if the median of its paced calls exceeds the baseline's by more than the variation of both
//! runs, plus 5 %.

mod explainer;
mod pacing;

use super::CommandResult;
use super::confinement::Confinement;
use super::execution::ExecutionArguments;
use super::exit::{ExitCode, Failure};
use super::npy::Matrix;
use crate::bundle::{Candidate, Served, Slo, Trust};
use crate::evidence::FixedWork;
use crate::latency::{
    Baseline, BaselineError, Comparison, LatencyError, LatencyReport, Objective, SeriesSummary, html_report,
    measure_latency,
};
use crate::os::{lock_all_memory, pin_to, prefault_stack};
use crate::policy::{WeightChoice, Weights, Widths};
use escapement_engine::telemetry::{Histogram, Percentiles};
use escapement_ring::clock::{MachineClock, Nanos};
use explainer::Explainer;
use hdrhistogram::serialization::V2Serializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;
use pacing::PacingArguments;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// Measure a policy against a deadline, with enforcement off
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// A TorchScript file, or a bundle directory
    policy: PathBuf,
    #[command(flatten)]
    pacing: PacingArguments,
    /// Timed calls back to back
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    trials: u64,
    #[command(flatten)]
    execution: ExecutionArguments,
    /// Deadline of one call, in microseconds; what the bundle claims, else 100, if not given
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=60_000_000))]
    deadline_us: Option<u64>,
    /// Share of paced calls, in percent, that must meet it; what the bundle claims, else 99, if not given
    #[arg(long, value_parser = percent)]
    within: Option<f64>,
    /// Core to pin to; the last one that this process may use, if not given
    #[arg(long)]
    core: Option<usize>,
    /// Observations to call it with: a .npy file, float32, [n, observation]
    #[arg(long, value_name = "FILE.npy")]
    observations: Option<PathBuf>,
    /// Elements of one observation, where neither the policy nor a file of observations says so
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    dimension: Option<u16>,
    /// An earlier run's --json to compare with
    #[arg(long, value_name = "FILE.json")]
    baseline: Option<PathBuf>,
    /// Print figures as JSON
    #[arg(long)]
    json: bool,
    /// Write a self-contained HTML report
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
    /// Write all histograms as an interval log
    #[arg(long, value_name = "FILE.hlog")]
    hlog: Option<PathBuf>,
    #[command(flatten)]
    confinement: Confinement,
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=100.0).contains(&value) => Ok(value),
        _ => Err("allowed: 0 to 100".to_owned()),
    }
}

/// Random observations, if none are given.
const MADE_UP: usize = 1024;

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    // Checks all arguments first: a long run may take minutes.
    let execution = arguments.execution.execution()?;
    let baseline = arguments.baseline.as_deref().map(read_baseline).transpose()?;
    let given = arguments.observations.as_deref().map(Matrix::read).transpose()?;
    if given.as_ref().is_some_and(|matrix| matrix.rows == 0) {
        return Err(Failure::new(ExitCode::Usage, "--observations: there are none in the file"));
    }
    let candidate = Candidate::read(&arguments.policy, &Trust::default())?;
    let manifest = candidate.manifest();
    let observation = given.as_ref().map(|matrix| matrix.width).or(arguments.dimension.map(usize::from));
    let objective = objective(arguments, manifest.and_then(|manifest| manifest.slo));
    let core = arguments.core.or_else(last_core);
    let known_width = observation.or(manifest.map(|manifest| manifest.observation.dimension));
    let (pacing, mut feed) = arguments.pacing.start(known_width, core)?;
    if let Some(baseline) = &baseline {
        let path = arguments.baseline.as_deref().unwrap_or(Path::new(""));
        baseline.must_match(&pacing).map_err(|error| unusable_baseline(path, error))?;
    }
    let stop = feed.as_mut().and_then(|feed| feed.stop.take());
    let widths = Widths { observation, action: None };
    let (report, core, weights) = arguments.confinement.run(execution, |loader| {
        let Served { mut policy, passed_over, weights, .. } = loader.load(&candidate, widths)?;
        super::bundle::tell_passed_over(passed_over.as_ref());
        let width = policy.dimensions().observation;
        let observations = match &given {
            Some(matrix) => matrix.values.chunks_exact(width).map(<[f32]>::to_vec).collect(),
            None => escapement_engine::synthetic_observations(width, MADE_UP),
        };
        let core = match core {
            Some(core) => {
                pin_to(core).map_err(|error| Failure::new(ExitCode::Usage, error.to_string()))?;
                core.to_string()
            }
            None => "any".to_owned(),
        };
        // Without the permission, the figures include page faults. The daemon reports that at its start.
        let _ = lock_all_memory();
        prefault_stack();
        let work = FixedWork { in_call: policy.has_fixed_work(), around_call: true };
        let mut explainer = Explainer::new(objective.deadline, work, stop);
        let clock = &mut MachineClock::new();
        let (policy, trials) = (policy.as_mut(), arguments.trials);
        let report = measure_latency(policy, clock, &observations, objective, trials, pacing, &mut explainer)
            .map_err(failed)?;
        Ok((report, core, weights))
    })?;
    drop(feed);

    let summary = report.summary();
    let comparison = baseline.map(|baseline| baseline.compare(&summary));
    if let Some(path) = &arguments.html {
        let title = match (&weights, execution.weights) {
            (Some(choice), Weights::Bf16 | Weights::Only(_)) => {
                format!("{}, weights {}", arguments.policy.display(), choice.kernel.label())
            }
            (None, _) | (_, Weights::F32) => arguments.policy.display().to_string(),
        };
        write(path, html_report(&report, &title).as_bytes())?;
    }
    if let Some(path) = &arguments.hlog {
        write(path, &interval_log(&report))?;
    }
    if arguments.json {
        let json = serde_json::to_string_pretty(&summary).expect("figures are plain numbers and words");
        println!("{json}");
    } else {
        print(&report, weights.filter(|_| execution.weights != Weights::F32), &core, comparison);
    }
    let regressed = comparison.is_some_and(|comparison| comparison.is_regression());
    if let Some(comparison) = comparison.filter(|_| regressed) {
        eprintln!(
            "escapement: regression: the median of paced calls is {:.3} times the baseline's; \
             noise explains {:.3}",
            comparison.median_ratio, comparison.noise_ratio
        );
    }
    Ok(if report.holds() && !regressed { ExitCode::Ok } else { ExitCode::Negative })
}

fn failed(error: LatencyError) -> Failure {
    let code = match error {
        LatencyError::Policy(_) | LatencyError::Fault { .. } => ExitCode::Bundle,
        LatencyError::Feed(_) => ExitCode::Protocol,
        LatencyError::NoArrivals(_) | LatencyError::Clock(_) | LatencyError::Interrupted => {
            ExitCode::Temporary
        }
    };
    Failure::new(code, error.to_string())
}

/// Returns the objective: the given one, else the bundle's claim, else 99 % within 100 µs.
fn objective(arguments: &Arguments, claim: Option<Slo>) -> Objective {
    let deadline = match (arguments.deadline_us, claim) {
        (Some(microseconds), _) => Nanos::from_micros(microseconds),
        (None, Some(claim)) => Nanos((claim.inference_us * 1e3).round() as u64),
        (None, None) => Nanos::from_micros(100),
    };
    let percent = arguments.within.or(claim.map(|claim| claim.percentile)).unwrap_or(99.0);
    Objective { deadline, share: percent / 100.0 }
}

fn last_core() -> Option<usize> {
    core_affinity::get_core_ids()?.last().map(|id| id.id)
}

fn read_baseline(path: &Path) -> Result<Baseline, Failure> {
    Baseline::read(path).map_err(|error| unusable_baseline(path, error))
}

fn unusable_baseline(path: &Path, error: BaselineError) -> Failure {
    match error {
        BaselineError::Io(error) => Failure::from_io(path, &error),
        error => Failure::new(ExitCode::Usage, format!("{}: {error}", path.display())),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, bytes).map_err(|error| Failure::from_io(path, &error))
}

fn print(report: &LatencyReport, weights: Option<WeightChoice>, core: &str, comparison: Option<Comparison>) {
    let (summary, objective) = (report.summary(), report.objective);
    println!(
        "{:<12} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "ns", "count", "min", "p50", "p90", "p99", "p99.9", "max"
    );
    let line = |name: &str, figures: &Percentiles| {
        let Percentiles { count, min, p50, p90, p99, p999, max } = figures;
        println!("{name:<12} {count:>8} {min:>8} {p50:>8} {p90:>8} {p99:>8} {p999:>8} {max:>8}");
    };
    let lines = |name: &str, calls: &SeriesSummary| {
        line(name, &calls.inference_ns.of_all);
        line("  hiccups", &calls.hiccup_ns);
    };
    lines("paced", &summary.paced.calls);
    lines("back to back", &summary.back_to_back);
    let feed = if summary.paced.feed { ", from a feed's process" } else { "" };
    println!("paced: {}{feed}; {}", summary.paced.arrivals, summary.paced.keep_warm.words());
    println!(
        "backend {}{}, core {core}: {:.4} % of paced calls within {} us ({:.4} % back to back), \
         {} % asked for: {}",
        summary.backend,
        weights.as_ref().map_or_else(String::new, |choice| format!(", weights {}", choice.kernel.label())),
        summary.paced.calls.within_deadline * 100.0,
        objective.deadline.0 as f64 / 1e3,
        summary.back_to_back.within_deadline * 100.0,
        objective.share * 100.0,
        summary.verdict
    );
    if let Some(choice) = weights.filter(|choice| !choice.candidates.is_empty()) {
        println!("weights {choice}");
    }
    for (name, series) in [("paced", &report.paced), ("back to back", &report.back_to_back)] {
        if !series.misses.is_empty() {
            let counts = series.misses.iter().map(|(cause, count)| format!("{count} {}", cause.name()));
            println!("late by cause, {name}: {}", counts.collect::<Vec<_>>().join(", "));
        }
    }
    if let Some(comparison) = comparison {
        println!(
            "median of paced calls {:.3} times the baseline's; noise explains up to {:.3}",
            comparison.median_ratio, comparison.noise_ratio
        );
    }
}

/// Returns all histograms in the interval-log format of HdrHistogram (version 1.3), each with a tag.
fn interval_log(report: &LatencyReport) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut serializer = V2Serializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("latencies in ns; written by escapement validate")
        .with_start_time(UNIX_EPOCH + Duration::from_nanos(escapement_ring::clock::wall_clock_ns()))
        .begin_log_with(&mut bytes, &mut serializer)
        .expect("a vector takes all");
    let mut add = |name: &str, histogram: &Histogram| {
        let tag = hdrhistogram::serialization::interval_log::Tag::new(name).expect("a plain word is a tag");
        log.write_histogram(histogram.as_hdr(), Duration::ZERO, Duration::ZERO, Some(tag))
            .expect("a vector takes all");
    };
    for (name, series) in [("paced", &report.paced), ("back_to_back", &report.back_to_back)] {
        add(&format!("{name}_inference"), &series.inference);
        add(&format!("{name}_hiccup"), &series.hiccup);
    }
    bytes
}
