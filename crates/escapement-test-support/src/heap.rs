//! The memory of a whole process: what is allocated now, the most at one time, and the sum of all
//! allocations.
//!
//! A test binary or fuzz target that asks must make [`Metered`] its global allocator, and must run one
//! subject at a time.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The system's allocator, with the process's totals.
pub struct Metered;

static LIVE: AtomicU64 = AtomicU64::new(0);
static PEAK: AtomicU64 = AtomicU64::new(0);
static TOTAL: AtomicU64 = AtomicU64::new(0);
static CALLS: AtomicU64 = AtomicU64::new(0);

fn add(bytes: usize) {
    CALLS.fetch_add(1, Relaxed);
    TOTAL.fetch_add(bytes as u64, Relaxed);
    let live = LIVE.fetch_add(bytes as u64, Relaxed) + bytes as u64;
    PEAK.fetch_max(live, Relaxed);
}

fn subtract(bytes: usize) {
    LIVE.fetch_sub(bytes as u64, Relaxed);
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Metered {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        subtract(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // Both may exist for a moment.
        add(new_size);
        subtract(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

/// What one piece of work took.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// The most bytes at one time, beyond what was allocated before.
    pub peak: u64,
    /// The bytes of all allocations together.
    pub total: u64,
    /// The number of allocations.
    pub calls: u64,
}

/// Does `work` and returns what it took.
pub fn usage<T>(work: impl FnOnce() -> T) -> (T, Usage) {
    let (live, total, calls) = (LIVE.load(Relaxed), TOTAL.load(Relaxed), CALLS.load(Relaxed));
    PEAK.store(live, Relaxed);
    let result = work();
    let usage = Usage {
        peak: PEAK.load(Relaxed).saturating_sub(live),
        total: TOTAL.load(Relaxed) - total,
        calls: CALLS.load(Relaxed) - calls,
    };
    (result, usage)
}
