//! What the loop does between ticks when there is nothing to do.

use std::time::Duration;

/// How to wait for the next observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdleStrategy {
    /// Look again at once. For an isolated core: lowest latency, all of its power.
    Spin,
    /// Look again after a PAUSE: some 25 ns later, kinder to a sibling hyper-thread.
    Pause,
    /// Spin for a while, then PAUSE for a while, then sleep between looks. For shared cores and tests: the first
    /// observation after a quiet spell is answered late by a timed wake-up.
    Backoff {
        /// How long to sleep between looks once nothing has come for a while.
        sleep: Duration,
    },
}

/// Looks of the backoff's spinning phase.
const BACKOFF_SPINS: u32 = 1_000;
/// Looks of its pausing phase.
const BACKOFF_PAUSES: u32 = 1_000;

/// The strategy and how long it has been idle.
#[derive(Debug)]
pub(super) struct Idle {
    strategy: IdleStrategy,
    looks: u32,
}

impl Idle {
    pub(super) fn new(strategy: IdleStrategy) -> Self {
        Self { strategy, looks: 0 }
    }

    /// There was work.
    #[inline]
    pub(super) fn reset(&mut self) {
        self.looks = 0;
    }

    /// There was none.
    #[inline]
    pub(super) fn wait(&mut self) {
        match self.strategy {
            IdleStrategy::Spin => {}
            IdleStrategy::Pause => core::hint::spin_loop(),
            IdleStrategy::Backoff { sleep } => {
                self.looks = self.looks.saturating_add(1);
                if self.looks > BACKOFF_SPINS + BACKOFF_PAUSES {
                    std::thread::sleep(sleep);
                } else if self.looks > BACKOFF_SPINS {
                    core::hint::spin_loop();
                }
            }
        }
    }
}
