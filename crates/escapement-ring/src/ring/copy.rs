//! Copies between private memory and slots, by volatile words.
//!
//! The peer may write to a slot while it is being read, although the protocol forbids it. Volatile accesses
//! compile to plain loads and stores. Unlike in an ordinary copy, the compiler may not read twice or assume
//! that two reads agree.
//!
//! A [`Width`] says how wide the widest words are. Wider words take fewer instructions, and a word of 64
//! bytes writes a whole cache line at once. The width is chosen once, when memory becomes a ring
//! (`tuning.rs`); a copy branches on it, always the same way. A copy may begin at any multiple of 16. It
//! moves narrow words until the slot's address is a multiple of the wide word, because a wide word across two
//! cache lines would cost more than two narrow ones.

/// The widest word of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Width(Bytes);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bytes {
    Sixteen,
    #[cfg(target_arch = "x86_64")]
    ThirtyTwo,
    #[cfg(target_arch = "x86_64")]
    SixtyFour,
}

impl Width {
    /// Words of 16 bytes, which every machine of this kind has.
    pub const NARROW: Self = Self(Bytes::Sixteen);

    /// Returns words of so many bytes, if this processor has them. Allocates nothing.
    pub fn of(bytes: usize) -> Option<Self> {
        match bytes {
            16 => Some(Self::NARROW),
            #[cfg(target_arch = "x86_64")]
            32 => is_x86_feature_detected!("avx").then_some(Self(Bytes::ThirtyTwo)),
            #[cfg(target_arch = "x86_64")]
            64 => is_x86_feature_detected!("avx512f").then_some(Self(Bytes::SixtyFour)),
            _ => None,
        }
    }

    /// Bytes of the widest word.
    pub fn bytes(self) -> usize {
        match self.0 {
            Bytes::Sixteen => 16,
            #[cfg(target_arch = "x86_64")]
            Bytes::ThirtyTwo => 32,
            #[cfg(target_arch = "x86_64")]
            Bytes::SixtyFour => 64,
        }
    }
}

/// A word of 16 bytes.
#[cfg(target_arch = "x86_64")]
type Narrow = core::arch::x86_64::__m128i;
#[cfg(not(target_arch = "x86_64"))]
type Narrow = u128;

/// Copies `destination.len()` bytes out of a slot.
///
/// # Safety
/// `source` is valid for reads of that many bytes and aligned to 16.
#[inline]
pub(super) unsafe fn out_of_slot(width: Width, source: *const u8, destination: &mut [u8]) {
    // SAFETY: the caller's promise; the destination is exclusive and has that length.
    unsafe { copy::<OutOfSlot>(width, source, destination.as_mut_ptr(), destination.len()) };
}

/// Copies `source` into a slot.
///
/// # Safety
/// `destination` is valid for writes of `source.len()` bytes and aligned to 16.
#[inline]
pub(super) unsafe fn into_slot(width: Width, source: &[u8], destination: *mut u8) {
    // SAFETY: the caller's promise; the source has that length.
    unsafe { copy::<IntoSlot>(width, source.as_ptr(), destination, source.len()) };
}

/// Which of the two ends of a copy is the slot.
trait Direction {
    /// The end that is in the slot.
    fn slot(source: *const u8, destination: *const u8) -> *const u8;

    /// Moves one word: a volatile access to the slot, an unaligned one to private memory.
    ///
    /// # Safety
    /// Both are valid for a word, and the end in the slot is aligned for it.
    unsafe fn word<W: Copy>(source: *const u8, destination: *mut u8);
}

struct OutOfSlot;
struct IntoSlot;

impl Direction for OutOfSlot {
    #[inline(always)]
    fn slot(source: *const u8, _: *const u8) -> *const u8 {
        source
    }

    #[inline(always)]
    unsafe fn word<W: Copy>(source: *const u8, destination: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { destination.cast::<W>().write_unaligned(source.cast::<W>().read_volatile()) };
    }
}

impl Direction for IntoSlot {
    #[inline(always)]
    fn slot(_: *const u8, destination: *const u8) -> *const u8 {
        destination
    }

    #[inline(always)]
    unsafe fn word<W: Copy>(source: *const u8, destination: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { destination.cast::<W>().write_volatile(source.cast::<W>().read_unaligned()) };
    }
}

/// # Safety
/// Both are valid for `len` bytes, and the end in the slot is aligned to 16.
#[inline(always)]
unsafe fn copy<D: Direction>(width: Width, source: *const u8, destination: *mut u8, len: usize) {
    debug_assert!(D::slot(source, destination).addr().is_multiple_of(size_of::<Narrow>()));
    let run = Run { source, destination, len };
    match width.0 {
        // SAFETY: the caller's promise.
        Bytes::Sixteen => unsafe { run.rest::<D>(0) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller's promise; this width exists only where `Width::of` found the feature.
        Bytes::ThirtyTwo => unsafe { by_32::<D>(run) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as before.
        Bytes::SixtyFour => unsafe { by_64::<D>(run) },
    }
}

/// # Safety
/// As for [`copy`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
unsafe fn by_32<D: Direction>(run: Run) {
    // SAFETY: the caller's promise.
    unsafe {
        let at = run.align::<D, Narrow>(0, 32);
        let at = run.words::<D, core::arch::x86_64::__m256i>(at);
        run.rest::<D>(at);
    }
}

/// # Safety
/// As for [`copy`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn by_64<D: Direction>(run: Run) {
    use core::arch::x86_64::{__m256i, __m512i};
    // SAFETY: the caller's promise.
    unsafe {
        let at = run.align::<D, Narrow>(0, 32);
        let at = run.align::<D, __m256i>(at, 64);
        let at = run.words::<D, __m512i>(at);
        let at = run.words::<D, __m256i>(at);
        run.rest::<D>(at);
    }
}

/// One copy. The functions below are inlined into an entry that has the features of their words.
#[derive(Clone, Copy)]
struct Run {
    source: *const u8,
    destination: *mut u8,
    len: usize,
}

impl Run {
    /// Moves a word at `at` if it fits and the slot's address there is not yet a multiple of `to`. Returns
    /// where the copy goes on.
    ///
    /// # Safety
    /// As for [`copy`], and the slot is aligned for a word at `at`.
    #[inline(always)]
    unsafe fn align<D: Direction, W: Copy>(self, at: usize, to: usize) -> usize {
        let address = D::slot(self.source, self.destination).addr() + at;
        if address.is_multiple_of(to) || self.len - at < size_of::<W>() {
            return at;
        }
        // SAFETY: the word fits, and the slot is aligned for it by the caller's promise.
        unsafe { D::word::<W>(self.source.add(at), self.destination.add(at)) };
        at + size_of::<W>()
    }

    /// Moves as many whole words as fit, from `at`. Returns where the copy goes on.
    ///
    /// # Safety
    /// As for [`copy`]. If a word fits at `at`, the slot is aligned for it there.
    #[inline(always)]
    unsafe fn words<D: Direction, W: Copy>(self, mut at: usize) -> usize {
        while self.len - at >= size_of::<W>() {
            // SAFETY: the word fits by the loop's condition; `at` grows by whole words, so it stays aligned.
            unsafe { D::word::<W>(self.source.add(at), self.destination.add(at)) };
            at += size_of::<W>();
        }
        at
    }

    /// Moves what is left from `at`: words of 16 bytes and smaller ones.
    ///
    /// # Safety
    /// As for [`copy`]; the slot is aligned to 16 at `at`.
    #[inline(always)]
    unsafe fn rest<D: Direction>(self, at: usize) {
        // SAFETY: the caller's promise; each word is narrower than the one before, so it is aligned.
        unsafe {
            let at = self.words::<D, Narrow>(at);
            let at = self.words::<D, u64>(at);
            let at = self.words::<D, u32>(at);
            self.words::<D, u8>(at);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const GUARD: u8 = 0xa5;
    const LONGEST: usize = 300;

    /// Room for the longest copy at any offset, with a guard on both sides.
    #[repr(align(64))]
    struct Slot([u8; 512]);

    /// The widths that this machine has. At least one, so that a test of all of them tests something.
    fn widths() -> impl Iterator<Item = Width> {
        [16, 32, 64].into_iter().filter_map(Width::of)
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|index| (index * 7 + 1) as u8 ^ 0x3c).collect()
    }

    #[test]
    fn every_width_copies_every_length_at_every_place_in_a_line_and_nothing_else() {
        assert_eq!(widths().next(), Some(Width::NARROW));
        for width in widths() {
            for offset in (64..128).step_by(16) {
                for len in 0..=LONGEST {
                    let sent = pattern(len);
                    let mut slot = Slot([GUARD; 512]);
                    // SAFETY: the slot has room for the longest copy at each offset, a multiple of 16.
                    unsafe { into_slot(width, &sent, slot.0.as_mut_ptr().add(offset)) };
                    assert_eq!(slot.0[offset..offset + len], sent, "{width:?}, {offset}, {len}");
                    let outside = slot.0[..offset].iter().chain(&slot.0[offset + len..]);
                    assert!(outside.copied().all(|byte| byte == GUARD), "{width:?}, {offset}, {len}");

                    // The private end has no alignment.
                    let mut received = [GUARD; LONGEST + 4];
                    // SAFETY: as above.
                    unsafe {
                        out_of_slot(width, slot.0.as_ptr().add(offset), &mut received[3..3 + len]);
                    }
                    assert_eq!(received[3..3 + len], sent, "{width:?}, {offset}, {len}");
                    let outside = received[..3].iter().chain(&received[3 + len..]);
                    assert!(outside.copied().all(|byte| byte == GUARD), "{width:?}, {offset}, {len}");
                }
            }
        }
    }

    #[test]
    fn there_are_three_widths_and_no_other() {
        for bytes in [0, 1, 8, 15, 24, 48, 65, 128] {
            assert_eq!(Width::of(bytes), None, "{bytes}");
        }
        for width in widths() {
            assert_eq!(Width::of(width.bytes()), Some(width));
        }
    }
}
