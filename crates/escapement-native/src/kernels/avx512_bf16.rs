//! Sixteen lanes with AVX-512 BF16. `vdpbf16ps` multiplies pairs of bfloat16 and adds them in single
//! precision.
//!
//! The instruction takes its inputs in bfloat16 as well. Rounding an input once would double the error that
//! the weights already have. So each input is split into its bfloat16 and the bfloat16 of the rest. Together
//! they keep 16 of its 24 bits, and the instruction is used twice. If the weights come from the second cache
//! level, two uses reach its limit just as one would: for 256 inputs and 256 outputs 1.18 µs either way,
//! against 1.32 µs with widening (Zen 4, 3.4 GHz). On Sapphire Rapids, widening is the faster one by a factor
//! of 2.5. So [`crate::choice`] measures both.
//!
//! The instruction reads denormal values as zero in every mode of the thread. An infinite input becomes NaN
//! instead of infinite; neither leads to an action.

use std::arch::x86_64::*;

use super::avx512::Avx512;
use super::lanes::Lanes;

/// Proof that the processor has AVX-512 BF16 and everything that [`Avx512`] proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Avx512Bf16(Avx512);

impl Avx512Bf16 {
    /// Returns the proof if the processor and the operating system support these instructions.
    pub(super) fn detect() -> Option<Self> {
        Avx512::detect().filter(|_| is_x86_feature_detected!("avx512bf16")).map(Self)
    }

    /// The proof of AVX-512 without BF16.
    pub(super) fn wide(self) -> Avx512 {
        self.0
    }
}

/// Forwards operations to [`Avx512`].
macro_rules! wide {
    ($(fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {$(
        #[inline(always)]
        fn $name(self, $($argument: $type),*) -> $result {
            self.0.$name($($argument),*)
        }
    )*};
}

impl Lanes for Avx512Bf16 {
    type Vector = __m512;
    type Mask = __mmask16;
    /// The inputs in bfloat16 in every lane, and what rounding removed from them.
    type Two = (__m512bh, __m512bh);
    const LANES: usize = Avx512::LANES;

    wide! {
        fn splat(value: f32) -> __m512;
        fn add(a: __m512, b: __m512) -> __m512;
        fn sub(a: __m512, b: __m512) -> __m512;
        fn mul(a: __m512, b: __m512) -> __m512;
        fn div(a: __m512, b: __m512) -> __m512;
        fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512;
        fn neg_mul_add(a: __m512, b: __m512, c: __m512) -> __m512;
        fn min(a: __m512, b: __m512) -> __m512;
        fn max(a: __m512, b: __m512) -> __m512;
        fn sqrt(a: __m512) -> __m512;
        fn abs(a: __m512) -> __m512;
        fn neg(a: __m512) -> __m512;
        fn with_sign_of(a: __m512, b: __m512) -> __m512;
        fn greater(a: __m512, b: __m512) -> __mmask16;
        fn is_nan(a: __m512) -> __mmask16;
        fn select(mask: __mmask16, yes: __m512, no: __m512) -> __m512;
        fn exponent_from_low_bits(a: __m512) -> __m512;
        fn scale(a: __m512, n: __m512) -> __m512;
        fn split_exponent(a: __m512) -> (__m512, __m512);
        fn sum(a: __m512) -> f32;
        fn largest(a: __m512) -> f32;
        fn sum_four(vectors: [__m512; 4]) -> __m512;
    }

    #[inline(always)]
    unsafe fn load(self, source: *const f32) -> __m512 {
        // SAFETY: the caller keeps the same contract.
        unsafe { self.0.load(source) }
    }

    #[inline(always)]
    unsafe fn load_first(self, source: *const f32, count: usize) -> __m512 {
        // SAFETY: the caller keeps the same contract.
        unsafe { self.0.load_first(source, count) }
    }

    #[inline(always)]
    unsafe fn store(self, target: *mut f32, vector: __m512) {
        // SAFETY: the caller keeps the same contract.
        unsafe { self.0.store(target, vector) }
    }

    #[inline(always)]
    unsafe fn store_first(self, target: *mut f32, count: usize, vector: __m512) {
        // SAFETY: the caller keeps the same contract.
        unsafe { self.0.store_first(target, count, vector) }
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(self, source: *const f32) -> (__m512, __m512) {
        // SAFETY: the caller keeps the same contract.
        unsafe { self.0.load_bf16_pairs(source) }
    }

    #[inline(always)]
    fn two(self, first: f32, second: f32) -> (__m512bh, __m512bh) {
        // SAFETY: the intrinsics touch no memory, and `self` exists only where their instructions do. Vectors
        // of the same size are reinterpreted, and every bit pattern is valid.
        unsafe {
            let inputs = _mm_setr_ps(first, second, 0.0, 0.0);
            let rounded: __m128i = std::mem::transmute(_mm_cvtneps_pbh(inputs));
            let widened = _mm_castsi128_ps(_mm_slli_epi32::<16>(_mm_cvtepu16_epi32(rounded)));
            let rest: __m128i = std::mem::transmute(_mm_cvtneps_pbh(_mm_sub_ps(inputs, widened)));
            (
                std::mem::transmute::<__m512i, __m512bh>(_mm512_broadcastd_epi32(rounded)),
                std::mem::transmute::<__m512i, __m512bh>(_mm512_broadcastd_epi32(rest)),
            )
        }
    }

    #[inline(always)]
    unsafe fn multiply_two(self, (rounded, rest): Self::Two, weights: *const f32, sum: __m512) -> __m512 {
        // SAFETY: the caller keeps 16 pairs readable. `self` proves that the instructions exist.
        unsafe {
            let pairs = std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(weights.cast()));
            _mm512_dpbf16_ps(_mm512_dpbf16_ps(sum, rest, pairs), rounded, pairs)
        }
    }
}
