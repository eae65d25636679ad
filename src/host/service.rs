//! The service manager: readiness, status line, watchdog. Silent where there is none.

use crate::clock::Nanos;
use sd_notify::NotifyState;
use std::time::Duration;

/// The notification socket of systemd, if the process was started with one.
#[derive(Debug)]
pub struct ServiceManager {
    watchdog: Option<Duration>,
    fed: Nanos,
}

impl ServiceManager {
    /// Looks up what the service manager expects of this process.
    pub fn from_environment() -> Self {
        Self { watchdog: sd_notify::watchdog_enabled(), fed: Nanos(0) }
    }

    /// The agent is armed.
    pub fn ready(&self, status: &str) {
        notify(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// A reload begins; [`ServiceManager::ready`] ends it.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => notify(&[NotifyState::Reloading, now]),
            Err(_) => notify(&[NotifyState::Reloading]),
        }
    }

    /// What `systemctl status` shows.
    pub fn status(&self, status: &str) {
        notify(&[NotifyState::Status(status)]);
    }

    /// The process is going to end.
    pub fn stopping(&self, status: &str) {
        notify(&[NotifyState::Stopping, NotifyState::Status(status)]);
    }

    /// Feeds the watchdog, twice in its interval, but only while the engine's own heartbeat is younger than that: a
    /// live supervisor beside a dead engine must not look healthy.
    pub fn feed_watchdog(&mut self, now: Nanos, engine_heartbeat: Nanos) {
        let Some(interval) = self.watchdog else { return };
        let half = Nanos(u64::try_from(interval.as_nanos() / 2).unwrap_or(u64::MAX));
        if now.since(self.fed) >= half && now.since(engine_heartbeat) < half {
            notify(&[NotifyState::Watchdog]);
            self.fed = now;
        }
    }
}

/// Without a socket this does nothing; with a broken one there is nobody to tell.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "service manager notification");
    }
}
