//! L3. Why a tick missed: the cause of each miss, and the evidence for it.
//!
//! Nothing here costs the engine anything. Its tick records say when it did what; the kernel keeps record of when its
//! thread was off the core and in page faults (`host` reads that, on the supervisor's thread); and the guard,
//! which looks at the clock all the time, sees when the platform stood still ([`GapMeter`]). [`Misses`] brings these
//! together on one [`Timeline`]; the verdict, by a rule that `docs/CAUSES.md` explains, is a pure function of it.

mod cause;
mod gaps;
mod ledger;
mod log_rate;
#[cfg(test)]
mod tests;
mod thread_watch;
mod timeline;
mod verdict;

pub use cause::Cause;
pub use gaps::{GapMeter, GapReader, NOTABLE_GAP, USUAL_OVERSLEEP, gap_meter};
pub use ledger::{Miss, MissReport, Misses};
pub use log_rate::LogRateLimit;
pub use thread_watch::{ThreadWatch, WatchError, steal_is_accounted};
pub use timeline::{Interval, Segment, StealEstimate, ThreadState, Timeline};
pub use verdict::{Evidence, MissKind, judge};
