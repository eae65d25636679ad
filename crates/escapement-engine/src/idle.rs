//! How the loop waits if there is nothing to do.

use std::time::Duration;

/// How to wait for the next observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdleStrategy {
    /// Look again at once. For an isolated core: the lowest latency, at full power.
    Spin,
    /// Look again after a PAUSE instruction, about 25 ns later. Leaves more of the core to a sibling
    /// hyper-thread.
    Pause,
    /// Spin for a while, then PAUSE for a while, then sleep between looks. For shared cores and tests. The
    /// first observation after a quiet period is answered late, by up to one timed wake-up.
    Backoff {
        /// How long to sleep between looks, once nothing has come for a while.
        sleep: Duration,
    },
}

/// The number of looks in the backoff's spinning phase.
const BACKOFF_SPINS: u32 = 1_000;
/// The number of looks in its pausing phase.
const BACKOFF_PAUSES: u32 = 1_000;

/// The strategy, and the number of looks since the last work.
#[derive(Debug)]
pub(super) struct Idle {
    strategy: IdleStrategy,
    looks: u32,
}

impl Idle {
    pub(super) fn new(strategy: IdleStrategy) -> Self {
        Self { strategy, looks: 0 }
    }

    /// Notes that there was work.
    #[inline]
    pub(super) fn reset(&mut self) {
        self.looks = 0;
    }

    /// Waits, because there was no work.
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
