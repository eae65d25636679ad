//! L0. The only file that names atomics and cells.
//!
//! Under `--cfg loom` the same names come from loom, so that the ring and the claim protocol are model-checked from
//! the very source that ships. Everything above imports from here; the `tidy` test enforces it.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU64, Ordering};
