//! Sixteen lanes: AVX-512 F, VL, DQ and BW.

use std::arch::x86_64::*;

use super::lanes::Lanes;

/// Proof that the processor has AVX-512 F, VL, DQ and BW, AVX2 and FMA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Avx512(());

impl Avx512 {
    /// Returns the proof if the processor and the operating system support these instructions.
    pub(super) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma");
        found.then_some(Self(()))
    }
}

/// Register-only intrinsics.
macro_rules! intrinsic {
    ($body:expr) => {
        // SAFETY: the intrinsic touches no memory, and `self` exists only where its instructions do.
        unsafe { $body }
    };
}

/// A mask of the first `count` lanes.
#[inline(always)]
fn first(count: usize) -> __mmask16 {
    debug_assert!(count <= 16);
    ((1u32 << count) - 1) as __mmask16
}

impl Lanes for Avx512 {
    type Vector = __m512;
    type Mask = __mmask16;
    type Two = (__m512, __m512);
    const LANES: usize = 16;

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        intrinsic!(_mm512_set1_ps(value))
    }

    #[inline(always)]
    unsafe fn load(self, source: *const f32) -> __m512 {
        // SAFETY: the caller keeps 16 values readable.
        unsafe { _mm512_loadu_ps(source) }
    }

    #[inline(always)]
    unsafe fn load_first(self, source: *const f32, count: usize) -> __m512 {
        // SAFETY: the caller keeps `count` values readable; masked lanes are not touched.
        unsafe { _mm512_maskz_loadu_ps(first(count), source) }
    }

    #[inline(always)]
    unsafe fn store(self, target: *mut f32, vector: __m512) {
        // SAFETY: the caller keeps 16 values writable.
        unsafe { _mm512_storeu_ps(target, vector) }
    }

    #[inline(always)]
    unsafe fn store_first(self, target: *mut f32, count: usize, vector: __m512) {
        // SAFETY: the caller keeps `count` values writable; masked lanes are not touched.
        unsafe { _mm512_mask_storeu_ps(target, first(count), vector) }
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(self, source: *const f32) -> (__m512, __m512) {
        // SAFETY: the caller keeps 16 values of 32 bits readable.
        let pairs = unsafe { _mm512_loadu_si512(source.cast()) };
        intrinsic!((
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)),
            _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32))),
        ))
    }

    #[inline(always)]
    fn two(self, first: f32, second: f32) -> (__m512, __m512) {
        (self.splat(first), self.splat(second))
    }

    /// Widens the weights with a shift and a mask, then multiplies in single precision. The inputs stay
    /// exact.
    #[inline(always)]
    unsafe fn multiply_two(self, (first, second): Self::Two, weights: *const f32, sum: __m512) -> __m512 {
        // SAFETY: the caller keeps a vector of weights readable.
        let (low, high) = unsafe { self.load_bf16_pairs(weights) };
        self.mul_add(second, high, self.mul_add(first, low, sum))
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        intrinsic!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn neg_mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        intrinsic!(_mm512_fnmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        intrinsic!(_mm512_sqrt_ps(a))
    }

    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        intrinsic!(_mm512_andnot_ps(_mm512_set1_ps(-0.0), a))
    }

    #[inline(always)]
    fn neg(self, a: __m512) -> __m512 {
        intrinsic!(_mm512_xor_ps(_mm512_set1_ps(-0.0), a))
    }

    #[inline(always)]
    fn with_sign_of(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_or_ps(a, _mm512_and_ps(_mm512_set1_ps(-0.0), b)))
    }

    #[inline(always)]
    fn greater(self, a: __m512, b: __m512) -> __mmask16 {
        intrinsic!(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b))
    }

    #[inline(always)]
    fn is_nan(self, a: __m512) -> __mmask16 {
        intrinsic!(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a))
    }

    #[inline(always)]
    fn select(self, mask: __mmask16, yes: __m512, no: __m512) -> __m512 {
        intrinsic!(_mm512_mask_blend_ps(mask, no, yes))
    }

    #[inline(always)]
    fn exponent_from_low_bits(self, a: __m512) -> __m512 {
        intrinsic!(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(a))))
    }

    #[inline(always)]
    fn scale(self, a: __m512, n: __m512) -> __m512 {
        intrinsic!(_mm512_scalef_ps(a, n))
    }

    #[inline(always)]
    fn split_exponent(self, a: __m512) -> (__m512, __m512) {
        intrinsic!({
            let bits = _mm512_castps_si512(a);
            // Counting from √½ instead of from 1 makes the exponent field step where the mantissa must wrap.
            let above =
                _mm512_sub_epi32(bits, _mm512_set1_epi32(std::f32::consts::FRAC_1_SQRT_2.to_bits() as i32));
            let exponent = _mm512_srai_epi32::<23>(above);
            let mantissa = _mm512_sub_epi32(bits, _mm512_slli_epi32::<23>(exponent));
            (_mm512_castsi512_ps(mantissa), _mm512_cvtepi32_ps(exponent))
        })
    }

    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        intrinsic!(_mm512_reduce_add_ps(a))
    }

    #[inline(always)]
    fn largest(self, a: __m512) -> f32 {
        intrinsic!(_mm512_reduce_max_ps(a))
    }

    #[inline(always)]
    fn sum_four(self, vectors: [__m512; 4]) -> __m512 {
        intrinsic!({
            let [a, b, c, d] = vectors;
            let fold = |v: __m512| _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            let pairs = _mm256_hadd_ps(_mm256_hadd_ps(fold(a), fold(b)), _mm256_hadd_ps(fold(c), fold(d)));
            let sums = _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps::<1>(pairs));
            _mm512_zextps128_ps512(sums)
        })
    }
}
