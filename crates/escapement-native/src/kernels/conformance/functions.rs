//! Unary and binary functions, over all of `f32`.

use super::super::{
    Activation, Binary, Isa, activate, activate_in_place, binary, binary_scalar, scalar_binary,
};
use super::guarded::Guarded;
use super::{SIZES, values, vector_isas};
use escapement_policy::denormals::FlushDenormals;

/// The error that a function is allowed, in units in the last place. The second figure is an absolute error,
/// below which a result is also accepted. It is for functions that multiply their argument before they take
/// an exponential: no evaluation in single precision keeps relative accuracy there.
const BOUNDS: [(Activation, f64, f64); 26] = [
    (Activation::Identity, 0.0, 0.0),
    (Activation::Abs, 0.0, 0.0),
    (Activation::Neg, 0.0, 0.0),
    (Activation::Square, 0.5, 0.0),
    (Activation::Sqrt, 0.5, 0.0),
    (Activation::Rsqrt, 1.5, 0.0),
    (Activation::Reciprocal, 0.5, 0.0),
    (Activation::Exp, 2.0, 0.0),
    (Activation::Log, 2.0, 0.0),
    (Activation::Tanh, 3.0, 0.0),
    (Activation::Sigmoid, 3.0, 0.0),
    (Activation::Relu, 0.0, 0.0),
    (Activation::Relu6, 0.0, 0.0),
    (Activation::Elu { alpha: 0.7 }, 4.0, 0.0),
    (Activation::Selu, 4.0, 0.0),
    (Activation::Celu { alpha: 1.7 }, 6.0, 0.0),
    (Activation::LeakyRelu { slope: 0.01 }, 0.5, 0.0),
    (Activation::HardTanh { low: -0.4, high: 2.5 }, 0.0, 0.0),
    (Activation::HardSigmoid, 2.0, 0.0),
    (Activation::HardSwish, 3.0, 0.0),
    (Activation::Softplus { beta: 1.5, threshold: 20.0 }, 4.0, 1e-8),
    (Activation::Softsign, 2.0, 0.0),
    (Activation::Silu, 4.0, 1e-35),
    (Activation::Mish, 5.0, 1e-35),
    (Activation::Gelu, 8.0, 1e-8),
    (Activation::GeluTanh, 6.0, 2e-8),
];

/// The distance between neighbours at the magnitude of `exact`.
fn ulp(exact: f64) -> f64 {
    let exponent = exact.abs().max(f64::from(f32::MIN_POSITIVE)).log2().floor().min(127.0);
    (exponent - 23.0).exp2()
}

/// Whether a result is right within the bounds. Results next to the smallest normal number, and below
/// everything that is normal, count as zero.
fn is_right(result: f32, exact: f64, ulps: f64, absolute: f64) -> bool {
    if exact.is_nan() || result.is_nan() {
        return exact.is_nan() && result.is_nan();
    }
    let smallest = f64::from(f32::MIN_POSITIVE);
    let largest = f64::from(f32::MAX);
    let result = f64::from(result);
    // An intermediate value may have been flushed even if the result itself is normal.
    if exact.abs() <= 4.0 * smallest {
        return result.abs() <= 8.0 * smallest;
    }
    let error = ulps.max(0.5) * ulp(exact);
    if exact.abs() + error > largest && result == f64::INFINITY.copysign(exact) {
        return true;
    }
    // Above the largest number, only infinity and values close to the largest number are right.
    let exact = exact.clamp(-largest, largest);
    (result - exact).abs() <= error.max(absolute)
}

/// The step between the tested bit patterns. ESCAPEMENT_EXHAUSTIVE tests all of them (about an hour).
fn step() -> usize {
    if std::env::var_os("ESCAPEMENT_EXHAUSTIVE").is_some() { 1 } else { 9_973 }
}

#[test]
fn every_activation_is_within_its_bound() {
    let _flush = FlushDenormals::enter();
    let special = [
        0.0,
        f32::INFINITY,
        f32::NAN,
        f32::MIN_POSITIVE,
        1e-40,
        f32::MAX,
        88.7,
        88.73,
        87.33,
        87.34,
        9.02,
        20.0,
    ];
    let mut input: Vec<f32> = special.iter().flat_map(|&x| [x, -x]).collect();
    input.resize(1 << 16, 0.0);
    let mut worst = vec![(0.0f64, 0.0f32); BOUNDS.len()];
    let mut patterns = (0..=u32::MAX).step_by(step()).map(f32::from_bits);
    let mut start = 2 * special.len();
    loop {
        let drawn = input[start..].iter_mut().zip(&mut patterns).map(|(slot, x)| *slot = x).count();
        if drawn == 0 {
            break;
        }
        let input = &input[..start + drawn];
        for (&(activation, ulps, absolute), worst) in BOUNDS.iter().zip(&mut worst) {
            let exact: Vec<f64> = input.iter().map(|&x| activation.reference(f64::from(x))).collect();
            for isa in vector_isas() {
                let mut output = vec![0.0; input.len()];
                activate(isa, activation, input, &mut output);
                for ((&x, &exact), &result) in input.iter().zip(&exact).zip(&output) {
                    assert!(
                        is_right(result, exact, ulps, absolute),
                        "{} {activation:?} of {x:e} is {result:e}, exactly {exact:e}, {:.2} ulp apart",
                        isa.name(),
                        (f64::from(result) - exact).abs() / ulp(exact)
                    );
                    let distance = (f64::from(result) - exact).abs();
                    let error = distance / ulp(exact);
                    let normal = exact.abs() > 4.0 * f64::from(f32::MIN_POSITIVE);
                    if normal && error.is_finite() && error > worst.0 && distance > absolute {
                        *worst = (error, x);
                    }
                }
            }
        }
        start = 0;
    }
    for ((activation, ..), (error, at)) in BOUNDS.iter().zip(worst) {
        println!("{activation:?}: at most {error:.2} ulp, at {at:e}");
    }
}

#[test]
fn a_bound_can_be_missed() {
    assert!(is_right(1.0, 1.0, 0.0, 0.0));
    assert!(!is_right(1.000_000_5, 1.0, 3.0, 0.0), "an error of four units must fail a bound of three");
    assert!(is_right(1.000_000_5, 1.0, 3.0, 1e-6));
    assert!(!is_right(f32::NAN, 1.0, 3.0, 1.0) && !is_right(1.0, f64::NAN, 3.0, 1.0));
    assert!(!is_right(1e30, 1e39, 3.0, 0.0) && is_right(f32::INFINITY, 1e39, 3.0, 0.0));
    assert!(!is_right(f32::INFINITY, 1e38, 3.0, 0.0) && !is_right(1e-30, 0.0, 3.0, 0.0));
}

#[test]
fn functions_saturate_and_keep_their_limits() {
    let _flush = FlushDenormals::enter();
    let infinity = f32::INFINITY;
    for isa in Isa::available() {
        let of = |activation, x| {
            let mut value = [x; 21];
            activate_in_place(isa, activation, &mut value);
            assert!(value.iter().all(|v| v.to_bits() == value[0].to_bits()), "lanes differ");
            value[0]
        };
        for (activation, low, high) in [
            (Activation::Tanh, -1.0, 1.0),
            (Activation::Sigmoid, 0.0, 1.0),
            (Activation::Exp, 0.0, infinity),
            (Activation::Relu6, 0.0, 6.0),
            (Activation::Elu { alpha: 1.0 }, -1.0, infinity),
            (Activation::Softplus { beta: 1.0, threshold: 20.0 }, 0.0, infinity),
        ] {
            for large in [200.0, 1e30, infinity] {
                assert_eq!(of(activation, -large), low, "{} {activation:?} of {}", isa.name(), -large);
                let expected = if high == infinity && activation != Activation::Exp { large } else { high };
                assert_eq!(of(activation, large), expected, "{} {activation:?} of {large}", isa.name());
            }
        }
        assert_eq!(of(Activation::Tanh, -0.0).to_bits(), (-0.0f32).to_bits());
        assert_eq!(of(Activation::Log, 0.0), -infinity);
        assert_eq!(of(Activation::Log, infinity), infinity);
        assert!(of(Activation::Log, -1.0).is_nan());
    }
}

#[test]
fn every_length_is_written_to_its_end_and_no_further() {
    for isa in Isa::available() {
        for len in SIZES.into_iter().chain([0, 31, 63, 127]) {
            let input = Guarded::new(&values(1, len));
            for (activation, ..) in
                BOUNDS.into_iter().chain([(Activation::Sin, 0.0, 0.0), (Activation::Cos, 0.0, 0.0)])
            {
                let mut output = Guarded::unwritten(len);
                activate(isa, activation, &input, &mut output);
                let mut in_place = Guarded::new(&input);
                activate_in_place(isa, activation, &mut in_place);
                for i in 0..len {
                    assert_eq!(output[i].to_bits(), in_place[i].to_bits());
                    let exact = activation.reference(f64::from(input[i]));
                    assert!(
                        is_right(output[i], exact, 8.0, 1e-7),
                        "{} {activation:?} {i} of {len}",
                        isa.name()
                    );
                }
            }
        }
    }
}

#[test]
fn binary_functions_agree_bit_for_bit() {
    let operations = [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div, Binary::Min, Binary::Max];
    for len in SIZES {
        let (mut a, mut b) = (values(2, len), values(3, len));
        for (i, special) in [f32::NAN, f32::INFINITY, -0.0, 0.0].into_iter().enumerate() {
            a[(i * 5) % len] = special;
            b[(i * 7 + 1) % len] = special;
        }
        let (a, b) = (Guarded::new(&a), Guarded::new(&b));
        for isa in Isa::available() {
            for op in operations {
                let mut out = [Guarded::unwritten(len), Guarded::unwritten(len), Guarded::unwritten(len)];
                binary(isa, op, &a, &b, &mut out[0]);
                binary_scalar(isa, op, &a, 0.3, &mut out[1]);
                scalar_binary(isa, op, 0.3, &b, &mut out[2]);
                for i in 0..len {
                    for (result, expected) in [
                        (out[0][i], op.reference(a[i], b[i])),
                        (out[1][i], op.reference(a[i], 0.3)),
                        (out[2][i], op.reference(0.3, b[i])),
                    ] {
                        let same = result == expected || (result.is_nan() && expected.is_nan());
                        assert!(same, "{} {op:?}: {result}, not {expected}", isa.name());
                    }
                }
            }
        }
    }
}
