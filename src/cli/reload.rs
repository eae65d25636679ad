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
//! bytes of its policy. Exit code 0 when it was taken over, 78 when it was refused, 66 when no daemon runs, and 75 when nobody
//! can tell what became of it: the daemon does not answer, is another one by now, or has not finished within `--timeout`
//! seconds (it may still do so; `escapement status --json` tells).
//!
//! SIGHUP does the same and tells the log.

use super::CommandResult;
use super::agent::AgentArguments;
use super::exit::{ExitCode, Failure};
use crate::agent_files::{ControlRequest, ReloadTarget, ask_daemon};
use escapement_ring::clock::{Clock, MonotonicClock, Nanos};
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
    /// How long to wait for what becomes of it
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
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
    let unknown = |why: String| Failure::new(ExitCode::Temporary, format!("{name}: {why}"));
    let ask = |request: &ControlRequest| {
        ask_daemon(&agent.directory, request, PATIENCE).map_err(|error| unknown(error.to_string()))
    };
    let asked = ask(&ControlRequest::Reload { to: arguments.to })?;
    let give_up = MonotonicClock.now().plus(Nanos::from_millis(arguments.timeout * 1_000));
    let outcome = loop {
        match found(&asked, &ask(&ControlRequest::Status {})?) {
            Found::Outcome(outcome) => break outcome,
            Found::Lost(why) => return Err(unknown(why.to_owned())),
            Found::NotYet if MonotonicClock.now() > give_up => {
                return Err(unknown(format!(
                    "not finished within {} s; it may still be taken over, as `escapement status --json` tells",
                    arguments.timeout
                )));
            }
            Found::NotYet => MonotonicClock.sleep_until(MonotonicClock.now().plus(EVERY)),
        }
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

/// What a status says about the reload that was asked for.
#[derive(Debug, PartialEq)]
enum Found {
    Outcome(Value),
    NotYet,
    /// Nobody will ever say.
    Lost(&'static str),
}

fn found(asked: &Value, status: &Value) -> Found {
    if ["pid", "epoch"].iter().any(|key| status[key] != asked[key]) {
        return Found::Lost("another daemon runs by now; what became of the reload cannot be told");
    }
    let (reloads, ticket) = (&status["reloads"], asked["ticket"].as_u64());
    let mut recent = reloads["recent"].as_array().into_iter().flatten();
    match recent.find(|outcome| outcome["ticket"].as_u64() == ticket) {
        Some(outcome) => Found::Outcome(outcome.clone()),
        None if reloads["finished"].as_u64() >= ticket => {
            Found::Lost("too many reloads came after this one; what became of it cannot be told any more")
        }
        None => Found::NotYet,
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(pid: u32, finished: u64, recent: &[u64]) -> Value {
        let recent: Vec<_> = recent.iter().map(|ticket| json!({ "ticket": ticket })).collect();
        json!({ "pid": pid, "epoch": 3, "reloads": { "finished": finished, "recent": recent } })
    }

    #[test]
    fn an_outcome_is_there_or_to_come_or_lost() {
        let asked = json!({ "ticket": 7, "pid": 4711, "epoch": 3 });
        assert_eq!(found(&asked, &status(4711, 6, &[5, 6])), Found::NotYet);
        assert_eq!(found(&asked, &status(4711, 7, &[6, 7])), Found::Outcome(json!({ "ticket": 7 })));
        assert_eq!(found(&asked, &status(4711, 9, &[7, 8, 9])), Found::Outcome(json!({ "ticket": 7 })));
        assert!(matches!(found(&asked, &status(4711, 9, &[8, 9])), Found::Lost(_)));
        assert!(matches!(found(&asked, &status(4712, 7, &[7])), Found::Lost(_)), "another process's seventh");
        assert!(matches!(found(&asked, &json!({})), Found::Lost(_)), "no daemon of ours");
    }
}
