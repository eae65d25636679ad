//! Elementwise operators: unary, binary, comparisons, clamp, where, casts.

use super::Call;
use crate::ir::graph::{BinaryOp, CompareOp, UnaryOp, View};
use crate::ir::tensor::DType;
use crate::kernels::Activation;
use crate::lower::emit::Operand;
use crate::lower::interpreter::{Interpreter, Step, mismatch, unsupported};
use crate::lower::value::Value;

pub(super) fn call(interpreter: &mut Interpreter<'_, '_>, name: &str, call: &Call) -> Step<Option<Value>> {
    let view = if let Some(op) = unary_op(interpreter, name, call)? {
        let view = call.tensor(interpreter, 0, "self")?;
        if matches!(op, UnaryOp::Activation(Activation::Identity)) {
            return Ok(call.positional.first().cloned());
        }
        interpreter.unary(op, &view)?
    } else if let Some(op) = compare_op(name) {
        let (a, b) = operands(interpreter, call)?;
        interpreter.compare(op, &a, &b)?
    } else if let Some(view) = binary(interpreter, name, call)? {
        view
    } else if let Some(view) = selection(interpreter, name, call)? {
        view
    } else {
        return cast(interpreter, name, call);
    };
    interpreter.tensor(view).map(Some)
}

fn unary_op(interpreter: &Interpreter<'_, '_>, name: &str, call: &Call) -> Step<Option<UnaryOp>> {
    let float =
        |position, name, default| call.float(interpreter, position, name, Some(default)).map(|x| x as f32);
    let activation = match name {
        "tanh" => Activation::Tanh,
        "sigmoid" => Activation::Sigmoid,
        "relu" => Activation::Relu,
        "relu6" => Activation::Relu6,
        "silu" => Activation::Silu,
        "mish" => Activation::Mish,
        "exp" => Activation::Exp,
        "log" => Activation::Log,
        "sqrt" => Activation::Sqrt,
        "rsqrt" => Activation::Rsqrt,
        "reciprocal" => Activation::Reciprocal,
        "square" => Activation::Square,
        "abs" | "absolute" => Activation::Abs,
        "neg" | "negative" => Activation::Neg,
        "sin" => Activation::Sin,
        "cos" => Activation::Cos,
        "selu" => Activation::Selu,
        "softsign" => Activation::Softsign,
        "hardsigmoid" => Activation::HardSigmoid,
        "hardswish" => Activation::HardSwish,
        "celu" => Activation::Celu { alpha: float(1, "alpha", 1.0)? },
        "leaky_relu" => Activation::LeakyRelu { slope: float(1, "negative_slope", 0.01)? },
        "hardtanh" => {
            Activation::HardTanh { low: float(1, "min_val", -1.0)?, high: float(2, "max_val", 1.0)? }
        }
        "softplus" => {
            Activation::Softplus { beta: float(1, "beta", 1.0)?, threshold: float(2, "threshold", 20.0)? }
        }
        "elu" => {
            if float(2, "scale", 1.0)? != 1.0 || float(3, "input_scale", 1.0)? != 1.0 {
                return unsupported("elu with a scale");
            }
            Activation::Elu { alpha: float(1, "alpha", 1.0)? }
        }
        "gelu" => match call.present(1, "approximate") {
            Some(Value::Str(form)) if &**form == "tanh" => Activation::GeluTanh,
            _ => Activation::Gelu,
        },
        // These change nothing in evaluation. A plan never shares memory in a way that a copy would undo.
        "detach" | "clone" | "alias" | "contiguous" | "data" | "requires_grad_" | "positive"
        | "lift_fresh" => Activation::Identity,
        "dropout" | "feature_dropout" | "alpha_dropout" => {
            if call.flag(interpreter, 2, "train", false)? {
                return unsupported("dropout in training mode: call eval() before exporting");
            }
            Activation::Identity
        }
        _ => {
            return Ok(Some(match name {
                "floor" => UnaryOp::Floor,
                "ceil" => UnaryOp::Ceil,
                "round" => {
                    if call.int(interpreter, 1, "decimals", Some(0))? != 0 {
                        return unsupported("round to decimals");
                    }
                    UnaryOp::Round
                }
                "trunc" | "fix" => UnaryOp::Trunc,
                "sign" | "sgn" => UnaryOp::Sign,
                "tan" => UnaryOp::Tan,
                "asin" | "arcsin" => UnaryOp::Asin,
                "acos" | "arccos" => UnaryOp::Acos,
                "atan" | "arctan" => UnaryOp::Atan,
                "sinh" => UnaryOp::Sinh,
                "cosh" => UnaryOp::Cosh,
                "exp2" => UnaryOp::Exp2,
                "expm1" => UnaryOp::Expm1,
                "log1p" => UnaryOp::Log1p,
                "log2" => UnaryOp::Log2,
                "log10" => UnaryOp::Log10,
                "erf" => UnaryOp::Erf,
                "logical_not" | "bitwise_not" | "__not__" => UnaryOp::Not,
                "isnan" => UnaryOp::IsNan,
                _ => return Ok(None),
            }));
        }
    };
    Ok(Some(UnaryOp::Activation(activation)))
}

fn compare_op(name: &str) -> Option<CompareOp> {
    Some(match name {
        "eq" => CompareOp::Eq,
        "ne" | "not_equal" => CompareOp::Ne,
        "lt" | "less" => CompareOp::Lt,
        "le" | "less_equal" => CompareOp::Le,
        "gt" | "greater" => CompareOp::Gt,
        "ge" | "greater_equal" => CompareOp::Ge,
        _ => return None,
    })
}

fn operands(interpreter: &mut Interpreter<'_, '_>, call: &Call) -> Step<(Operand, Operand)> {
    let a = interpreter.operand(call.required(0, "self")?)?;
    let b = interpreter.operand(call.required(1, "other")?)?;
    Ok((a, b))
}

/// `other * alpha`, the second operand of `add` and `sub`.
fn scaled(interpreter: &mut Interpreter<'_, '_>, call: &Call, other: Operand) -> Step<Operand> {
    let alpha = call.float(interpreter, 2, "alpha", Some(1.0))?;
    if alpha == 1.0 {
        return Ok(other);
    }
    let factor = if other.view.dtype.is_float() {
        Operand { view: interpreter.number(DType::F64, alpha)?, literal: true }
    } else {
        Operand { view: interpreter.number(DType::I64, alpha)?, literal: true }
    };
    let literal = other.literal;
    Ok(Operand { view: interpreter.binary(BinaryOp::Mul, &other, &factor)?, literal })
}

fn binary(interpreter: &mut Interpreter<'_, '_>, name: &str, call: &Call) -> Step<Option<View>> {
    let op = match name {
        "add" => BinaryOp::Add,
        "sub" | "subtract" | "rsub" => BinaryOp::Sub,
        "mul" | "multiply" => BinaryOp::Mul,
        "div" | "divide" | "true_divide" => BinaryOp::Div,
        "floor_divide" => BinaryOp::FloorDivide,
        "remainder" => BinaryOp::Remainder,
        "fmod" => BinaryOp::Fmod,
        "atan2" => BinaryOp::Atan2,
        "pow" => BinaryOp::Pow,
        "minimum" => BinaryOp::Min,
        "maximum" => BinaryOp::Max,
        "logical_and" | "__and__" | "bitwise_and" => BinaryOp::And,
        "logical_or" | "__or__" | "bitwise_or" => BinaryOp::Or,
        "logical_xor" | "__xor__" | "bitwise_xor" => BinaryOp::Xor,
        // With one tensor these reduce. With two they compare element by element.
        "min" if matches!(call.get(1, "other"), Some(Value::Tensor(_))) => BinaryOp::Min,
        "max" if matches!(call.get(1, "other"), Some(Value::Tensor(_))) => BinaryOp::Max,
        _ => return Ok(None),
    };
    let (mut a, mut b) = operands(interpreter, call)?;
    let view = match op {
        BinaryOp::Add | BinaryOp::Sub => {
            if name == "rsub" {
                std::mem::swap(&mut a, &mut b);
                a = scaled(interpreter, call, a)?;
            } else {
                b = scaled(interpreter, call, b)?;
            }
            interpreter.binary(op, &a, &b)?
        }
        BinaryOp::Div => match call.present(2, "rounding_mode") {
            Some(Value::Str(mode)) if &**mode == "floor" => {
                interpreter.binary(BinaryOp::FloorDivide, &a, &b)?
            }
            Some(Value::Str(mode)) if &**mode == "trunc" => truncated(interpreter, &a, &b)?,
            Some(_) => return unsupported("division rounded by another rule than floor or trunc"),
            None => interpreter.binary(op, &a, &b)?,
        },
        BinaryOp::Pow => power(interpreter, call, &a, &b)?,
        BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => {
            if name.starts_with("logical") {
                a = Operand { view: interpreter.cast(&a.view, DType::Bool)?, ..a };
                b = Operand { view: interpreter.cast(&b.view, DType::Bool)?, ..b };
            }
            if a.view.dtype != DType::Bool || b.view.dtype != DType::Bool {
                return unsupported("a bitwise operation on numbers");
            }
            interpreter.binary(op, &a, &b)?
        }
        _ => interpreter.binary(op, &a, &b)?,
    };
    Ok(Some(view))
}

/// Division rounded towards zero. Whole numbers are divided in double precision, which is exact below 2⁵³.
fn truncated(interpreter: &mut Interpreter<'_, '_>, a: &Operand, b: &Operand) -> Step<View> {
    let dtype = Interpreter::common_type(&[a, b]);
    if dtype.is_float() {
        let quotient = interpreter.binary(BinaryOp::Div, a, b)?;
        return interpreter.unary(UnaryOp::Trunc, &quotient);
    }
    let mut wide = Vec::with_capacity(2);
    for operand in [a, b] {
        let view = interpreter.cast(&operand.view, DType::F64)?;
        wide.push(Operand { view, literal: operand.literal });
    }
    let quotient = interpreter.binary(BinaryOp::Div, &wide[0], &wide[1])?;
    let quotient = interpreter.unary(UnaryOp::Trunc, &quotient)?;
    interpreter.cast(&quotient, DType::I64)
}

/// Powers with a constant exponent. They become products and roots if that is exact.
fn power(interpreter: &mut Interpreter<'_, '_>, call: &Call, a: &Operand, b: &Operand) -> Step<View> {
    let exponent = match call.get(1, "exponent") {
        Some(Value::Tensor(_)) | None => None,
        Some(value) => value.number(),
    };
    if !a.view.dtype.is_float() {
        return interpreter.binary(BinaryOp::Pow, a, b);
    }
    Ok(match exponent {
        Some(1.0) => a.view.clone(),
        Some(2.0) => interpreter.activation(Activation::Square, &a.view)?,
        Some(3.0) => {
            let square = interpreter.activation(Activation::Square, &a.view)?;
            interpreter.two(BinaryOp::Mul, &square, &a.view)?
        }
        Some(0.5) => interpreter.activation(Activation::Sqrt, &a.view)?,
        Some(-0.5) => interpreter.activation(Activation::Rsqrt, &a.view)?,
        Some(-1.0) => interpreter.activation(Activation::Reciprocal, &a.view)?,
        _ => interpreter.binary(BinaryOp::Pow, a, b)?,
    })
}

fn selection(interpreter: &mut Interpreter<'_, '_>, name: &str, call: &Call) -> Step<Option<View>> {
    Ok(Some(match name {
        "clamp" | "clip" => clamp(interpreter, call, call.present(1, "min"), call.present(2, "max"))?,
        "clamp_min" => clamp(interpreter, call, call.present(1, "min"), None)?,
        "clamp_max" => clamp(interpreter, call, None, call.present(1, "max"))?,
        "where" => {
            let condition = call.tensor(interpreter, 0, "condition")?;
            let a = interpreter.operand(call.required(1, "self")?)?;
            let b = interpreter.operand(call.required(2, "other")?)?;
            interpreter.choose(&condition, &a, &b)?
        }
        "masked_fill" => {
            let view = call.tensor(interpreter, 0, "self")?;
            let mask = call.tensor(interpreter, 1, "mask")?;
            let value = interpreter.operand(call.required(2, "value")?)?;
            let value = Operand { view: interpreter.cast(&value.view, view.dtype)?, literal: true };
            interpreter.choose(&mask, &value, &Operand { view, literal: false })?
        }
        "threshold" => {
            let view = call.tensor(interpreter, 0, "self")?;
            let threshold = interpreter.operand(call.required(1, "threshold")?)?;
            let value = interpreter.operand(call.required(2, "value")?)?;
            let own = Operand { view, literal: false };
            let above = interpreter.compare(CompareOp::Gt, &own, &threshold)?;
            interpreter.choose(&above, &own, &value)?
        }
        _ => return Ok(None),
    }))
}

fn clamp(
    interpreter: &mut Interpreter<'_, '_>,
    call: &Call,
    low: Option<&Value>,
    high: Option<&Value>,
) -> Step<View> {
    let view = call.tensor(interpreter, 0, "self")?;
    if low.is_none() && high.is_none() {
        return mismatch("clamp without a bound");
    }
    let literal = |bound: Option<&Value>| match bound {
        None => Some(None),
        Some(Value::Tensor(_)) => None,
        Some(value) => value.number().map(Some),
    };
    if let (Some(low), Some(high), DType::F32) = (literal(low), literal(high), view.dtype) {
        let low = low.map_or(f32::NEG_INFINITY, |low| low as f32);
        let high = high.map_or(f32::INFINITY, |high| high as f32);
        return interpreter.activation(Activation::HardTanh { low, high }, &view);
    }
    let mut bounded = Operand { view, literal: false };
    for (op, bound) in [(BinaryOp::Max, low), (BinaryOp::Min, high)] {
        if let Some(bound) = bound {
            let bound = interpreter.operand(bound)?;
            bounded = Operand { view: interpreter.binary(op, &bounded, &bound)?, literal: false };
        }
    }
    Ok(bounded.view)
}

/// The forms of `to`, and the shorthands for one type.
fn cast(interpreter: &mut Interpreter<'_, '_>, name: &str, call: &Call) -> Step<Option<Value>> {
    let own = |interpreter: &Interpreter<'_, '_>| call.tensor(interpreter, 0, "self");
    let dtype = match name {
        "to" => {
            // `to(x, dtype, …)`, `to(x, device, dtype, …)` and `to(x, other, …)`.
            let mut wanted = None;
            if let Some(value) = call.present(usize::MAX, "dtype") {
                wanted = Some(super::dtype(super::int(interpreter, value)?)?);
            }
            for value in call.positional.iter().skip(1).take(2) {
                match value {
                    Value::Int(code) if wanted.is_none() => wanted = Some(super::dtype(*code)?),
                    Value::Tensor(id) if wanted.is_none() => wanted = Some(interpreter.view(*id)?.dtype),
                    _ => {}
                }
            }
            wanted
        }
        "type_as" => Some(call.tensor(interpreter, 1, "other")?.dtype),
        "_cast_Float" => Some(DType::F32),
        "_cast_Long" => Some(DType::I64),
        "_cast_Double" => Some(DType::F64),
        _ => return Ok(None),
    };
    let view = own(interpreter)?;
    match dtype {
        Some(dtype) if dtype != view.dtype => {
            let view = interpreter.cast(&view, dtype)?;
            interpreter.tensor(view).map(Some)
        }
        _ => Ok(call.positional.first().cloned()),
    }
}
