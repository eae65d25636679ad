//! `escapement check -c FILE`: checks a configuration and explains it, without touching the machine.
//!
//! ```text
//! $ escapement check -c config/agent.toml
//! config/agent.toml: good
//!   agent        example, in the directory that systemd makes, else in /dev/shm/escapement; not strict
//!   policy       config/example.bundle, backend auto
//!   observation  32 features; ring of 4096 slots of 192 bytes; every one is answered; a sequence break gives the safe default
//!   ...
//! $ escapement check -c wrong.toml; echo $?
//! escapement: wrong.toml:113: deadline.inference_us = 0: out of range; allowed: a whole number from 1 to 10000000
//! 78
//! ```
//! With `--json`, it prints the configuration with every default filled in, under the names of the file's own
//! keys. A key that is not set, and an infinite limit, is `null`. A refused file gives `{"ok": false,
//! "problems": [...]}`.

use super::CommandResult;
use super::exit::{ExitCode, Failure};
use crate::bundle;
use crate::config::{self, AgentConfig, OnGatewayLost, PolicyConfig, PolicySource, Problem};
use crate::policy::Execution;
use escapement_engine::{
    Backlog, Bounds, BudgetSpec, IdleStrategy, InputCheckMode, KeepWarm, OnFull, OnGap, OnMiss, PacedSpec,
    expected_delay_ns,
};
use escapement_ring::clock::Nanos;
use escapement_ring::wire::{ActionHeader, ObservationHeader};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Check a configuration file and say what it means
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The configuration to check
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Print JSON: the configuration with every default filled in
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    let file = &arguments.config;
    match config::load(file) {
        Ok(config) if arguments.json => print(&format!("{:#}\n", as_json(file, &config)))?,
        Ok(config) => print(&summary(file, &config))?,
        Err(error) => {
            if arguments.json {
                let problems: Vec<_> = error.problems().iter().map(problem_as_json).collect();
                print(&format!("{:#}\n", json!({ "ok": false, "file": file, "problems": problems })))?;
            }
            return Err(error.into());
        }
    }
    Ok(ExitCode::Ok)
}

/// Prints to standard output. A closed pipe is not an error.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::from_io(Path::new("standard output"), &error))
        }
        _ => Ok(()),
    }
}

/// Returns warnings about a file that is valid.
fn notes(config: &AgentConfig) -> Vec<String> {
    let mut notes = Vec::new();
    if let PolicySource::Path(path) = &config.policy.source {
        let file = if path.is_dir() { path.join(bundle::MANIFEST) } else { path.clone() };
        if let Err(error) = std::fs::metadata(&file) {
            notes.push(format!("{}: {error}; `run` will need it", file.display()));
        }
    }
    if !config.settings.enforce {
        notes.push("deadline.enforce = false: late actions leave".to_owned());
    }
    if config.engine.core.is_none() {
        notes.push(
            "engine.core is not set: the scheduler may move the engine's thread at any time".to_owned(),
        );
    }
    notes
}

fn summary(file: &Path, config: &AgentConfig) -> String {
    let mut text = format!("{}: good\n", file.display());
    let mut line = |name: &str, meaning: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {name:<12} {meaning}");
    };
    agent(config, &mut line);
    policy(config, &mut line);
    observation(config, &mut line);
    action(config, &mut line);
    deadline(config, &mut line);
    engine(config, &mut line);
    line(
        "gateway",
        format!(
            "lost after {} ms without a heartbeat; then {}",
            config.gateway.lost_after.0 / 1_000_000,
            match config.gateway.on_lost {
                OnGatewayLost::Keep => "keep going",
                OnGatewayLost::Halt => "halt",
            },
        ),
    );
    line("lost files", config.on_files_lost.name().to_owned());
    line("drain", format!("at most {} ms", config.drain_timeout.0 / 1_000_000));
    line("log", config.log.clone());
    for note in notes(config) {
        line("note", note);
    }
    text
}

/// The agent's name and places.
fn agent(config: &AgentConfig, line: &mut impl FnMut(&str, String)) {
    let root = match &config.root {
        Some(root) => format!("in {}", root.display()),
        None => "in the directory that systemd makes, else in /dev/shm/escapement".to_owned(),
    };
    line("agent", format!("{}, {root}; {}strict", config.name, if config.strict { "" } else { "not " }));
    line(
        "",
        match &config.state_root {
            Some(root) => format!("latch and audit in {}", root.join(&config.name).display()),
            None => {
                "latch and audit in the state directory of systemd, of the system, or of the user".to_owned()
            }
        },
    );
}

/// What answers, and what vouches for it.
fn policy(config: &AgentConfig, line: &mut impl FnMut(&str, String)) {
    line(
        "policy",
        match &config.policy.source {
            PolicySource::Path(path) => {
                let PolicyConfig { backend, weights, .. } = config.policy;
                format!("{}, backend {}", path.display(), Execution { backend, weights })
            }
            PolicySource::Null => "none: zeros at once".to_owned(),
        },
    );
    if config.policy.source != PolicySource::Null {
        line("", trust(config));
    }
    if let Some(path) = &config.policy.fallback {
        line("fallback", path.display().to_string());
    }
}

/// The observation ring and what happens at a break.
fn observation(config: &AgentConfig, line: &mut impl FnMut(&str, String)) {
    let settings = &config.settings;
    let slot = ObservationHeader::slot_size(config.dimensions.observation);
    line(
        "observation",
        format!(
            "{} features; ring of {} slots of {slot} bytes; {}; a sequence break {}",
            config.dimensions.observation,
            config.observation_capacity,
            match settings.backlog {
                Backlog::Every => "every one is answered",
                Backlog::Latest => "only the latest is answered",
            },
            match settings.on_gap {
                OnGap::SafeDefault => "gives the safe default",
                OnGap::Count => "is counted",
            },
        ),
    );
    line("", format!("features {}", limits(&settings.observation_bounds)));
}

/// The action ring and its values.
fn action(config: &AgentConfig, line: &mut impl FnMut(&str, String)) {
    let settings = &config.settings;
    let slot = ActionHeader::slot_size(config.dimensions.action);
    line(
        "action",
        format!(
            "{} elements; ring of {} slots of {slot} bytes; when it is full, {}",
            config.dimensions.action,
            config.action_capacity,
            match settings.on_full {
                OnFull::Halt => "halt",
                OnFull::Drop => "drop",
            },
        ),
    );
    line("", format!("elements {}", limits(&settings.action_bounds)));
    line(
        "",
        format!("safe default {}, neutral {}", vector(&settings.safe_default), vector(&settings.neutral)),
    );
}

/// Deadlines, the guard, and what misses and errors lead to.
fn deadline(config: &AgentConfig, line: &mut impl FnMut(&str, String)) {
    let settings = &config.settings;
    line(
        "deadline",
        format!(
            "{}: inference {} us, end to end {} us, {}",
            if settings.enforce { "enforced" } else { "NOT enforced" },
            settings.deadlines.inference.0 / 1_000,
            settings.deadlines.end_to_end.0 / 1_000,
            settings
                .deadlines
                .max_age
                .map_or("any age".to_owned(), |age| format!("age {} us", age.0 / 1_000)),
        ),
    );
    line(
        "guard",
        format!(
            "{} on {}; hung after {} ms",
            config.guard.wake.name(),
            config.guard.core.map_or("any core but the engine's".to_owned(), |core| format!("core {core}")),
            config.hang_timeout.0 / 1_000_000,
        ),
    );
    line(
        "on miss",
        match settings.on_miss {
            OnMiss::SafeDefault => "safe default".to_owned(),
            OnMiss::Halt => halt_after(settings.miss_budget, "miss", "misses"),
        },
    );
    line("on error", halt_after(settings.error_budget, "error of the policy", "errors of the policy"));
}

/// The engine's thread and its warm-up.
fn engine(config: &AgentConfig, line: &mut impl FnMut(&str, String)) {
    let engine = &config.engine;
    line(
        "engine",
        format!(
            "{}, {}, {}, memory {}",
            engine.core.map_or("no core of its own".to_owned(), |core| format!("core {core}")),
            match engine.idle {
                IdleStrategy::Spin => "spins".to_owned(),
                IdleStrategy::Pause => "pauses".to_owned(),
                IdleStrategy::Backoff { sleep } => format!("backs off to sleeps of {} us", sleep.as_micros()),
            },
            engine.realtime_priority.map_or("ordinary scheduler".to_owned(), |it| format!("SCHED_FIFO {it}")),
            if engine.lock_memory { "locked" } else { "not locked" },
        ),
    );
    line("keep-warm", keep_warm(config.settings.keep_warm, config.settings.deadlines.shortest()));
    line(
        "warm-up",
        format!(
            "rounds of {} calls until the tail at {} is stable, at most {} ms",
            config.warm_up.round,
            config.warm_up.quantile,
            config.warm_up.limit.0 / 1_000_000,
        ),
    );
    let PacedSpec { calls, rate } = config.warm_up.paced;
    line(
        "",
        match calls {
            0 => "no paced calls: the tail of the last round decides".to_owned(),
            calls => format!("then {calls} calls at {rate} a second, whose tail decides"),
        },
    );
}

/// Returns when the engine runs dry, and what that costs. How long a dry run takes is known on the machine
/// only.
fn keep_warm(setting: KeepWarm, deadline: Nanos) -> String {
    let length = Nanos::from_micros(1);
    match setting {
        KeepWarm::Off => "off: the engine goes cold between observations".to_owned(),
        KeepWarm::Every(interval) => format!(
            "a dry run after each {} us without work; one of 1 us adds {:.0} ns of delay on average",
            interval.0 / 1_000,
            expected_delay_ns(length, interval)
        ),
        KeepWarm::Auto => format!(
            "a dry run after {} us without work, or later: at most {} ns of delay on average",
            KeepWarm::SHORTEST.0 / 1_000,
            KeepWarm::most_expected_delay(deadline).0
        ),
    }
}

/// Returns the text about signatures, noise and the input check.
fn trust(config: &AgentConfig) -> String {
    let trust = &config.policy.trust;
    let signature = match (trust.require_signature, trust.public_keys.len()) {
        (true, keys) => format!("signature required, {keys} trusted keys"),
        (false, 0) => "no signature required".to_owned(),
        (false, keys) => format!("no signature required, checked with {keys} trusted keys"),
    };
    let noise = match (config.policy.deterministic, config.policy.seed) {
        (true, _) => "deterministic".to_owned(),
        (false, Some(seed)) => format!("stochastic, seed {seed}"),
        (false, None) => "stochastic, a new seed at every start".to_owned(),
    };
    let guard = config.policy.guard;
    let guard = match guard.mode {
        InputCheckMode::Off => "features are not compared with the training's".to_owned(),
        mode => format!("features beyond {} deviations: {}", guard.deviations, mode.name()),
    };
    format!("{signature}; {noise}; {guard}")
}

fn halt_after(budget: BudgetSpec, one: &str, several: &str) -> String {
    match budget.misses {
        0 => format!("halt at the first {one}"),
        misses => format!("safe default, halt at more than {misses} {several} in {} ticks", budget.window),
    }
}

/// Elements of a vector that the summary shows.
const SHOWN_ELEMENTS: usize = 8;

fn vector(values: &[f32]) -> String {
    let shown: Vec<_> = values.iter().take(SHOWN_ELEMENTS).map(f32::to_string).collect();
    let more = if values.len() > SHOWN_ELEMENTS { ", …" } else { "" };
    format!("[{}{more}]", shown.join(", "))
}

fn limits(bounds: &Bounds) -> String {
    let (low, high) = bounds.of(0);
    if (1..bounds.dimension()).any(|index| bounds.of(index) != (low, high)) {
        "each with limits of its own".to_owned()
    } else if low.is_infinite() && high.is_infinite() {
        "without limits".to_owned()
    } else {
        format!("from {low} to {high}")
    }
}

fn problem_as_json(problem: &Problem) -> Value {
    json!({
        "line": problem.line,
        "key": problem.key,
        "value": problem.value,
        "what": problem.what,
        "allowed": problem.allowed,
    })
}

fn as_json(file: &Path, config: &AgentConfig) -> Value {
    let mut json = config::to_json(config);
    json.insert("ok".to_owned(), json!(true));
    json.insert("file".to_owned(), json!(file));
    json.insert("notes".to_owned(), json!(notes(config)));
    Value::Object(json)
}
