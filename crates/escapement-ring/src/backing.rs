//! L0. The promise of stable bytes, between what provides memory (`shm`, the heap) and what lays it out (`ring`).

use core::ptr::NonNull;

/// Bytes that stay mapped at one address, writable, until dropped.
///
/// # Safety
/// `base` is valid for reads and writes of `len` bytes for as long as the value lives, aligned to 4096; both answers
/// never change; and no Rust reference to those bytes is ever formed, other than to an atomic.
pub unsafe trait Backing: Send + Sync {
    /// First byte.
    fn base(&self) -> NonNull<u8>;
    /// Number of bytes.
    fn len(&self) -> usize;
    /// Whether there are no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
