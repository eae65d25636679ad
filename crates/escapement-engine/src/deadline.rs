//! The deadlines, and whether one tick's times are late. Pure functions of instants.

use escapement_ring::clock::Nanos;

/// Limits on one tick. A time equal to its limit is on time. One nanosecond more is late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// From the policy's call to its return.
    pub inference: Nanos,
    /// From the peek of the observation to the moment before the commit of the action.
    pub end_to_end: Nanos,
    /// From the feed's commit of the observation to the peek; `None` for any age.
    pub max_age: Option<Nanos>,
}

impl Deadlines {
    /// Returns the last instant at which an action of this tick is on time under both deadlines.
    #[inline]
    pub fn tick_deadline(&self, peeked: Nanos, called: Nanos) -> Nanos {
        peeked.plus(self.end_to_end).min(called.plus(self.inference))
    }

    /// Returns the shorter of the two deadlines.
    pub fn shortest(&self) -> Nanos {
        self.inference.min(self.end_to_end)
    }

    /// Returns true if the inference took too long. It also did if the clock went back meanwhile: the
    /// difference wraps around, and is longer than any deadline.
    #[inline]
    pub fn inference_is_late(&self, called: Nanos, returned: Nanos) -> bool {
        returned.0.wrapping_sub(called.0) > self.inference.0
    }

    /// Returns true if the tick took too long, or if the clock went back meanwhile.
    #[inline]
    pub fn end_to_end_is_late(&self, peeked: Nanos, about_to_commit: Nanos) -> bool {
        about_to_commit.0.wrapping_sub(peeked.0) > self.end_to_end.0
    }

    /// Returns true if the observation was too old when it was peeked. A stamp in the future counts as age
    /// zero; admission refuses it before, if it lies further ahead than the clocks may differ.
    #[inline]
    pub fn is_stale(&self, published: Nanos, peeked: Nanos) -> bool {
        self.max_age.is_some_and(|max_age| peeked.since(published) > max_age)
    }
}
