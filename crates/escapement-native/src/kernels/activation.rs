//! The unary functions that a network applies to each element: their definitions and their vector forms.

use super::functions;
use super::lanes::Lanes;

/// A unary function with its parameters, defined and named as in PyTorch.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs, reason = "parameters carry the names of PyTorch's own arguments")]
pub enum Activation {
    /// `x`
    Identity,
    /// `|x|`
    Abs,
    /// `-x`
    Neg,
    /// `x²`
    Square,
    /// `√x`, NaN below zero
    Sqrt,
    /// `1 / √x`
    Rsqrt,
    /// `1 / x`
    Reciprocal,
    /// `e^x`
    Exp,
    /// `ln x`
    Log,
    /// `sin x`; computed one value at a time
    Sin,
    /// `cos x`; computed one value at a time
    Cos,
    /// `tanh x`
    Tanh,
    /// `1 / (1 + e^-x)`
    Sigmoid,
    /// `max(x, 0)`
    Relu,
    /// `min(max(x, 0), 6)`
    Relu6,
    /// `x` above zero, else `alpha (e^x - 1)`
    Elu { alpha: f32 },
    /// [`Activation::Elu`] with the constants of Klambauer et al. (2017)
    Selu,
    /// `x` above zero, else `alpha (e^(x / alpha) - 1)`
    Celu { alpha: f32 },
    /// `x` above zero, else `slope x`
    LeakyRelu { slope: f32 },
    /// `min(max(x, low), high)`; also `clamp`
    HardTanh { low: f32, high: f32 },
    /// `min(max(x + 3, 0), 6) / 6`
    HardSigmoid,
    /// `x min(max(x + 3, 0), 6) / 6`
    HardSwish,
    /// `ln(1 + e^(beta x)) / beta`, and `x` where `beta x > threshold`
    Softplus { beta: f32, threshold: f32 },
    /// `x / (1 + |x|)`
    Softsign,
    /// `x sigmoid(x)`
    Silu,
    /// `x tanh(ln(1 + e^x))`
    Mish,
    /// `x Φ(x)`, the exact form
    Gelu,
    /// `x` times a logistic function that approximates Φ: PyTorch's `approximate='tanh'`
    GeluTanh,
}

const SELU_SCALE: f64 = 1.050_700_987_355_480_5;
const SELU_ALPHA: f64 = 1.673_263_242_354_377_2;
/// `√(8 / π)`: twice the factor inside the tanh of [`Activation::GeluTanh`].
const GELU_FACTOR: f64 = 1.595_769_121_605_730_7;
const GELU_CUBIC: f64 = 0.044_715;

impl Activation {
    pub(super) const SELU_ABOVE: f32 = SELU_SCALE as f32;
    pub(super) const SELU_BELOW: f32 = (SELU_SCALE * SELU_ALPHA) as f32;

    /// The reference: the definition, in double precision.
    #[must_use]
    pub fn reference(self, x: f64) -> f64 {
        // Rust's `max` and `clamp` drop NaN in some cases. A comparison that is false for NaN keeps it.
        let positive = |x: f64| if x < 0.0 { 0.0 } else { x };
        let clamp = |x: f64, low: f64, high: f64| {
            let x = if x < low { low } else { x };
            if x > high { high } else { x }
        };
        match self {
            Activation::Identity => x,
            Activation::Abs => x.abs(),
            Activation::Neg => -x,
            Activation::Square => x * x,
            Activation::Sqrt => x.sqrt(),
            Activation::Rsqrt => 1.0 / x.sqrt(),
            Activation::Reciprocal => 1.0 / x,
            Activation::Exp => x.exp(),
            Activation::Log => x.ln(),
            Activation::Sin => x.sin(),
            Activation::Cos => x.cos(),
            Activation::Tanh => x.tanh(),
            Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Activation::Relu => positive(x),
            Activation::Relu6 => clamp(x, 0.0, 6.0),
            Activation::Elu { alpha } => {
                if x > 0.0 {
                    x
                } else {
                    f64::from(alpha) * x.exp_m1()
                }
            }
            Activation::Selu => {
                if x > 0.0 {
                    SELU_SCALE * x
                } else {
                    SELU_SCALE * SELU_ALPHA * x.exp_m1()
                }
            }
            Activation::Celu { alpha } => {
                let alpha = f64::from(alpha);
                if x > 0.0 { x } else { alpha * (x / alpha).exp_m1() }
            }
            Activation::LeakyRelu { slope } => {
                if x > 0.0 {
                    x
                } else {
                    f64::from(slope) * x
                }
            }
            Activation::HardTanh { low, high } => clamp(x, f64::from(low), f64::from(high)),
            Activation::HardSigmoid => clamp(x + 3.0, 0.0, 6.0) / 6.0,
            Activation::HardSwish => x * clamp(x + 3.0, 0.0, 6.0) / 6.0,
            Activation::Softplus { beta, threshold } => {
                let scaled = x * f64::from(beta);
                if scaled > f64::from(threshold) { x } else { scaled.exp().ln_1p() / f64::from(beta) }
            }
            Activation::Softsign => x / (1.0 + x.abs()),
            Activation::Silu => x / (1.0 + (-x).exp()),
            // Written without the subtraction that would cancel: tanh(ln(1 + e)) = e (e + 2) / (e (e + 2) +
            // 2).
            Activation::Mish => {
                let e = x.min(40.0).exp();
                if x.is_nan() { x } else { x * (e * (e + 2.0) / (e * (e + 2.0) + 2.0)) }
            }
            // The limit, also at -∞ itself. PyTorch multiplies infinity by zero there and returns NaN.
            Activation::Gelu if x < -40.0 => 0.0,
            Activation::Gelu => 0.5 * x * erfc(-x * std::f64::consts::FRAC_1_SQRT_2),
            Activation::GeluTanh => x / (1.0 + (-GELU_FACTOR * (x + GELU_CUBIC * x * x * x)).exp()),
        }
    }

    /// PyTorch's name of the function, for reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Activation::Identity => "identity",
            Activation::Abs => "abs",
            Activation::Neg => "neg",
            Activation::Square => "square",
            Activation::Sqrt => "sqrt",
            Activation::Rsqrt => "rsqrt",
            Activation::Reciprocal => "reciprocal",
            Activation::Exp => "exp",
            Activation::Log => "log",
            Activation::Sin => "sin",
            Activation::Cos => "cos",
            Activation::Tanh => "tanh",
            Activation::Sigmoid => "sigmoid",
            Activation::Relu => "relu",
            Activation::Relu6 => "relu6",
            Activation::Elu { .. } => "elu",
            Activation::Selu => "selu",
            Activation::Celu { .. } => "celu",
            Activation::LeakyRelu { .. } => "leaky_relu",
            Activation::HardTanh { .. } => "hardtanh",
            Activation::HardSigmoid => "hardsigmoid",
            Activation::HardSwish => "hardswish",
            Activation::Softplus { .. } => "softplus",
            Activation::Softsign => "softsign",
            Activation::Silu => "silu",
            Activation::Mish => "mish",
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_tanh",
        }
    }
}

/// The complementary error function in double precision; Rust's library does not have it. Uses the Maclaurin
/// series (Abramowitz and Stegun 7.1.6, all terms of one sign) up to 2.5, and the continued fraction (7.1.14)
/// above.
fn erfc(x: f64) -> f64 {
    let z = x.abs();
    let complement = if z < 2.5 {
        let mut term = z;
        let mut sum = z;
        for n in 1..100 {
            term *= 2.0 * z * z / f64::from(2 * n + 1);
            sum += term;
        }
        1.0 - std::f64::consts::FRAC_2_SQRT_PI * (-z * z).exp() * sum
    } else {
        let mut fraction = 0.0;
        for n in (1..120).rev() {
            fraction = 0.5 * f64::from(n) / (z + fraction);
        }
        // The constant is 2/√π.
        0.5 * std::f64::consts::FRAC_2_SQRT_PI * (-z * z).exp() / (z + fraction)
    };
    if x.is_nan() {
        x
    } else if x < 0.0 {
        2.0 - complement
    } else {
        complement
    }
}

/// A unary function as a type. A kernel is compiled once for each function and has no branch inside its loop.
pub(super) trait Pointwise: Copy {
    fn apply<L: Lanes>(self, l: L, x: L::Vector) -> L::Vector;
}

/// Defines one type per function, with its parameters as fields.
macro_rules! pointwise {
    ($($name:ident $({ $($field:ident),* })? => |$l:ident, $x:ident| $body:expr;)*) => {
        /// The vector forms of all [`Activation`]s that have one.
        pub(super) mod pointwise {
            use super::*;
            $(
                #[derive(Clone, Copy)]
                pub struct $name { $($(pub $field: f32),*)? }
                impl Pointwise for $name {
                    #[inline(always)]
                    fn apply<L: Lanes>(self, $l: L, $x: L::Vector) -> L::Vector {
                        $(let Self { $($field),* } = self;)?
                        $body
                    }
                }
            )*
        }
    };
}

pointwise! {
    Identity => |_l, x| x;
    Abs => |l, x| l.abs(x);
    Neg => |l, x| l.neg(x);
    Square => |l, x| l.mul(x, x);
    Sqrt => |l, x| l.sqrt(x);
    Rsqrt => |l, x| l.div(l.splat(1.0), l.sqrt(x));
    Reciprocal => |l, x| l.div(l.splat(1.0), x);
    Exp => |l, x| functions::exp(l, x);
    Log => |l, x| functions::log(l, x);
    Tanh => |l, x| functions::tanh(l, x);
    Sigmoid => |l, x| functions::sigmoid(l, x);
    Relu => |l, x| l.max(l.splat(0.0), x);
    HardTanh { low, high } => |l, x| functions::clamp(l, low, high, x);
    LeakyRelu { slope } => |l, x| l.select(l.greater(x, l.splat(0.0)), x, l.mul(x, l.splat(slope)));
    // Elu, Selu and Celu are three forms of one function.
    ScaledElu { above, below, rate } => |l, x| {
        // Above zero the exponential is not used, but it must not overflow into a NaN.
        let exponent = l.mul(l.min(l.splat(0.0), x), l.splat(rate));
        let curve = l.mul(functions::exp_minus_one(l, exponent), l.splat(below));
        l.select(l.greater(x, l.splat(0.0)), l.mul(x, l.splat(above)), curve)
    };
    HardSigmoid => |l, x| {
        l.mul(functions::clamp(l, 0.0, 6.0, l.add(x, l.splat(3.0))), l.splat(1.0 / 6.0))
    };
    HardSwish => |l, x| l.mul(x, HardSigmoid {}.apply(l, x));
    Softplus { beta, threshold } => |l, x| {
        let scaled = l.mul(x, l.splat(beta));
        let curve = l.div(functions::log_exp_plus_one(l, scaled), l.splat(beta));
        l.select(l.greater(scaled, l.splat(threshold)), x, curve)
    };
    Softsign => |l, x| l.div(x, l.add(l.splat(1.0), l.abs(x)));
    Silu => |l, x| l.div(x, l.add(l.splat(1.0), functions::exp_for_quotient(l, l.neg(x))));
    Mish => |l, x| {
        let two = l.splat(2.0);
        // From 20 on the factor is 1. Without this bound the square of the exponential would overflow.
        let e = functions::exp_for_quotient(l, l.min(l.splat(20.0), x));
        let n = l.mul(e, l.add(e, two));
        l.mul(x, l.div(n, l.add(n, two)))
    };
    Gelu => |l, x| functions::gelu(l, x);
    GeluTanh => |l, x| {
        let square = l.mul(x, x);
        let linear = l.splat(GELU_FACTOR as f32);
        let cubic = l.mul_add(square, l.splat((GELU_FACTOR * GELU_CUBIC) as f32), linear);
        let exponent = l.neg(l.mul(cubic, x));
        l.div(x, l.add(l.splat(1.0), functions::exp_for_quotient(l, exponent)))
    };
}

/// Evaluates `$body` with `$f` bound to the [`Pointwise`] type of an activation. Evaluates `$by_value` for
/// those that have none.
macro_rules! with_pointwise {
    ($activation:expr, |$f:ident| $body:expr, $by_value:expr) => {{
        use $crate::kernels::activation::{Activation as A, pointwise as p};
        macro_rules! with {
            ($value:expr) => {{
                let $f = $value;
                $body
            }};
        }
        match $activation {
            A::Identity => with!(p::Identity {}),
            A::Abs => with!(p::Abs {}),
            A::Neg => with!(p::Neg {}),
            A::Square => with!(p::Square {}),
            A::Sqrt => with!(p::Sqrt {}),
            A::Rsqrt => with!(p::Rsqrt {}),
            A::Reciprocal => with!(p::Reciprocal {}),
            A::Exp => with!(p::Exp {}),
            A::Log => with!(p::Log {}),
            A::Sin | A::Cos => $by_value,
            A::Tanh => with!(p::Tanh {}),
            A::Sigmoid => with!(p::Sigmoid {}),
            A::Relu => with!(p::Relu {}),
            A::Relu6 => with!(p::HardTanh { low: 0.0, high: 6.0 }),
            A::Elu { alpha } => with!(p::ScaledElu { above: 1.0, below: alpha, rate: 1.0 }),
            A::Selu => with!(p::ScaledElu { above: A::SELU_ABOVE, below: A::SELU_BELOW, rate: 1.0 }),
            A::Celu { alpha } => with!(p::ScaledElu { above: 1.0, below: alpha, rate: 1.0 / alpha }),
            A::LeakyRelu { slope } => with!(p::LeakyRelu { slope }),
            A::HardTanh { low, high } => with!(p::HardTanh { low, high }),
            A::HardSigmoid => with!(p::HardSigmoid {}),
            A::HardSwish => with!(p::HardSwish {}),
            A::Softplus { beta, threshold } => with!(p::Softplus { beta, threshold }),
            A::Softsign => with!(p::Softsign {}),
            A::Silu => with!(p::Silu {}),
            A::Mish => with!(p::Mish {}),
            A::Gelu => with!(p::Gelu {}),
            A::GeluTanh => with!(p::GeluTanh {}),
        }
    }};
}
