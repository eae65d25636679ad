//! The commands. Each has one file, and the file's module doc is its manual.
//!
//! Arguments are handled in two stages. `clap` parses what was typed. Each command then builds what it means,
//! and runs. Every failure ends as one line on standard error and an exit code from the table in [`exit`].

pub mod exit;

mod agent;
mod attach;
mod bundle;
mod check;
mod confinement;
mod demo;
mod execution;
mod feed;
mod halt;
mod inspect;
mod locate;
mod log;
mod npy;
mod predict;
mod rearm;
mod reload;
mod run;
mod seconds;
mod status;
mod tap;
mod validate;

use clap::{Parser, Subcommand};
use exit::{ExitCode, Failure};

/// A trading agent daemon that never acts late.
#[derive(Debug, Parser)]
#[command(name = "escapement", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Arguments),
    Check(check::Arguments),
    Status(status::Arguments),
    Halt(halt::Arguments),
    Rearm(rearm::Arguments),
    Reload(reload::Arguments),
    #[command(subcommand)]
    Bundle(bundle::Command),
    Feed(feed::Arguments),
    Tap(tap::Arguments),
    Demo(demo::Arguments),
    Predict(predict::Arguments),
    Inspect(inspect::Arguments),
    Validate(validate::Arguments),
}

/// Parses the command line and runs the command. Returns the exit code.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return exit::for_usage(&error),
    };
    if !matches!(arguments.command, Command::Run(_)) {
        crate::os::end_quietly_on_closed_pipe();
    }
    let result = match arguments.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Halt(arguments) => halt::run(&arguments),
        Command::Rearm(arguments) => rearm::run(&arguments),
        Command::Reload(arguments) => reload::run(&arguments),
        Command::Bundle(command) => bundle::run(&command),
        Command::Feed(arguments) => feed::run(&arguments),
        Command::Tap(arguments) => tap::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Predict(arguments) => predict::run(&arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Validate(arguments) => validate::run(&arguments),
    };
    let code = match result {
        Ok(code) => code,
        Err(failure) => failure.report(),
    };
    if code == ExitCode::Hung {
        crate::halt::end_at_once(code as i32);
    }
    code
}

/// The result of a command.
type CommandResult = Result<ExitCode, Failure>;

#[cfg(test)]
mod tests {
    /// clap checks its own declarations for contradictions.
    #[test]
    fn the_command_line_is_consistent() {
        <super::Arguments as clap::CommandFactory>::command().debug_assert();
    }

    /// Every command about an agent takes its name in the same places: `NAME`, `--name NAME` or
    /// `--config FILE`.
    #[test]
    fn every_command_names_its_agent_the_same_way() {
        let commands: [(&str, &[&str]); 6] = [
            ("status", &[]),
            ("halt", &["--reason", "why"]),
            ("rearm", &["--reason", "why"]),
            ("reload", &[]),
            ("feed", &[]),
            ("tap", &[]),
        ];
        for (command, others) in commands {
            let parse = |agent: &[&str]| {
                let words = [&["escapement", command], agent, others].concat();
                <super::Arguments as clap::Parser>::try_parse_from(words)
            };
            for agent in [&["eth"] as &[&str], &["--name", "eth"], &["--config", "eth.toml"]] {
                assert!(parse(agent).is_ok(), "{command} {agent:?}: {:?}", parse(agent).err());
            }
            for agent in [&["eth", "--name", "eth"] as &[&str], &["eth", "--config", "eth.toml"]] {
                assert!(parse(agent).is_err(), "{command} {agent:?}");
            }
        }
    }
}
