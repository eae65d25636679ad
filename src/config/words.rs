//! Words for values that consist of two keys: a word, and a number that belongs to one of the words.

use super::built::RecurrentConfig;
use escapement_engine::{CarryRule, IdleStrategy, KeepWarm};
use escapement_policy::words;
use serde_json::{Value, json};

/// The word for what happens to carried state. The length of a burn-in is a key of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CarryWord {
    Keep,
    Reset,
    BurnIn,
}

words!(CarryWord { Keep = "keep", Reset = "reset", BurnIn = "burn_in" });

impl CarryWord {
    pub(super) fn of(carry: CarryRule) -> Self {
        match carry {
            CarryRule::Keep => Self::Keep,
            CarryRule::Reset => Self::Reset,
            CarryRule::BurnIn(_) => Self::BurnIn,
        }
    }
}

/// The word for an idle strategy. The length of the sleeps of `Backoff` is a key of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IdleWord {
    Spin,
    Pause,
    Backoff,
}

words!(IdleWord { Spin = "spin", Pause = "pause", Backoff = "backoff" });

impl IdleWord {
    pub(super) fn of(idle: &IdleStrategy) -> Self {
        match idle {
            IdleStrategy::Spin => Self::Spin,
            IdleStrategy::Pause => Self::Pause,
            IdleStrategy::Backoff { .. } => Self::Backoff,
        }
    }
}

/// Returns the length of the sleeps; `None` if the strategy never sleeps.
pub(super) fn idle_sleep_us(idle: &IdleStrategy) -> Option<u64> {
    match idle {
        IdleStrategy::Spin | IdleStrategy::Pause => None,
        IdleStrategy::Backoff { sleep } => Some(sleep.as_micros() as u64),
    }
}

/// Returns the interval of the dry runs in microseconds, 0 for none, or the word for a chosen one.
pub(super) fn keep_warm_us(keep_warm: KeepWarm) -> Value {
    match keep_warm {
        KeepWarm::Off => json!(0),
        KeepWarm::Every(interval) => json!(interval.0 / 1_000),
        KeepWarm::Auto => json!("auto"),
    }
}

/// Returns the length of the burn-in, in observations; `None` if the file asks for no burn-in.
pub(super) fn burn_in(recurrent: &RecurrentConfig) -> Option<u32> {
    [recurrent.on_miss, recurrent.on_gap].into_iter().flatten().find_map(|rule| match rule {
        CarryRule::BurnIn(observations) => Some(observations),
        CarryRule::Keep | CarryRule::Reset => None,
    })
}
