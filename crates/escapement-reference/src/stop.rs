//! Being told to stop.

use escapement_ring::clock::Nanos;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;

/// Notices SIGTERM and SIGINT. A look is a system call, so it is made at most once a millisecond.
pub struct StopSignals {
    signals: Signals,
    next_look: Nanos,
    seen: bool,
}

impl StopSignals {
    const EVERY: Nanos = Nanos::from_millis(1);

    /// Installs the handlers.
    ///
    /// # Errors
    /// Fails if the system refuses a handler.
    pub fn install() -> io::Result<Self> {
        Ok(Self { signals: Signals::new([SIGTERM, SIGINT])?, next_look: Nanos(0), seen: false })
    }

    /// Returns whether a signal has come. Once true, it stays true.
    pub fn requested(&mut self, now: Nanos) -> bool {
        if now >= self.next_look && !self.seen {
            self.next_look = now.plus(Self::EVERY);
            self.seen = self.signals.pending().next().is_some();
        }
        self.seen
    }

    /// Returns how many signals have come since the last call.
    pub fn count(&mut self) -> usize {
        self.signals.pending().count()
    }
}
