//! Hints that bring a slot's cache lines near before they are needed.
//!
//! A slot's lines travel to the consumer's core and must come back, exclusively, before the producer can write the
//! slot again. Asking for the next slot right after a commit takes that journey off the path of the next message.
//! (Asking for the position's line as well, before a commit, was measured and left out: the consumer, which polls it,
//! takes it back before the commit, and round trips grew by a tenth.)

/// Bytes of a cache line on the machines this is tuned for; on others the hints are merely less apt.
const LINE: usize = 64;
/// The most lines asked for: more would push out what is in use.
const MAX_LINES: usize = 8;

/// Gives `hint` the address of each of the first lines of `bytes` bytes from `start`.
#[inline]
pub(super) fn lines(start: *mut u8, bytes: usize, hint: impl Fn(*const u8)) {
    for line in 0..(bytes / LINE).min(MAX_LINES) {
        hint(start.wrapping_add(line * LINE));
    }
}

/// Asks for a line to be written.
#[inline]
pub(super) fn for_write(address: *const u8) {
    // Inline assembly, since the intrinsic becomes a prefetch for reading on the baseline target.
    // SAFETY: a prefetch never faults and changes no memory; processors without this one execute it as a no-op.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        core::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly))
    };
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Asks for a line to be read.
#[inline]
pub(super) fn for_read(address: *const u8) {
    // SAFETY: a prefetch never faults and changes nothing.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
