//! Calls that keep the core warm while no observation waits, as the engine's dry runs do.

use super::caller::Caller;
use escapement_engine::telemetry::Histogram;
use escapement_engine::{KeepWarm, expected_delay_ns};
use escapement_ring::clock::{Clock, Nanos};

/// What was done to stay warm, and what it cost.
#[derive(Debug, Clone)]
pub struct KeepWarmUse {
    /// What was asked for.
    pub setting: KeepWarm,
    /// How long the thread was idle before each call; `None` if none was made.
    pub interval: Option<Nanos>,
    /// Why none was made, although the setting asks for them.
    pub why_off: Option<&'static str>,
    /// What they took.
    pub lengths: Histogram,
    /// Observations that arrived during one.
    pub delayed: u64,
    /// By how much these were delayed, together.
    pub delay: Nanos,
}

impl KeepWarmUse {
    /// Returns the setting in a word: `off`, `auto`, or the interval.
    pub fn word(setting: KeepWarm) -> String {
        match setting {
            KeepWarm::Off => "off".to_owned(),
            KeepWarm::Auto => "auto".to_owned(),
            KeepWarm::Every(interval) => format!("{} us", interval.0 as f64 / 1e3),
        }
    }

    /// Returns by how much an observation that arrives at a random instant is delayed on average, in
    /// nanoseconds.
    pub fn expected_delay_ns(&self) -> f64 {
        let length = Nanos(self.lengths.quantile_ns(0.5));
        self.interval.map_or(0.0, |interval| expected_delay_ns(length, interval))
    }
}

/// Decides when a call is made to stay warm, and makes it.
pub(super) struct Warmer {
    used: KeepWarmUse,
    /// The call between the last look for an observation and the next one.
    last: Option<(Nanos, Nanos)>,
}

impl Warmer {
    /// `typical` is what a call takes back to back.
    pub(super) fn new(setting: KeepWarm, caller: &Caller<'_>, typical: Nanos, deadline: Nanos) -> Self {
        let interval = setting.interval(typical, deadline);
        let (interval, why_off) = match interval {
            Some(_) if !caller.can_run_dry() => {
                (None, Some("a call of this policy may leave more behind than its states"))
            }
            None if setting != KeepWarm::Off => (None, Some("a call takes too long for the deadline")),
            interval => (interval, None),
        };
        let lengths = Histogram::new();
        let used = KeepWarmUse { setting, interval, why_off, lengths, delayed: 0, delay: Nanos(0) };
        Self { used, last: None }
    }

    /// Takes in that an observation has arrived, and counts the delay by a call that was under way.
    #[inline]
    pub(super) fn on_arrival(&mut self, arrived: Nanos) {
        if let Some((begun, ended)) = self.last.take() {
            let delay = ended.0.saturating_sub(arrived.0.max(begun.0));
            self.used.delayed += u64::from(delay > 0);
            self.used.delay.0 += delay;
        }
    }

    /// Makes a call if the thread has been idle for long enough by `now`, and returns when it ended.
    #[inline]
    pub(super) fn on_idle(
        &mut self,
        caller: &mut Caller<'_>,
        clock: &impl Clock,
        now: Nanos,
        busy_until: Nanos,
    ) -> Option<Nanos> {
        self.last = None;
        if now.since(busy_until) < self.used.interval? {
            return None;
        }
        let (begun, ended) = caller.call_to_stay_warm(clock);
        self.used.lengths.record(ended.since(begun).0);
        self.last = Some((begun, ended));
        Some(ended)
    }

    pub(super) fn finish(self) -> KeepWarmUse {
        self.used
    }
}
