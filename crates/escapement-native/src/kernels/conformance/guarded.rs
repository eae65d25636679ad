//! A slice that ends at a page that the process can neither read nor write.

use std::ops::{Deref, DerefMut};

const PAGE: usize = 4096;

pub struct Guarded {
    mapping: *mut libc::c_void,
    mapped: usize,
    len: usize,
}

impl Guarded {
    pub fn new(values: &[f32]) -> Self {
        let content = (values.len() * 4).next_multiple_of(PAGE);
        let mapped = content + PAGE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: this makes a new private mapping and then closes its last page. Both results are checked.
        let mapping = unsafe {
            let mapping =
                libc::mmap(std::ptr::null_mut(), mapped, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            assert_ne!(mapping, libc::MAP_FAILED, "mmap");
            assert_eq!(libc::mprotect(mapping.byte_add(content), PAGE, libc::PROT_NONE), 0, "mprotect");
            mapping
        };
        let mut guarded = Self { mapping, mapped, len: values.len() };
        guarded.copy_from_slice(values);
        guarded
    }

    /// Fills every value with NaN, so that a value that was not written shows.
    pub fn unwritten(len: usize) -> Self {
        Self::new(&vec![f32::NAN; len])
    }

    fn start(&self) -> *mut f32 {
        // SAFETY: the values end where the last page begins, so they lie inside the mapping.
        unsafe { self.mapping.byte_add(self.mapped - PAGE - 4 * self.len).cast() }
    }
}

impl Deref for Guarded {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `len` values from `start` are mapped, aligned to four bytes, and were written by `new`.
        unsafe { std::slice::from_raw_parts(self.start(), self.len) }
    }
}

impl DerefMut for Guarded {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.len) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: `new` made this mapping, and nothing else uses it.
        unsafe { libc::munmap(self.mapping, self.mapped) };
    }
}
