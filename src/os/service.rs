//! The service manager (systemd): readiness, status line, watchdog. Does nothing if there is none.

use escapement_ring::clock::Nanos;
use sd_notify::NotifyState;
use std::time::Duration;

/// The notification socket of systemd, if the process was started with one.
#[derive(Debug)]
pub struct ServiceManager {
    watchdog: Option<Duration>,
    fed: Nanos,
}

impl ServiceManager {
    /// Reads what the service manager expects of this process from the environment.
    pub fn from_environment() -> Self {
        Self { watchdog: sd_notify::watchdog_enabled(), fed: Nanos(0) }
    }

    /// Reports that the agent is ready, with a status line.
    pub fn ready(&self, status: &str) {
        notify(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// Reports that a reload begins. [`ServiceManager::ready`] ends it.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => notify(&[NotifyState::Reloading, now]),
            Err(_) => notify(&[NotifyState::Reloading]),
        }
    }

    /// Sets the line that `systemctl status` shows.
    pub fn status(&self, status: &str) {
        notify(&[NotifyState::Status(status)]);
    }

    /// Reports that the process is about to end.
    pub fn stopping(&self, status: &str) {
        notify(&[NotifyState::Stopping, NotifyState::Status(status)]);
    }

    /// Warns if the watchdog may end a hung agent before the agent has kept its halt.
    pub fn warn_if_shorter_than(&self, hang_timeout: Nanos) {
        if let Some(watchdog) = self.watchdog.filter(|watchdog| forestalls_the_halt(*watchdog, hang_timeout))
        {
            tracing::warn!(
                watchdog_ms = watchdog.as_millis(),
                hang_timeout_ms = hang_timeout.0 / 1_000_000,
                "WatchdogSec is not more than twice deadline.hang_timeout_ms: \
                 a hung agent may be aborted and started again before its halt is kept"
            );
        }
    }

    /// Feeds the watchdog twice in its interval, but only while the engine's heartbeat is younger than half
    /// of it. A live supervisor beside a dead engine must not look healthy.
    pub fn feed_watchdog(&mut self, now: Nanos, engine_heartbeat: Nanos) {
        let Some(interval) = self.watchdog else { return };
        let half = Nanos(u64::try_from(interval.as_nanos() / 2).unwrap_or(u64::MAX));
        if now.since(self.fed) >= half && now.since(engine_heartbeat) < half {
            notify(&[NotifyState::Watchdog]);
            self.fed = now;
        }
    }
}

/// Whether the watchdog may end the process before the guard has halted it.
///
/// The watchdog is fed until the engine has been silent for half the interval, and fires one interval after
/// it was last fed. The guard halts after `hang_timeout` of silence. That, and the time to keep the halt,
/// must fit into half an interval.
fn forestalls_the_halt(watchdog: Duration, hang_timeout: Nanos) -> bool {
    watchdog.as_nanos() <= 2 * u128::from(hang_timeout.0)
}

/// Sends a notification. Does nothing without a socket; an error is only logged, since it has no other
/// receiver.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "service manager notification");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_is_longer_than_twice_the_hang_timeout() {
        let hang_timeout = Nanos::from_millis(1_000);
        for (watchdog_us, forestalls) in
            [(1, true), (2_000_000, true), (2_000_001, false), (5_000_000, false)]
        {
            let watchdog = Duration::from_micros(watchdog_us);
            assert_eq!(forestalls_the_halt(watchdog, hang_timeout), forestalls, "{watchdog_us}");
        }
    }
}
