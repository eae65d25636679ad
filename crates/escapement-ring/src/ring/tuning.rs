//! What differs between processors: the width of the copies' words, and which prefetches help.
//!
//! It changes no byte of a ring and no order of accesses, so that both sides of one ring may differ in it. It
//! is chosen once, when memory becomes a ring. The benchmark of the rivals tries every choice.

use super::copy::Width;

/// How a side of a ring uses the processor.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// The widest words of the copies.
    pub width: Width,
    /// After a commit, the producer prefetches the next slot for writing.
    pub prefetch_write: bool,
    /// After a release, the consumer prefetches the next committed slot.
    pub prefetch_read: bool,
    /// After a commit, the producer demotes.
    pub demote: bool,
}

impl Tuning {
    /// What every processor can do, without hints.
    pub const PLAIN: Self =
        Self { width: Width::NARROW, prefetch_write: false, prefetch_read: false, demote: false };

    /// The choice for this processor.
    pub fn of_this_processor() -> Self {
        let width = [64, 32].into_iter().find_map(Width::of).unwrap_or(Width::NARROW);
        Self { width, prefetch_write: true, prefetch_read: true, demote: false }
    }
}
