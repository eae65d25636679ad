//! Faults that tests plant in the running daemon, under the feature `planted-faults`.
//!
//! With the feature, environment variables choose the faults. Without it, each function here does nothing and
//! the program reads none of those variables: `scripts/test.sh` looks for their names in a program built
//! without it.

#[cfg(not(feature = "planted-faults"))]
mod absent;
#[cfg(feature = "planted-faults")]
mod environment;

#[cfg(not(feature = "planted-faults"))]
use absent as faults;
#[cfg(feature = "planted-faults")]
use environment as faults;

pub(super) use faults::{
    halt_keeper, has_no_guard, load_slowly_if_planted, misbehaving_if_planted, moved_in_time_if_planted,
    panic_if_planted, reload_slowly_if_planted,
};
