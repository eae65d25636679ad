//! The deadlines and the verdict on one tick's times. Pure: instants in, lateness out.

use escapement_ring::clock::Nanos;

/// Limits on one tick. A time equal to its limit is on time; one nanosecond more is late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Policy called → policy returned.
    pub inference: Nanos,
    /// Observation peeked → action about to be committed.
    pub end_to_end: Nanos,
    /// Observation committed by the feed → peeked; `None` for any age.
    pub max_age: Option<Nanos>,
}

impl Deadlines {
    /// The last instant at which an action of this tick is on time, by both layers.
    #[inline]
    pub fn tick_deadline(&self, peeked: Nanos, called: Nanos) -> Nanos {
        peeked.plus(self.end_to_end).min(called.plus(self.inference))
    }

    /// The shortest time that a tick may be given.
    pub fn shortest(&self) -> Nanos {
        self.inference.min(self.end_to_end)
    }

    /// Whether the inference took too long.
    #[inline]
    pub fn inference_is_late(&self, called: Nanos, returned: Nanos) -> bool {
        returned.since(called) > self.inference
    }

    /// Whether the tick took too long.
    #[inline]
    pub fn end_to_end_is_late(&self, peeked: Nanos, about_to_commit: Nanos) -> bool {
        about_to_commit.since(peeked) > self.end_to_end
    }

    /// Whether the observation was too old when it was peeked. A stamp in the future is no age at all.
    #[inline]
    pub fn is_stale(&self, published: Nanos, peeked: Nanos) -> bool {
        self.max_age.is_some_and(|max_age| peeked.since(published) > max_age)
    }
}
