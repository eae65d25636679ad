//! Atomics and cells. This is the only file that names them.
//!
//! Under `--cfg loom` the same names come from loom, so that the ring and the engine's lease are
//! model-checked from the source that ships. All other code imports from here; the test `tidy` enforces it.

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU64, Ordering};

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU64, Ordering};

#[cfg(loom)]
use loom::cell::UnsafeCell;

/// A value that several threads access, one at a time. The protocol around it must keep the accesses apart.
/// Loom reports two accesses that are not synchronised.
#[derive(Debug)]
pub struct SharedCell<T>(UnsafeCell<T>);

#[cfg(not(loom))]
use core::cell::UnsafeCell;

// SAFETY: the only access is `with`, whose caller holds the sole right to the value at that time. A value
// that may move to another thread may also be accessed from there.
unsafe impl<T: Send> Sync for SharedCell<T> {}

impl<T> SharedCell<T> {
    pub fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Runs `body` on the value.
    ///
    /// # Safety
    /// No other thread may be in `with`, and everything that the last one did there must be visible to this
    /// thread.
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

/// Runs a scenario under loom in every interleaving with at most `bound` preemptions. `LOOM_MAX_PREEMPTIONS`
/// sets another bound. `ESCAPEMENT_LOOM_FULL=1` removes the bound, which takes much longer and is for
/// releases.
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
