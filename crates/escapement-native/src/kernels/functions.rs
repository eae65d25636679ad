//! Elementary functions on vectors, with the error bounds that `conformance` tests.
//!
//! Bounds are in units in the last place (ulp) of the exact result. They hold for every finite `f32`; the
//! test takes a dense sample of all exponents and both signs. NaN gives NaN. A result smaller than the
//! smallest normal number counts as zero, because the engine flushes denormals; a denormal argument is read
//! as zero in the same mode.
//!
//! | function | bound | measured | limits |
//! |---|---|---|---|
//! | [`exp`] | 2 ulp | 0.98 | 0 below -87.336, infinity above 88.723 |
//! | [`log`] | 2 ulp | 0.72 | -∞ at 0 and denormals, NaN below |
//! | [`tanh`] | 3 ulp | 2.39 | ±1 beyond 9.02 |
//! | [`sigmoid`] | 3 ulp | 1.95 | 0 below -87.4 |
//! | [`exp_minus_one`], in `elu` | 4 ulp | 1.48 | -1 below -17.4; argument at most 88 |
//! | [`log_exp_plus_one`], in `softplus` | 4 ulp | 3.39 | |
//! | [`gelu`] | 8 ulp or 1e-8 | 6.46 | 0 at -∞ |
//!
//! The method is the usual one (Muller, *Elementary Functions*, chapters 3 and 11): reduce the argument to an
//! interval around zero with the constant split in two, evaluate a minimax polynomial, then put the exponent
//! back. The coefficients were fitted for these intervals with Lawson's weighted least squares in 40 digits.
//! The relative error of each fit is below 2⁻²⁶.

use std::f32::consts::LOG2_E;

use super::lanes::Lanes;

/// ln 2 in two parts. The first is the nearest `f32`: a multiply-add rounds once, so no shorter one is
/// needed.
const LN_2: f32 = std::f32::consts::LN_2;
const LN_2_REST: f32 = -1.904_654_2e-9;

/// `(e^r - 1 - r) / r²` on `[-ln 2 / 2, ln 2 / 2]`.
const EXP: [f32; 5] = [0.5, 0.166_665_42, 0.041_666_28, 0.008_366_644, 0.001_394_655_2];

/// `(ln(1 + f) - f + f² / 2) / f³` on `[√½ - 1, √2 - 1]`.
const LOG: [f32; 9] = [
    0.333_333_13,
    -0.250_000_1,
    0.200_021_19,
    -0.166_679_96,
    0.142_195_51,
    -0.124_055_915,
    0.118_881_75,
    -0.116_756_41,
    0.067_466_01,
];

/// `e^(z²) erfc(z) / t` in `t = 1 / (1 + 0.35 z)`, for `z` from 0 to 13.5.
const ERFC: [f32; 10] = [
    0.197_470_32,
    0.197_393_31,
    0.185_835_42,
    0.160_608_08,
    0.119_386_31,
    0.135_652_4,
    -0.085_048_16,
    0.223_683_45,
    -0.176_581_98,
    0.041_600_864,
];
const ERFC_SCALE: f32 = 0.35;

/// Adding and then subtracting this constant rounds to a whole number. Its 127 leaves that number's exponent
/// bias in the low bits.
const ROUND_BIASED: f32 = 12_582_912.0 + 127.0;

/// `e^r - 1` for the remainder of a reduction by ln 2.
#[inline(always)]
fn exp_remainder<L: Lanes>(l: L, r: L::Vector) -> L::Vector {
    let square = l.mul(r, r);
    // Split by even and odd powers, so that the chain of dependent operations has a length of three, not
    // five.
    let low = l.mul_add(r, l.splat(EXP[1]), l.splat(EXP[0]));
    let high = l.mul_add(r, l.splat(EXP[3]), l.splat(EXP[2]));
    let high = l.mul_add(square, l.splat(EXP[4]), high);
    l.mul_add(square, l.mul_add(square, high, low), r)
}

/// Splits `x` into a whole multiple of ln 2 and a remainder. Returns `2^n` (0 for n = -127, infinity for
/// n = 128) and `e^r - 1`. `x` must lie in `[-88.3, 88.9]` or be NaN; NaN is returned in the second value.
#[inline(always)]
fn exp_parts<L: Lanes>(l: L, x: L::Vector) -> (L::Vector, L::Vector) {
    let biased = l.mul_add(x, l.splat(LOG2_E), l.splat(ROUND_BIASED));
    let n = l.sub(biased, l.splat(ROUND_BIASED));
    let r = l.neg_mul_add(n, l.splat(LN_2_REST), l.neg_mul_add(n, l.splat(LN_2), x));
    (l.exponent_from_low_bits(biased), exp_remainder(l, r))
}

/// Clamps, and keeps NaN: both operations return their second operand when one is NaN.
#[inline(always)]
pub(super) fn clamp<L: Lanes>(l: L, low: f32, high: f32, x: L::Vector) -> L::Vector {
    l.min(l.splat(high), l.max(l.splat(low), x))
}

/// `e^x` for uses where overflow does not matter: 2 ulp from -87.3 to 88.3, infinity above (`e^88.38` is 0.7
/// of the largest number), zero below.
#[inline(always)]
pub(super) fn exp_for_quotient<L: Lanes>(l: L, x: L::Vector) -> L::Vector {
    let (power, rest) = exp_parts(l, clamp(l, -88.0, 88.8, x));
    // This must not be a multiply-add: an infinite power and a negative remainder would give infinity minus
    // infinity.
    l.mul(power, l.add(l.splat(1.0), rest))
}

/// `e^x`.
#[inline(always)]
pub(super) fn exp<L: Lanes>(l: L, x: L::Vector) -> L::Vector {
    let clamped = clamp(l, -104.0, 89.5, x);
    // The exponent may leave the range of normal numbers here, before the polynomial brings it back.
    let rounding = l.splat(12_582_912.0);
    let n = l.sub(l.mul_add(clamped, l.splat(LOG2_E), rounding), rounding);
    let r = l.neg_mul_add(n, l.splat(LN_2_REST), l.neg_mul_add(n, l.splat(LN_2), clamped));
    let result = l.scale(l.add(l.splat(1.0), exp_remainder(l, r)), n);
    // ln of the smallest normal number. Everything below it gives zero, on every instruction set alike.
    l.select(l.greater(l.splat(-87.336_55), x), l.splat(0.0), result)
}

/// `e^x - 1`, accurate around zero too.
#[inline(always)]
pub(super) fn exp_minus_one<L: Lanes>(l: L, x: L::Vector) -> L::Vector {
    let (power, rest) = exp_parts(l, clamp(l, -20.0, 88.0, x));
    l.mul_add(power, rest, l.sub(power, l.splat(1.0)))
}

/// The natural logarithm.
#[inline(always)]
pub(super) fn log<L: Lanes>(l: L, x: L::Vector) -> L::Vector {
    let (mantissa, exponent) = l.split_exponent(x);
    let f = l.sub(mantissa, l.splat(1.0));
    let mut series = l.splat(LOG[8]);
    for &coefficient in LOG[..8].iter().rev() {
        series = l.mul_add(series, f, l.splat(coefficient));
    }
    let square = l.mul(f, f);
    // Smallest terms first.
    let tail = l.mul_add(l.mul(square, f), series, l.mul(exponent, l.splat(LN_2_REST)));
    let tail = l.neg_mul_add(square, l.splat(0.5), tail);
    let result = l.mul_add(exponent, l.splat(LN_2), l.add(f, tail));
    // Infinity and NaN are returned as they are. Zero and flushed denormals give minus infinity. The rest
    // gives NaN.
    let result = l.select(l.greater(l.splat(f32::INFINITY), x), result, x);
    let result = l.select(l.greater(l.splat(f32::MIN_POSITIVE), x), l.splat(f32::NEG_INFINITY), result);
    l.select(l.greater(l.splat(0.0), x), l.splat(f32::NAN), result)
}

/// `ln(1 + x)` for `x` in `[0, 1]`.
#[inline(always)]
pub(super) fn log_one_plus<L: Lanes>(l: L, x: L::Vector) -> L::Vector {
    let one = l.splat(1.0);
    let sum = l.add(x, one);
    // What the addition rounded away is added back to first order: ln(sum + lost) = ln(sum) + lost / sum.
    let lost = l.sub(x, l.sub(sum, one));
    l.add(log(l, sum), l.div(lost, sum))
}

/// The hyperbolic tangent, as `-t / (t + 2)` with `t = e^(-2|x|) - 1`. This form loses no accuracy around
/// zero.
#[inline(always)]
pub(super) fn tanh<L: Lanes>(l: L, x: L::Vector) -> L::Vector {
    let limited = l.min(l.splat(9.02), l.abs(x));
    let (power, rest) = exp_parts(l, l.mul(limited, l.splat(-2.0)));
    let t = l.mul_add(power, rest, l.sub(power, l.splat(1.0)));
    let magnitude = l.div(l.abs(t), l.add(t, l.splat(2.0)));
    l.with_sign_of(magnitude, x)
}

/// The logistic function `1 / (1 + e^-x)`.
#[inline(always)]
pub(super) fn sigmoid<L: Lanes>(l: L, x: L::Vector) -> L::Vector {
    let one = l.splat(1.0);
    l.div(one, l.add(one, exp_for_quotient(l, l.neg(x))))
}

/// `ln(1 + e^x)`: the larger of x and 0, plus a term from the smaller one. Neither end overflows.
#[inline(always)]
pub(super) fn log_exp_plus_one<L: Lanes>(l: L, x: L::Vector) -> L::Vector {
    let remainder = log_one_plus(l, exp_for_quotient(l, l.neg(l.abs(x))));
    l.add(l.max(l.splat(0.0), x), remainder)
}

/// `x * Φ(x)` with the normal distribution function Φ, as `max(x, 0) - ½|x| erfc(|x| / √2)`. This form has no
/// cancellation.
#[inline(always)]
pub(super) fn gelu<L: Lanes>(l: L, x: L::Vector) -> L::Vector {
    // Beyond 13.4 the complement is below the smallest normal number.
    let magnitude = l.min(l.splat(13.4), l.abs(x));
    let half = l.mul(magnitude, l.splat(0.5));
    let square = l.mul(half, magnitude);
    let lost = l.mul_add(half, magnitude, l.neg(square));
    let decay = exp_for_quotient(l, l.neg(square));
    let decay = l.neg_mul_add(decay, lost, decay);
    let scale = l.splat(ERFC_SCALE * std::f32::consts::FRAC_1_SQRT_2);
    let t = l.div(l.splat(1.0), l.mul_add(magnitude, scale, l.splat(1.0)));
    let mut series = l.splat(ERFC[9]);
    for &coefficient in ERFC[..9].iter().rev() {
        series = l.mul_add(series, t, l.splat(coefficient));
    }
    let complement = l.mul(l.mul(series, t), decay);
    l.neg_mul_add(half, complement, l.max(l.splat(0.0), x))
}
