//! Eight lanes: AVX2 with FMA.

use std::arch::x86_64::*;

use super::lanes::Lanes;

/// Proof that the processor has AVX2 and FMA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Avx2(());

impl Avx2 {
    /// Returns the proof if the processor and the operating system support these instructions.
    pub(super) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
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
fn first(count: usize) -> __m256i {
    debug_assert!(count <= 8);
    // SAFETY: register-only; every caller is a method of the token, which exists only where AVX2 does.
    unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
}

impl Lanes for Avx2 {
    type Vector = __m256;
    type Mask = __m256;
    type Two = (__m256, __m256);
    const LANES: usize = 8;

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        intrinsic!(_mm256_set1_ps(value))
    }

    #[inline(always)]
    unsafe fn load(self, source: *const f32) -> __m256 {
        // SAFETY: the caller keeps 8 values readable.
        unsafe { _mm256_loadu_ps(source) }
    }

    #[inline(always)]
    unsafe fn load_first(self, source: *const f32, count: usize) -> __m256 {
        // SAFETY: the caller keeps `count` values readable; masked lanes are not touched.
        unsafe { _mm256_maskload_ps(source, first(count)) }
    }

    #[inline(always)]
    unsafe fn store(self, target: *mut f32, vector: __m256) {
        // SAFETY: the caller keeps 8 values writable.
        unsafe { _mm256_storeu_ps(target, vector) }
    }

    #[inline(always)]
    unsafe fn store_first(self, target: *mut f32, count: usize, vector: __m256) {
        // SAFETY: the caller keeps `count` values writable; masked lanes are not touched.
        unsafe { _mm256_maskstore_ps(target, first(count), vector) }
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(self, source: *const f32) -> (__m256, __m256) {
        // SAFETY: the caller keeps 8 values of 32 bits readable.
        let pairs = unsafe { _mm256_loadu_si256(source.cast()) };
        intrinsic!((
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)),
            _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32 as i32))),
        ))
    }

    #[inline(always)]
    fn two(self, first: f32, second: f32) -> (__m256, __m256) {
        (self.splat(first), self.splat(second))
    }

    /// Widens the weights with a shift and a mask, then multiplies in single precision. The inputs stay
    /// exact.
    #[inline(always)]
    unsafe fn multiply_two(self, (first, second): Self::Two, weights: *const f32, sum: __m256) -> __m256 {
        // SAFETY: the caller keeps a vector of weights readable.
        let (low, high) = unsafe { self.load_bf16_pairs(weights) };
        self.mul_add(second, high, self.mul_add(first, low, sum))
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_div_ps(a, b))
    }

    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        intrinsic!(_mm256_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn neg_mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        intrinsic!(_mm256_fnmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_min_ps(a, b))
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_max_ps(a, b))
    }

    #[inline(always)]
    fn sqrt(self, a: __m256) -> __m256 {
        intrinsic!(_mm256_sqrt_ps(a))
    }

    #[inline(always)]
    fn abs(self, a: __m256) -> __m256 {
        intrinsic!(_mm256_andnot_ps(_mm256_set1_ps(-0.0), a))
    }

    #[inline(always)]
    fn neg(self, a: __m256) -> __m256 {
        intrinsic!(_mm256_xor_ps(_mm256_set1_ps(-0.0), a))
    }

    #[inline(always)]
    fn with_sign_of(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_or_ps(a, _mm256_and_ps(_mm256_set1_ps(-0.0), b)))
    }

    #[inline(always)]
    fn greater(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_cmp_ps::<_CMP_GT_OQ>(a, b))
    }

    #[inline(always)]
    fn is_nan(self, a: __m256) -> __m256 {
        intrinsic!(_mm256_cmp_ps::<_CMP_UNORD_Q>(a, a))
    }

    #[inline(always)]
    fn select(self, mask: __m256, yes: __m256, no: __m256) -> __m256 {
        intrinsic!(_mm256_blendv_ps(no, yes, mask))
    }

    #[inline(always)]
    fn exponent_from_low_bits(self, a: __m256) -> __m256 {
        intrinsic!(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(a))))
    }

    #[inline(always)]
    fn scale(self, a: __m256, n: __m256) -> __m256 {
        intrinsic!({
            // A single factor must be a normal number, so the power is applied in two halves.
            let n = _mm256_cvtps_epi32(n);
            let half = _mm256_srai_epi32::<1>(n);
            let power = |n: __m256i| {
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127))))
            };
            _mm256_mul_ps(_mm256_mul_ps(a, power(half)), power(_mm256_sub_epi32(n, half)))
        })
    }

    #[inline(always)]
    fn split_exponent(self, a: __m256) -> (__m256, __m256) {
        intrinsic!({
            let bits = _mm256_castps_si256(a);
            // Counting from √½ instead of from 1 makes the exponent field step where the mantissa must wrap.
            let above =
                _mm256_sub_epi32(bits, _mm256_set1_epi32(std::f32::consts::FRAC_1_SQRT_2.to_bits() as i32));
            let exponent = _mm256_srai_epi32::<23>(above);
            let mantissa = _mm256_sub_epi32(bits, _mm256_slli_epi32::<23>(exponent));
            (_mm256_castsi256_ps(mantissa), _mm256_cvtepi32_ps(exponent))
        })
    }

    #[inline(always)]
    fn sum(self, a: __m256) -> f32 {
        intrinsic!({
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        })
    }

    #[inline(always)]
    fn largest(self, a: __m256) -> f32 {
        intrinsic!({
            let four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        })
    }

    #[inline(always)]
    fn sum_four(self, vectors: [__m256; 4]) -> __m256 {
        intrinsic!({
            let [a, b, c, d] = vectors;
            let pairs = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
            let sums = _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps::<1>(pairs));
            _mm256_zextps128_ps256(sums)
        })
    }
}
