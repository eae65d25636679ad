//! L0. The only file that names atomics and cells.
//!
//! Under `--cfg loom` the same names come from loom, so that the ring and the hand-over of rights between threads are
//! model-checked from the very source that ships. Everything above imports from here; the `tidy` test enforces it.

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU64, Ordering};

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU64, Ordering};

#[cfg(loom)]
use loom::cell::UnsafeCell;

/// A value that several threads reach, one at a time. Whose turn it is, is a protocol's business around it; loom
/// reports two accesses that the protocol does not keep apart.
#[derive(Debug)]
pub struct SharedCell<T>(UnsafeCell<T>);

#[cfg(not(loom))]
use core::cell::UnsafeCell;

// SAFETY: the only way in is `with`, whose caller holds the sole right to the value at that time; a value that may
// move to another thread may be reached from there.
unsafe impl<T: Send> Sync for SharedCell<T> {}

impl<T> SharedCell<T> {
    pub fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Runs `body` on the value.
    ///
    /// # Safety
    /// No other thread is in `with`, and everything that the last one did there is visible to this thread.
    #[inline]
    pub unsafe fn with<R>(&self, body: impl FnOnce(&mut T) -> R) -> R {
        #[cfg(loom)]
        return self.0.with_mut(|value| {
            // SAFETY: the caller's promise.
            body(unsafe { &mut *value })
        });
        #[cfg(not(loom))]
        // SAFETY: the caller's promise.
        body(unsafe { &mut *self.0.get() })
    }
}

/// Runs a scenario under loom in every interleaving with at most `bound` preemptions. `LOOM_MAX_PREEMPTIONS` sets another bound,
/// and `ESCAPEMENT_LOOM_FULL=1` lifts it altogether, which is for releases.
#[cfg(loom)]
pub fn explore(bound: usize, scenario: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    if std::env::var_os("ESCAPEMENT_LOOM_FULL").is_some() {
        model.preemption_bound = None;
    } else if model.preemption_bound.is_none() {
        model.preemption_bound = Some(bound);
    }
    model.check(scenario);
}
