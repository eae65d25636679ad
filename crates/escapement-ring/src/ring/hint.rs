//! Hints about a slot's cache lines: where the next access to them comes from. They change no byte.
//!
//! A slot's lines move to the consumer's core and must come back, exclusively, before the producer can write
//! the slot again. A prefetch of a later slot after a commit takes that transfer off the path of the message
//! that goes there.
//!
//! A line that the producer has just written lies in the producer's own cache. The consumer's read must ask
//! that core for it. A demotion after the commit moves the line to the cache that the cores share, while the
//! position is still on its way to the consumer.
//!
//! A prefetch of the position's line before a commit was measured and left out. The consumer polls that line
//! and takes it back before the commit, and round trips became 10 % longer.

/// Bytes of a cache line on the machines this is tuned for. On other machines the hints are less useful, not
/// wrong.
const LINE: usize = 64;
/// The most lines to prefetch. More would evict lines that are in use.
const MAX_LINES: usize = 8;

/// Calls `hint` with the address of each of the first lines of `bytes` bytes from `start`.
#[inline]
pub(super) fn lines(start: *mut u8, bytes: usize, hint: impl Fn(*const u8)) {
    for line in 0..(bytes / LINE).min(MAX_LINES) {
        hint(start.wrapping_add(line * LINE));
    }
}

/// Prefetches a line for writing.
#[inline]
pub(super) fn prefetch_for_write(address: *const u8) {
    // Inline assembly, because on the baseline target the intrinsic compiles to a prefetch for reading.
    // SAFETY: a prefetch never faults and changes no memory; processors without this one execute it as a
    // no-op.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        core::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly))
    };
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Prefetches a line for reading.
#[inline]
pub(super) fn prefetch_for_read(address: *const u8) {
    // SAFETY: a prefetch never faults and changes nothing.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Demotes a line to the cache that the cores share.
#[inline]
pub(super) fn demote(address: *const u8) {
    // Inline assembly, because there is no stable intrinsic.
    // SAFETY: a demotion never faults and changes no memory; processors without it execute it as a no-op.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        core::arch::asm!("cldemote [{}]", in(reg) address, options(nostack, preserves_flags, readonly))
    };
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Whether Intel made this processor.
pub(super) fn made_by_intel() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::__cpuid;
        // SAFETY: every processor of 64 bits has the instruction. (Newer compilers call it safe.)
        #[allow(unused_unsafe)]
        let maker = unsafe { __cpuid(0) };
        [maker.ebx, maker.edx, maker.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel"
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}
