//! A ring in real memory: a mapped file between processes, the heap between threads and in tests.

use super::hint;
use super::layout::{self, LayoutError, Spec};
use super::memory::Memory;
use super::tuning::Tuning;
use crate::backing::Backing;
use crate::sync::{AtomicU64, Ordering};
use core::ptr::NonNull;
use std::sync::Arc;

/// A ring laid out in real memory. Clones share the same memory.
#[derive(Clone)]
pub struct Region {
    base: NonNull<u8>,
    // The geometry as checked when the region was opened. The peer can overwrite the header, but not this
    // copy.
    spec: Spec,
    tuning: Tuning,
    _backing: Arc<dyn Backing>,
}

// SAFETY: the bytes behind `base` stay valid as long as `_backing`, which is Send and Sync, and every access
// to them is an atomic or a volatile copy made under the ring's protocol.
unsafe impl Send for Region {}
// SAFETY: as for Send.
unsafe impl Sync for Region {}

impl std::fmt::Debug for Region {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Region").field("spec", &self.spec).finish_non_exhaustive()
    }
}

impl Region {
    /// Lays out a new ring in `backing`. The bytes must all be zero, and no other process may use them yet.
    ///
    /// # Errors
    /// Fails if the geometry is not allowed, or if the backing's size is not exactly the ring's.
    pub fn format(backing: Arc<dyn Backing>, spec: Spec) -> Result<Self, LayoutError> {
        spec.check()?;
        Self::expect_size(&*backing, spec.region_bytes())?;
        layout::write_header(backing.base(), &spec);
        Ok(Self {
            base: backing.base(),
            spec,
            tuning: Tuning::of_this_processor().within(spec.capacity),
            _backing: backing,
        })
    }

    /// Opens a ring that a process laid out in `backing`. Checks its header against the backing's size.
    ///
    /// # Errors
    /// Fails if this is not a ring, if it has another layout version, or if its header contradicts itself.
    pub fn open(backing: Arc<dyn Backing>) -> Result<Self, LayoutError> {
        if backing.len() < layout::DATA_OFFSET {
            let expected = layout::DATA_OFFSET as u64;
            return Err(LayoutError::Size { found: backing.len() as u64, expected });
        }
        let spec = layout::read_header(backing.base())?;
        Self::expect_size(&*backing, spec.region_bytes())?;
        Ok(Self {
            base: backing.base(),
            spec,
            tuning: Tuning::of_this_processor().within(spec.capacity),
            _backing: backing,
        })
    }

    /// The one check that every later access relies on.
    fn expect_size(backing: &dyn Backing, expected: usize) -> Result<(), LayoutError> {
        if backing.len() == expected {
            Ok(())
        } else {
            Err(LayoutError::Size { found: backing.len() as u64, expected: expected as u64 })
        }
    }

    /// The geometry, as checked when the region was opened.
    #[inline]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The device and the inode of the ring's file; `None` for a ring without a file. A file of the ring's
    /// name that has other ones has taken the ring's place.
    pub fn file_identity(&self) -> Option<(u64, u64)> {
        self._backing.file_identity()
    }

    /// The same ring, without demoting a slot's lines after a commit: for a ring whose two ends are on one
    /// core.
    pub(super) fn kept_close(self) -> Self {
        Self { tuning: Tuning { demote: false, ..self.tuning }, ..self }
    }

    /// The same ring, used in another way. For the benchmarks and tests of every way.
    #[doc(hidden)]
    #[must_use]
    pub fn tuned(self, tuning: Tuning) -> Self {
        Self { tuning: tuning.within(self.spec.capacity), ..self }
    }

    /// Both positions now, committed and released. For observers that are neither producer nor consumer.
    pub fn positions(&self) -> (u64, u64) {
        // The consumer's position is read first, so that `released` is never above `committed`.
        // SYNC POINT `RELEASED`, Acquire, and
        // SYNC POINT `COMMITTED`, Acquire: only so that the second load cannot come before the first.
        let released = self.consumer_position().load(Ordering::Acquire);
        (self.producer_position().load(Ordering::Acquire), released)
    }

    /// The atomic at a byte offset of the header page.
    #[inline]
    pub(super) fn word(&self, offset: usize) -> &AtomicU64 {
        debug_assert!(offset.is_multiple_of(8) && offset + 8 <= layout::DATA_OFFSET);
        // SAFETY: the callers are in this module's siblings and pass offsets of `layout`, which lie in the
        // header page and are multiples of 8; the backing holds that page (checked when the region was made)
        // and its base is page-aligned. Every process accesses these words as atomics only.
        unsafe { &*self.base.as_ptr().add(offset).cast::<AtomicU64>() }
    }

    /// The addresses of the header page.
    pub(super) fn header_page(&self) -> std::ops::Range<usize> {
        let base = self.base.addr().get();
        base..base + layout::DATA_OFFSET
    }

    #[inline]
    fn slot(&self, index: usize) -> *mut u8 {
        debug_assert!((index as u64) < self.spec.capacity);
        // SAFETY: the algorithm masks every index with the capacity, and the backing was checked to have
        // exactly the `region_bytes` of this spec.
        unsafe { self.base.as_ptr().add(layout::DATA_OFFSET + index * self.spec.slot_size as usize) }
    }
}

// SAFETY: the spec is private and immutable, `Spec::check` made sure that its capacity is a power of two and
// its slot size a multiple of 64, and `region_bytes` was checked against the backing; the slots follow one
// another from a page boundary.
unsafe impl Memory for Region {
    type Position = AtomicU64;

    #[inline]
    fn producer_position(&self) -> &AtomicU64 {
        self.word(layout::PRODUCER_POSITION)
    }

    #[inline]
    fn consumer_position(&self) -> &AtomicU64 {
        self.word(layout::CONSUMER_POSITION)
    }

    #[inline]
    fn capacity(&self) -> u64 {
        self.spec.capacity
    }

    #[inline]
    fn slot_size(&self) -> usize {
        self.spec.slot_size as usize
    }

    #[inline]
    fn read_slot<R>(&self, index: usize, read: impl FnOnce(*const u8) -> R) -> R {
        read(self.slot(index))
    }

    #[inline]
    fn write_slot<R>(&self, index: usize, write: impl FnOnce(*mut u8) -> R) -> R {
        write(self.slot(index))
    }

    #[inline]
    fn tuning(&self) -> Tuning {
        self.tuning
    }

    #[inline]
    fn expect_write(&self, index: usize) {
        hint::lines(self.slot(index), self.slot_size(), hint::prefetch_for_write);
    }

    #[inline]
    fn demote(&self, index: usize) {
        hint::lines(self.slot(index), self.slot_size(), hint::demote);
    }

    #[inline]
    fn expect_read(&self, index: usize) {
        hint::lines(self.slot(index), self.slot_size(), hint::prefetch_for_read);
    }
}
