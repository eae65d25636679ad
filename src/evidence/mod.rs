//! Why a tick missed: the cause of each miss, and the evidence for it.
//!
//! Nothing here costs the engine anything. Its tick records say when it did what. The kernel records when its
//! thread was off the core and in page faults; [`ThreadWatch`] reads that on the supervisor's thread. The
//! guard reads the clock all the time, and so sees when the platform stood still ([`GapMeter`]).
//!
//! | module | holds |
//! |---|---|
//! | `attribution` | the verdict: pure, from evidence to cause |
//! | `thread_watch` | evidence from the kernel about one thread |
//! | `user_counters` | evidence from the processor about what that thread executes |
//! | `gaps` | evidence from the guard about the platform |
//! | `log_rate` | how many misses the log shows |

mod attribution;
mod gaps;
mod log_rate;
mod thread_watch;
mod user_counters;

pub use attribution::{
    Cause, Evidence, FixedWork, Interval, Miss, MissKind, MissReport, Misses, NOTABLE_GAP, PolicyTimes,
    Segment, StealEstimate, ThreadState, Timeline, UserCounts, UsualTimes, judge,
};
pub use gaps::{GapMeter, GapReader, USUAL_OVERSLEEP, gap_meter};
pub use log_rate::LogRateLimit;
pub use thread_watch::{ThreadWatch, WatchError, steal_is_accounted};
