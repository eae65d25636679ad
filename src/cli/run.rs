//! `escapement run -c FILE`: the daemon itself, in the foreground.
//!
//! It makes the agent's rings, or takes over those of its predecessor with their contents. It loads the
//! policy and warms it up on its core, reports READY to the service manager, and answers every observation
//! until it is told to stop.
//!
//! | signal | effect |
//! |---|---|
//! | TERM, INT | drain: answer what is in the ring, then stop with exit code 0 |
//! | HUP | reload the configuration; if it is refused, change nothing and log why |
//! | USR1 | write `status.json` into the agent's directory |
//! | USR2 | halt now |
//!
//! `docs/EXIT_CODES.md` lists the exit codes. 80 means halted: a service manager must not restart it.

use super::CommandResult;
use super::exit::{ExitCode, Failure};
use super::log;
use crate::config::{self, AgentConfig, PolicySource};
use crate::daemon::{self, End};
use crate::halt::{CrashCodes, end_at_once};
use crate::policy::Backend;
use escapement_ring::wire::Reason;
use std::path::PathBuf;

/// Run an agent
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The agent's configuration
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Run the policy with another backend than the configuration's: auto, native, torch or null
    #[arg(long)]
    backend: Option<Backend>,
}

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    let mut config = config::load(&arguments.config)?;
    if let Some(backend) = arguments.backend {
        choose_backend(&mut config, backend)?;
    }
    let (file, backend) = (arguments.config.clone(), arguments.backend);
    let read_again = move || {
        let mut config = config::load(&file).map_err(|error| error.to_string())?;
        if let Some(backend) = backend {
            choose_backend(&mut config, backend).map_err(|failure| failure.message)?;
        }
        Ok(config)
    };
    log::start(&config.log)?;
    let codes = CrashCodes {
        panic_code: ExitCode::Internal as i32,
        bus_error_code: ExitCode::BusError as i32,
        hung_code: ExitCode::Hung as i32,
    };
    codes.install().map_err(|error| Failure::new(ExitCode::Temporary, format!("SIGBUS handler: {error}")))?;
    let ending = match daemon::run(&config, &arguments.config, read_again) {
        Ok(ending) => ending,
        Err(error) if error.leaves_a_thread() => end_at_once(Failure::from(error).report() as i32),
        Err(error) => return Err(error.into()),
    };
    let code = match ending.end {
        End::Stopped => ExitCode::Ok,
        // The process took longer to die of it than the supervisor waits.
        End::Halted(Reason::Panic) => ExitCode::Internal,
        End::Halted(Reason::BusError) => ExitCode::BusError,
        End::Halted(_) => ExitCode::Halted,
        End::Violated => ExitCode::Protocol,
        End::Hung => ExitCode::Hung,
    };
    if ending.abandoned {
        end_at_once(code as i32);
    }
    Ok(code)
}

fn choose_backend(config: &mut AgentConfig, backend: Backend) -> Result<(), Failure> {
    if config.policy.source == PolicySource::Null && backend != Backend::Null {
        let message =
            format!("--backend {}: the configuration names no policy to run with it", backend.name());
        return Err(Failure::new(ExitCode::Usage, message));
    }
    if backend == Backend::Null {
        config.policy.source = PolicySource::Null;
    }
    config.policy.backend = backend;
    Ok(())
}
