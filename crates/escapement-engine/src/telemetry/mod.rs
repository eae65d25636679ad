//! L2. What the hot thread counts and what the cold ones make of it.

mod counters;
mod features;
mod histogram;

pub use counters::{CounterSnapshot, Counters};
pub use features::FeatureCounts;
pub use histogram::{Histogram, Percentiles};
