//! What `feed` and `tap` share: waiting for an agent's rings, taking a role, and being told to stop.

use super::exit::{ExitCode, Failure};
use escapement_reference::stop::StopSignals;
use escapement_ring::clock::{Clock, MonotonicClock, Nanos};
use escapement_ring::directory::{AgentDirectory, DirectoryError, Role};
use escapement_ring::shm::RoleLock;
use std::time::Duration;

/// How long to wait between two attempts.
const RETRY: Nanos = Nanos::from_millis(5);

/// Repeats `attempt` while it fails because the agent's files do not exist yet. Returns `None` if a stop
/// signal comes.
///
/// # Errors
/// Fails with the last error once `patience` is over, or at once with any other error.
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

/// Takes the role of a feed or gateway. The lock must be kept until the process ends.
pub(super) fn take_role(directory: &AgentDirectory, role: Role) -> Result<RoleLock, Failure> {
    directory.acquire(role).map_err(|error: DirectoryError| error.into())
}

/// Installs the handlers of SIGTERM and SIGINT.
pub(super) fn install_stop_signals() -> Result<StopSignals, Failure> {
    StopSignals::install()
        .map_err(|error| Failure::new(ExitCode::Temporary, format!("signal handlers: {error}")))
}
