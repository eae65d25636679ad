//! L2. What the hot thread counts, and the figures that other threads compute from it.

mod counters;
mod features;
mod histogram;
mod keep_warm;

pub use counters::{CounterSnapshot, Counters};
pub use features::FeatureCounts;
pub use histogram::{Histogram, Percentiles};
pub use keep_warm::{KeepWarmMeter, KeepWarmSnapshot};
