//! Elementwise operators.

use crate::ir::graph::{BinaryOp, CompareOp, UnaryOp};

/// A number that elementwise operators compute with.
pub(crate) trait Number: Copy + PartialOrd + Default {
    fn unary(op: UnaryOp, x: Self) -> Self;
    fn binary(op: BinaryOp, a: Self, b: Self) -> Self;
}

impl Number for f64 {
    fn unary(op: UnaryOp, x: Self) -> Self {
        match op {
            UnaryOp::Activation(activation) => activation.reference(x),
            UnaryOp::Floor => x.floor(),
            UnaryOp::Ceil => x.ceil(),
            UnaryOp::Round => x.round_ties_even(),
            UnaryOp::Trunc => x.trunc(),
            UnaryOp::Sign if x == 0.0 || x.is_nan() => 0.0,
            UnaryOp::Sign => x.signum(),
            UnaryOp::Tan => x.tan(),
            UnaryOp::Asin => x.asin(),
            UnaryOp::Acos => x.acos(),
            UnaryOp::Atan => x.atan(),
            UnaryOp::Sinh => x.sinh(),
            UnaryOp::Cosh => x.cosh(),
            UnaryOp::Exp2 => x.exp2(),
            UnaryOp::Expm1 => x.exp_m1(),
            UnaryOp::Log1p => x.ln_1p(),
            UnaryOp::Log2 => x.log2(),
            UnaryOp::Log10 => x.log10(),
            UnaryOp::Erf => erf(x),
            UnaryOp::Not => f64::from(u8::from(x == 0.0)),
            UnaryOp::IsNan => f64::from(u8::from(x.is_nan())),
        }
    }

    fn binary(op: BinaryOp, a: Self, b: Self) -> Self {
        match op {
            BinaryOp::Add => a + b,
            BinaryOp::Sub => a - b,
            BinaryOp::Mul => a * b,
            BinaryOp::Div => a / b,
            // NaN in either operand gives NaN, as in PyTorch and unlike `f64::min`.
            BinaryOp::Min if a.is_nan() || a < b => a,
            BinaryOp::Max if a.is_nan() || a > b => a,
            BinaryOp::Min | BinaryOp::Max => b,
            BinaryOp::Pow => a.powf(b),
            BinaryOp::Fmod => a % b,
            BinaryOp::Remainder => {
                let rest = a % b;
                if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }
            }
            BinaryOp::FloorDivide => (a / b).floor(),
            BinaryOp::Atan2 => a.atan2(b),
            BinaryOp::And => f64::from(u8::from(a != 0.0 && b != 0.0)),
            BinaryOp::Or => f64::from(u8::from(a != 0.0 || b != 0.0)),
            BinaryOp::Xor => f64::from(u8::from((a != 0.0) != (b != 0.0))),
        }
    }
}

/// Computed in double precision. These operators have no vector kernel, and accuracy matters more than speed.
impl Number for f32 {
    fn unary(op: UnaryOp, x: Self) -> Self {
        f64::unary(op, f64::from(x)) as f32
    }

    fn binary(op: BinaryOp, a: Self, b: Self) -> Self {
        match op {
            // Computed in the operands' own precision, because rounding decides which whole number is
            // reached.
            BinaryOp::FloorDivide => floor_divide(a, b),
            BinaryOp::Remainder => {
                let rest = a % b;
                if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }
            }
            BinaryOp::Fmod => a % b,
            _ => f64::binary(op, f64::from(a), f64::from(b)) as f32,
        }
    }
}

/// As `c10::div_floor_floating`: computed from the remainder, so that no quotient is rounded up to the next
/// whole number.
fn floor_divide(a: f32, b: f32) -> f32 {
    if b == 0.0 {
        return a / b;
    }
    let rest = a % b;
    let mut quotient = (a - rest) / b;
    if rest != 0.0 && (b < 0.0) != (rest < 0.0) {
        quotient -= 1.0;
    }
    if quotient == 0.0 {
        return 0f32.copysign(a / b);
    }
    let floor = quotient.floor();
    if quotient - floor > 0.5 { floor + 1.0 } else { floor }
}

impl Number for i64 {
    fn unary(op: UnaryOp, x: Self) -> Self {
        use crate::kernels::Activation;
        match op {
            UnaryOp::Activation(Activation::Abs) => x.wrapping_abs(),
            UnaryOp::Activation(Activation::Neg) => x.wrapping_neg(),
            UnaryOp::Activation(Activation::Relu) => x.max(0),
            UnaryOp::Sign => x.signum(),
            // Rounding leaves integers unchanged. Every other function is computed after a cast to float.
            _ => x,
        }
    }

    fn binary(op: BinaryOp, a: Self, b: Self) -> Self {
        match op {
            BinaryOp::Add => a.wrapping_add(b),
            BinaryOp::Sub => a.wrapping_sub(b),
            BinaryOp::Mul => a.wrapping_mul(b),
            BinaryOp::Min => a.min(b),
            BinaryOp::Max => a.max(b),
            BinaryOp::Pow => match u32::try_from(b) {
                Ok(exponent) => a.wrapping_pow(exponent),
                Err(_) => i64::from(a == 1),
            },
            // Division by zero has no value. PyTorch raises an error; a plan has no branches and does not.
            BinaryOp::Fmod => a.checked_rem(b).unwrap_or(0),
            BinaryOp::Remainder => {
                let rest = a.checked_rem(b).unwrap_or(0);
                if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }
            }
            BinaryOp::FloorDivide | BinaryOp::Div => {
                let quotient = a.checked_div(b).unwrap_or(0);
                if b != 0 && a.wrapping_rem(b) != 0 && (a < 0) != (b < 0) { quotient - 1 } else { quotient }
            }
            BinaryOp::Atan2 => 0,
            BinaryOp::And => a & b,
            BinaryOp::Or => a | b,
            BinaryOp::Xor => a ^ b,
        }
    }
}

/// The element at position `at`. An operand of one element has the same element at every position.
fn pick<T: Copy>(operand: &[T], at: usize) -> T {
    if operand.len() == 1 { operand[0] } else { operand[at] }
}

pub(crate) fn unary<T: Number>(op: UnaryOp, input: &[T], output: &mut [T]) {
    for (output, &x) in output.iter_mut().zip(input) {
        *output = T::unary(op, x);
    }
}

pub(crate) fn binary<T: Number>(op: BinaryOp, a: &[T], b: &[T], output: &mut [T]) {
    for (at, output) in output.iter_mut().enumerate() {
        *output = T::binary(op, pick(a, at), pick(b, at));
    }
}

pub(crate) fn logical(op: BinaryOp, a: &[bool], b: &[bool], output: &mut [bool]) {
    for (at, output) in output.iter_mut().enumerate() {
        let (a, b) = (pick(a, at), pick(b, at));
        *output = match op {
            BinaryOp::Or | BinaryOp::Max | BinaryOp::Add => a | b,
            BinaryOp::Xor => a ^ b,
            _ => a & b,
        };
    }
}

pub(crate) fn compare<T: PartialOrd + Copy>(op: CompareOp, a: &[T], b: &[T], output: &mut [bool]) {
    for (at, output) in output.iter_mut().enumerate() {
        let (a, b) = (pick(a, at), pick(b, at));
        *output = match op {
            CompareOp::Eq => a == b,
            CompareOp::Ne => a != b,
            CompareOp::Lt => a < b,
            CompareOp::Le => a <= b,
            CompareOp::Gt => a > b,
            CompareOp::Ge => a >= b,
        };
    }
}

pub(crate) fn choose<T: Copy>(condition: &[bool], a: &[T], b: &[T], output: &mut [T]) {
    for (at, output) in output.iter_mut().enumerate() {
        *output = if pick(condition, at) { pick(a, at) } else { pick(b, at) };
    }
}

/// The error function from the reference of gelu: `gelu(x) = x Φ(x)`, so `erf(x) = 2 Φ(x √2) - 1`.
fn erf(x: f64) -> f64 {
    use crate::kernels::Activation;
    if x == 0.0 {
        return x;
    }
    let scaled = x * std::f64::consts::SQRT_2;
    let phi = Activation::Gelu.reference(scaled) / scaled;
    if x.abs() < 1e-4 { std::f64::consts::FRAC_2_SQRT_PI * (x - x * x * x / 3.0) } else { 2.0 * phi - 1.0 }
}

#[cfg(test)]
mod tests {
    use super::{Number, erf};
    use crate::ir::graph::{BinaryOp, UnaryOp};

    #[test]
    fn erf_has_its_tabulated_values() {
        // Abramowitz and Stegun, table 7.1.
        for (x, value) in
            [(0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265), (-1.0, -0.842_700_792_9)]
        {
            assert!((erf(x) - value).abs() < 1e-9, "erf({x}) = {}", erf(x));
        }
    }

    #[test]
    fn remainders_take_the_sign_of_the_divisor() {
        assert_eq!(f64::binary(BinaryOp::Remainder, -5.0, 3.0), 1.0);
        assert_eq!(i64::binary(BinaryOp::Remainder, 5, -3), -1);
        assert_eq!(i64::binary(BinaryOp::FloorDivide, -5, 3), -2);
        assert_eq!(f32::binary(BinaryOp::FloorDivide, -5.0, 3.0), -2.0);
    }

    #[test]
    fn rounding_goes_to_even_and_nan_wins() {
        assert_eq!(f32::unary(UnaryOp::Round, 2.5), 2.0);
        assert!(f64::binary(BinaryOp::Max, f64::NAN, 1.0).is_nan());
        assert!(f64::binary(BinaryOp::Min, 1.0, f64::NAN).is_nan());
    }
}
