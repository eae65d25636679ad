//! `escapement reload NAME [--to previous]`: a running agent takes its configuration over as it is now.
//!
//! ```text
//! $ escapement reload example
//! example: reloaded, generation 2
//! $ escapement reload example
//! escapement: example: nothing was changed: agent.toml:113: deadline.inference_us = 0: out of range; allowed: …
//! ```
//! What a tick goes by is taken over between two ticks, as one set; a new bundle is verified, proven and swapped in; keys that
//! need a restart are named. With `--to previous`, what ran before the last reload runs again: its settings, and the very
//! bytes of its policy. Exit code 0 when it was taken over, 78 when it was refused, 66 when no daemon runs.
//!
//! SIGHUP does the same and tells the log.

use super::CommandResult;
use super::exit::{ExitCode, Failure};
use super::locate::AgentArguments;
use crate::clock::{Clock, MonotonicClock, Nanos};
use crate::host::{ControlRequest, ReloadTarget, ask_daemon};
use serde_json::Value;
use std::time::Duration;

/// Have a running agent take over its configuration
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    agent: AgentArguments,
    /// What to go to: the configuration as it is now, or what ran before the last reload
    #[arg(long, value_name = "WHICH", default_value = "configured", value_parser = target)]
    to: ReloadTarget,
    /// Print what became of it as JSON
    #[arg(long)]
    json: bool,
}

fn target(text: &str) -> Result<ReloadTarget, String> {
    match text.to_ascii_lowercase().as_str() {
        "configured" => Ok(ReloadTarget::Configured),
        "previous" => Ok(ReloadTarget::Previous),
        _ => Err("allowed: configured, previous".to_owned()),
    }
}

/// How long the daemon may take for one answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often the outcome is asked for.
const EVERY: Nanos = Nanos::from_millis(5);

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    let agent = arguments.agent.locate()?;
    agent.must_exist()?;
    let name = &agent.name;
    if agent.daemon.is_none() {
        return Err(Failure::new(ExitCode::InputMissing, format!("{name}: no daemon runs")));
    }
    let ask = |request: &ControlRequest| {
        ask_daemon(&agent.directory, request, PATIENCE)
            .map_err(|error| Failure::new(ExitCode::Temporary, format!("{name}: {error}")))
    };
    let asked = ask(&ControlRequest::Reload { to: arguments.to })?;
    let ticket = asked["ticket"].as_u64();
    let outcome = loop {
        let status = ask(&ControlRequest::Status {})?;
        let recent = status["reloads"]["recent"].as_array().cloned().unwrap_or_default();
        if let Some(outcome) = recent.into_iter().find(|outcome| outcome["ticket"].as_u64() == ticket) {
            break outcome;
        }
        MonotonicClock.sleep_until(MonotonicClock.now().plus(EVERY));
    };
    if arguments.json {
        println!("{outcome:#}");
    }
    if let Some(why) = outcome["refused"].as_str() {
        let lines: Vec<_> = why.lines().map(|line| format!("{name}: nothing was changed: {line}")).collect();
        return Err(Failure::new(ExitCode::Config, lines.join("\n")));
    }
    if !arguments.json {
        println!("{}", told(name, &outcome));
    }
    Ok(ExitCode::Ok)
}

fn told(name: &str, outcome: &Value) -> String {
    let mut text = format!("{name}: reloaded, generation {}", outcome["generation"]);
    if outcome["policy_changed"] == true {
        text += "; another policy answers";
    }
    let waiting: Vec<_> =
        outcome["waits_for_restart"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !waiting.is_empty() {
        text += &format!("; needs a restart, and is as it was: {}", waiting.join(", "));
    }
    text
}
