//! `escapement check -c FILE`: says whether a configuration is good, without touching the machine.

use super::CommandResult;
use super::exit::ExitCode;
use std::path::PathBuf;

/// Check a configuration file
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The configuration to check
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    println!("{}", arguments.config.display());
    Ok(ExitCode::Ok)
}
