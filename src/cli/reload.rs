//! `escapement reload NAME [--to previous]`: reloads the configuration of a running agent.
//!
//! ```text
//! $ escapement reload example
//! example: reloaded, generation 2
//! $ escapement reload example
//! escapement: example: nothing was changed: agent.toml:113: deadline.inference_us = 0: out of range; allowed: …
//! ```
//! The settings of a tick change between two ticks, as one set. A new bundle is verified, proven and swapped
//! in. Keys that need a restart are named. `--to previous` returns to what ran before the last reload: its
//! settings, and the exact bytes of its policy. SIGHUP does the same and writes the result to the log.
//!
//! | exit code | the reload |
//! |---|---|
//! | 0 | was applied |
//! | 66 | was not possible: no daemon runs |
//! | 75 | has an unknown outcome: the daemon does not answer, was replaced, or took longer than `--timeout` |
//! | 78 | was refused; nothing was changed |
//!
//! After 75 the reload may still be applied; `escapement status --json` tells.

use super::CommandResult;
use super::agent::AgentArguments;
use super::exit::{ExitCode, Failure};
use crate::agent_files::{ControlRequest, ReloadTarget, ask_daemon};
use crate::status::{ReloadOutcome, ReloadTicket, StatusPage};
use escapement_ring::clock::{Clock, MonotonicClock, Nanos};
use std::time::Duration;

/// Reload the configuration of a running agent
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    agent: AgentArguments,
    /// What to load: the configuration as it is now, or what ran before the last reload
    #[arg(long, value_name = "WHICH", default_value = "configured", value_parser = target)]
    to: ReloadTarget,
    /// How long to wait for the outcome
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// Print the outcome as JSON
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
    let no_answer = |error: std::io::Error| unknown(error.to_string());
    let request = ControlRequest::Reload { to: arguments.to };
    let asked: ReloadTicket = ask_daemon(&agent.directory, &request, PATIENCE).map_err(no_answer)?;
    let give_up = MonotonicClock.now().plus(Nanos::from_millis(arguments.timeout * 1_000));
    let outcome = loop {
        let page = ask_daemon(&agent.directory, &ControlRequest::Status {}, PATIENCE).map_err(no_answer)?;
        match find(&asked, &page) {
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
        let json = serde_json::to_value(&outcome).expect("an outcome has only strings and numbers");
        println!("{json:#}");
    }
    if let Some(why) = &outcome.refused {
        let lines: Vec<_> = why.lines().map(|line| format!("{name}: nothing was changed: {line}")).collect();
        return Err(Failure::new(ExitCode::Config, lines.join("\n")));
    }
    if !arguments.json {
        println!("{}", summary(name, &outcome));
    }
    Ok(ExitCode::Ok)
}

/// What a status page says about the reload that was asked for.
#[derive(Debug, PartialEq)]
enum Found {
    Outcome(ReloadOutcome),
    NotYet,
    /// The outcome is not known and will not be.
    Lost(&'static str),
}

fn find(asked: &ReloadTicket, page: &StatusPage) -> Found {
    if (page.pid, page.epoch) != (asked.pid, asked.epoch) {
        return Found::Lost("another daemon runs by now; what became of the reload cannot be told");
    }
    let reloads = &page.reloads;
    match reloads.recent.iter().find(|outcome| outcome.ticket == asked.ticket) {
        Some(outcome) => Found::Outcome(outcome.clone()),
        None if reloads.finished >= asked.ticket => {
            Found::Lost("too many reloads came after this one; what became of it cannot be told any more")
        }
        None => Found::NotYet,
    }
}

fn summary(name: &str, outcome: &ReloadOutcome) -> String {
    let mut text = format!("{name}: reloaded, generation {}", outcome.revision);
    if outcome.policy_changed {
        text += "; another policy answers";
    }
    if !outcome.waits_for_restart.is_empty() {
        text += &format!("; needs a restart, and is as it was: {}", outcome.waits_for_restart.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page of the process `pid` in epoch 3, with outcomes of these tickets.
    fn page(pid: u32, finished: u64, recent: &[u64]) -> StatusPage {
        let written = include_str!("../../tests/golden/status_page.json");
        let mut page: StatusPage = serde_json::from_str(written).expect("a status page");
        let sample = page.reloads.recent[0].clone();
        (page.pid, page.epoch, page.reloads.finished) = (pid, 3, finished);
        let outcome = |ticket: &u64| ReloadOutcome { ticket: *ticket, ..sample.clone() };
        page.reloads.recent = recent.iter().map(outcome).collect();
        page
    }

    #[test]
    fn an_outcome_is_there_or_to_come_or_lost() {
        let asked = ReloadTicket { ticket: 7, pid: 4711, epoch: 3 };
        let is_seventh = |found: Found| matches!(found, Found::Outcome(outcome) if outcome.ticket == 7);
        assert_eq!(find(&asked, &page(4711, 6, &[5, 6])), Found::NotYet);
        assert!(is_seventh(find(&asked, &page(4711, 7, &[6, 7]))));
        assert!(is_seventh(find(&asked, &page(4711, 9, &[7, 8, 9]))));
        assert!(matches!(find(&asked, &page(4711, 9, &[8, 9])), Found::Lost(_)));
        assert!(matches!(find(&asked, &page(4712, 7, &[7])), Found::Lost(_)), "another process's seventh");
        let next_epoch = ReloadTicket { epoch: 4, ..asked };
        assert!(matches!(find(&next_epoch, &page(4711, 7, &[7])), Found::Lost(_)), "another epoch's seventh");
    }
}
