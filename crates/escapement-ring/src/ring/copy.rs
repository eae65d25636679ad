//! Copies between private memory and slots, by volatile words.
//!
//! The peer may write to a slot while it is being read, although the protocol forbids it. Volatile accesses
//! compile to plain loads and stores. Unlike in an ordinary copy, the compiler may not read twice or assume
//! that two reads agree.

/// The widest word with volatile access on every machine of this kind.
#[cfg(target_arch = "x86_64")]
type Wide = core::arch::x86_64::__m128i;
#[cfg(not(target_arch = "x86_64"))]
type Wide = u128;

const WIDE: usize = size_of::<Wide>();

/// Copies `destination.len()` bytes out of a slot.
///
/// # Safety
/// `source` is valid for reads of that many bytes and aligned to 16.
#[inline]
pub(super) unsafe fn out_of_slot(source: *const u8, destination: &mut [u8]) {
    debug_assert!(source.addr().is_multiple_of(WIDE));
    let mut at = 0;
    while at + WIDE <= destination.len() {
        // SAFETY: `at + WIDE` is within both, by the loop's condition and the caller's promise; the source is
        // aligned because `at` is a multiple of WIDE; the write is unaligned.
        unsafe {
            let word = source.add(at).cast::<Wide>().read_volatile();
            destination.as_mut_ptr().add(at).cast::<Wide>().write_unaligned(word);
        }
        at += WIDE;
    }
    while at < destination.len() {
        // SAFETY: `at` is within both.
        destination[at] = unsafe { source.add(at).read_volatile() };
        at += 1;
    }
}

/// Copies `source` into a slot.
///
/// # Safety
/// `destination` is valid for writes of `source.len()` bytes and aligned to 16.
#[inline]
pub(super) unsafe fn into_slot(source: &[u8], destination: *mut u8) {
    debug_assert!(destination.addr().is_multiple_of(WIDE));
    let mut at = 0;
    while at + WIDE <= source.len() {
        // SAFETY: `at + WIDE` is within both, by the loop's condition and the caller's promise; the
        // destination is aligned because `at` is a multiple of WIDE; the read is unaligned.
        unsafe {
            let word = source.as_ptr().add(at).cast::<Wide>().read_unaligned();
            destination.add(at).cast::<Wide>().write_volatile(word);
        }
        at += WIDE;
    }
    while at < source.len() {
        // SAFETY: `at` is within both.
        unsafe { destination.add(at).write_volatile(source[at]) };
        at += 1;
    }
}
