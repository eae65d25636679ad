//! What `feed` and `tap` share: which agent is meant, waiting for its rings, its neighbours' roles, and being told to
//! stop.

use super::exit::{ExitCode, Failure};
use super::locate::one_directory;
use crate::config;
use escapement_reference::stop::StopSignals;
use escapement_ring::clock::{Clock, MonotonicClock, Nanos};
use escapement_ring::directory::{AgentDirectory, DirectoryError, Role};
use escapement_ring::shm::RoleLock;
use std::path::PathBuf;
use std::time::Duration;

/// Which agent.
#[derive(Debug, clap::Args)]
pub(super) struct AgentArguments {
    /// The agent's configuration, which names it and its directory
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["name", "root"])]
    config: Option<PathBuf>,
    /// The agent's name
    #[arg(long)]
    name: Option<String>,
    /// The directory that holds the agents' directories [default: the machine's]
    #[arg(long, value_name = "DIR", requires = "name")]
    root: Option<PathBuf>,
}

impl AgentArguments {
    pub(super) fn directory(&self) -> Result<AgentDirectory, Failure> {
        if let Some(path) = &self.config {
            let config = config::load(path)?;
            return Ok(AgentDirectory::new(config.root.as_deref(), &config.name));
        }
        let Some(name) = self.name.as_deref() else {
            let message = "no agent is named; allowed: --config FILE, or --name NAME";
            return Err(Failure::new(ExitCode::Usage, message));
        };
        Ok(AgentDirectory::new(self.root.as_deref(), &one_directory(name)?))
    }
}

/// How often something that is not there yet is looked for.
const RETRY: Nanos = Nanos::from_millis(5);

/// Tries until it succeeds, until it fails for another reason than that the agent's files are not there yet, until
/// `patience` is over, or until told to stop (`None`).
pub(super) fn once_there<T>(
    stop: &mut StopSignals,
    patience: Duration,
    mut attempt: impl FnMut() -> Result<T, Failure>,
) -> Result<Option<T>, Failure> {
    let begun = MonotonicClock.now();
    loop {
        let missing = match attempt() {
            Ok(value) => return Ok(Some(value)),
            Err(failure) if failure.code == ExitCode::InputMissing => failure,
            Err(failure) => return Err(failure),
        };
        let now = MonotonicClock.now();
        if now.since(begun).to_duration() >= patience {
            let waited = patience.as_secs_f64();
            let message = format!("{} (waited {waited} s: is the agent running?)", missing.message);
            return Err(Failure::new(missing.code, message));
        }
        if stop.requested(now) {
            return Ok(None);
        }
        MonotonicClock.sleep_until(now.plus(RETRY));
    }
}

/// Takes a neighbour's role, which is held until the process ends.
pub(super) fn take_role(directory: &AgentDirectory, role: Role) -> Result<RoleLock, Failure> {
    directory.acquire(role).map_err(|error: DirectoryError| error.into())
}

/// Installs the handlers of SIGTERM and SIGINT.
pub(super) fn install_stop_signals() -> Result<StopSignals, Failure> {
    StopSignals::install()
        .map_err(|error| Failure::new(ExitCode::Temporary, format!("signal handlers: {error}")))
}

/// A span of time on the command line, in seconds.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let allowed = || "allowed: seconds, 0 or more, such as 10 or 0.5".to_owned();
    let seconds: f64 = text.parse().map_err(|_| allowed())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| allowed())
}
