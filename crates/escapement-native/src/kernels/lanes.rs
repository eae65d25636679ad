//! One vector of `f32` of any width: the few operations from which every SIMD kernel is built.
//!
//! A type that implements [`Lanes`] is a token. It has no content; having one proves that the processor has
//! the instructions. That makes the arithmetic safe to call. Kernels are written once, generic over `Lanes`,
//! and marked `#[inline(always)]`. They run through [`Isa::run`](super::Isa::run), whose entry points carry
//! the target features. Inlined there, every operation becomes one instruction.

/// A vector of `LANES` single-precision values.
pub trait Lanes: Copy {
    /// The vector type.
    type Vector: Copy;
    /// The result of a comparison, one truth value per lane.
    type Mask: Copy;
    /// Two inputs, prepared for a multiplication with pairs of bfloat16 weights.
    type Two: Copy;
    /// The number of values in a vector.
    const LANES: usize;

    /// The same value in every lane.
    fn splat(self, value: f32) -> Self::Vector;

    /// Reads `LANES` values; no alignment needed.
    ///
    /// # Safety
    /// `source` is valid for reading `LANES` values.
    unsafe fn load(self, source: *const f32) -> Self::Vector;

    /// Reads `count` values and fills the other lanes with zero.
    ///
    /// # Safety
    /// `source` is valid for reading `count` values, and `count <= LANES`.
    unsafe fn load_first(self, source: *const f32, count: usize) -> Self::Vector;

    /// Writes `LANES` values; no alignment needed.
    ///
    /// # Safety
    /// `target` is valid for writing `LANES` values.
    unsafe fn store(self, target: *mut f32, vector: Self::Vector);

    /// Writes the first `count` lanes and nothing else.
    ///
    /// # Safety
    /// `target` is valid for writing `count` values, and `count <= LANES`.
    unsafe fn store_first(self, target: *mut f32, count: usize, vector: Self::Vector);

    /// Reads `2 * LANES` bfloat16 values that are stored as pairs, and widens them. Returns the first of
    /// every pair, then the second.
    ///
    /// # Safety
    /// `source` is valid for reading `LANES` values of 32 bits.
    unsafe fn load_bf16_pairs(self, source: *const f32) -> (Self::Vector, Self::Vector);

    /// Prepares two inputs for [`Lanes::multiply_two`].
    fn two(self, first: f32, second: f32) -> Self::Two;

    /// `sum + first * w0 + second * w1` in every lane, where `w0` and `w1` are the pair of bfloat16 weights
    /// at `weights`.
    ///
    /// # Safety
    /// `weights` is valid for reading `LANES` values of 32 bits.
    unsafe fn multiply_two(self, inputs: Self::Two, weights: *const f32, sum: Self::Vector) -> Self::Vector;

    /// `a + b`
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a - b`
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b`
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a / b`, correctly rounded.
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b + c`, rounded once.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// `c - a * b`, rounded once.
    fn neg_mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The smaller of the two; `b` if either is NaN or both are zero.
    fn min(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The larger of the two; `b` if either is NaN or both are zero.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The square root, correctly rounded.
    fn sqrt(self, a: Self::Vector) -> Self::Vector;
    /// `a` without its sign.
    fn abs(self, a: Self::Vector) -> Self::Vector;
    /// `a` with its sign changed.
    fn neg(self, a: Self::Vector) -> Self::Vector;
    /// The magnitude of `a` with the sign of `b`. The sign bit of `a` must be clear.
    fn with_sign_of(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// `a > b`; false if either is NaN.
    fn greater(self, a: Self::Vector, b: Self::Vector) -> Self::Mask;
    /// Whether `a` is NaN.
    fn is_nan(self, a: Self::Vector) -> Self::Mask;
    /// `yes` where the mask is true, `no` elsewhere.
    fn select(self, mask: Self::Mask, yes: Self::Vector, no: Self::Vector) -> Self::Vector;

    /// Moves the low nine bits of every lane to the sign and exponent of a float. Returns `2^(i - 127)` for
    /// the `i` in the lowest eight bits of the mantissa, zero for 0 and infinity for 255.
    fn exponent_from_low_bits(self, a: Self::Vector) -> Self::Vector;
    /// `a * 2^n` for a whole `n` from -252 to 252, with overflow to infinity and gradual underflow.
    fn scale(self, a: Self::Vector, n: Self::Vector) -> Self::Vector;
    /// Splits a positive normal value into `m` in `[√½, √2)` and a whole `e`, with `a = m * 2^e`.
    fn split_exponent(self, a: Self::Vector) -> (Self::Vector, Self::Vector);

    /// The sum of all lanes.
    fn sum(self, a: Self::Vector) -> f32;
    /// The largest lane. No lane may be NaN.
    fn largest(self, a: Self::Vector) -> f32;
    /// The sums of four vectors, in the first four lanes.
    fn sum_four(self, vectors: [Self::Vector; 4]) -> Self::Vector;
}

/// A computation that has a plain form and a vector form.
pub trait Kernel {
    /// The result.
    type Output;
    /// The reference: plain code in double precision.
    fn scalar(self) -> Self::Output;
    /// The same computation on vectors. It must be `#[inline(always)]`, so that it is compiled with the
    /// features of its entry point.
    fn vector<L: Lanes>(self, lanes: L) -> Self::Output;
}
