//! Stable bytes: the contract between what provides memory (`shm`, the heap) and what lays a ring out in it
//! (`ring`).

use core::ptr::NonNull;

/// Writable bytes that stay mapped at one address until the value is dropped.
///
/// # Safety
/// `base` is valid for reads and writes of `len` bytes for as long as the value lives, and aligned to 4096.
/// Both answers never change. No Rust reference to those bytes is ever formed, other than to an atomic.
pub unsafe trait Backing: Send + Sync {
    /// The address of the first byte.
    fn base(&self) -> NonNull<u8>;
    /// The number of bytes.
    fn len(&self) -> usize;
    /// The device and the inode of the file behind the bytes; `None` if no file is behind them.
    fn file_identity(&self) -> Option<(u64, u64)> {
        None
    }
    /// Whether there are no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
