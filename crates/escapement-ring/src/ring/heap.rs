//! A ring in this process's heap: for tick records, tests and benchmarks.

use super::consumer::Consumer;
use super::layout::{LayoutError, Spec};
use super::producer::Producer;
use super::region::Region;
use crate::backing::Backing;
use core::ptr::NonNull;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::sync::Arc;

/// Zeroed, page-aligned heap memory.
#[derive(Debug)]
pub struct HeapRegion {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the allocation belongs to this value alone; its bytes are accessed under the ring's protocol.
unsafe impl Send for HeapRegion {}
// SAFETY: as for Send.
unsafe impl Sync for HeapRegion {}

impl HeapRegion {
    /// Allocates `len` zeroed bytes (at least one page) and touches every page, so that no tick takes a page
    /// fault.
    ///
    /// # Panics
    /// Panics if `len` is above `isize::MAX`. No ring is that large.
    pub fn new(len: usize) -> Self {
        let layout = Layout::from_size_align(len.max(4096), 4096).expect("no more than isize::MAX bytes");
        // SAFETY: the layout's size is not zero.
        let base = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else { handle_alloc_error(layout) };
        for offset in (0..layout.size()).step_by(4096) {
            // SAFETY: the offset is within the allocation, which no other code has a pointer to yet.
            unsafe { base.as_ptr().add(offset).write_volatile(0) };
        }
        Self { base, layout }
    }

    /// Allocates memory for a ring and lays it out.
    ///
    /// # Errors
    /// Fails if the geometry is not allowed.
    pub fn ring(spec: Spec) -> Result<Region, LayoutError> {
        spec.check()?;
        Region::format(Arc::new(Self::new(spec.region_bytes())), spec)
    }

    /// Lays out a ring in new memory, and attaches to both of its ends. Such a ring serves one thread, or a
    /// reader that is in no hurry, so its lines stay in the producer's caches: nothing is demoted.
    ///
    /// # Errors
    /// Fails if the geometry is not allowed.
    pub fn both_ends(spec: Spec) -> Result<(Region, Producer, Consumer), LayoutError> {
        const NEW: &str = "a new ring has both positions at zero";
        let region = Self::ring(spec)?.kept_close();
        let producer = Producer::attach(region.clone()).expect(NEW);
        let consumer = Consumer::attach(region.clone()).expect(NEW);
        Ok((region, producer, consumer))
    }
}

// SAFETY: the allocation is page-aligned, lives until drop, and no reference to its bytes is handed out.
unsafe impl Backing for HeapRegion {
    fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn len(&self) -> usize {
        self.layout.size()
    }
}

impl Drop for HeapRegion {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this very layout, and freed only here.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}
