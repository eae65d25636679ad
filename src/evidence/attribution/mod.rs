//! The attribution: a pure function from evidence to the cause of a miss. It reads neither clock nor kernel.
//!
//! [`Misses`] takes in tick records and brings them together with the evidence on one [`Timeline`]. [`judge`]
//! is the verdict on one miss; `docs/CAUSES.md` explains its rule.

mod cause;
mod ledger;
mod own_time;
#[cfg(test)]
mod tests;
mod timeline;
mod verdict;

pub use cause::Cause;
pub use ledger::{Miss, MissReport, Misses};
pub use own_time::{FixedWork, PolicyTimes, UsualTimes};
pub use timeline::{Interval, NOTABLE_GAP, Segment, StealEstimate, ThreadState, Timeline, UserCounts};
pub use verdict::{Evidence, MissKind, judge};
