//! L2. What the hot thread counts and what the cold ones make of it.

mod counters;
mod histogram;

pub use counters::{CounterSnapshot, Counters};
pub use histogram::{Histogram, Percentiles};
