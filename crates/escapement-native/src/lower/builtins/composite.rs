//! Operators that are made of a few others. A kernel of their own would not make them faster.

use super::movement::bounded;
use super::{Call, size};
use crate::ir::graph::{BinaryOp, CompareOp, ReduceOp, View};
use crate::ir::tensor::DType;
use crate::kernels::Activation;
use crate::lower::emit::Operand;
use crate::lower::interpreter::{Interpreter, Step, mismatch};
use crate::lower::value::Value;

pub(super) fn call(interpreter: &mut Interpreter<'_, '_>, name: &str, call: &Call) -> Step<Option<Value>> {
    let view = match name {
        "log_sigmoid" | "logsigmoid" => {
            // ln sigmoid(x) = -softplus(-x)
            let view = call.tensor(interpreter, 0, "self")?;
            let negative = interpreter.activation(Activation::Neg, &view)?;
            let soft = Activation::Softplus { beta: 1.0, threshold: 1e30 };
            let soft = interpreter.activation(soft, &negative)?;
            interpreter.activation(Activation::Neg, &soft)?
        }
        "softshrink" => {
            // The rest after clamping to the threshold. NaN stays NaN.
            let view = call.tensor(interpreter, 0, "self")?;
            let high = call.float(interpreter, 1, "lambd", Some(0.5))? as f32;
            let clamped = interpreter.activation(Activation::HardTanh { low: -high, high }, &view)?;
            interpreter.two(BinaryOp::Sub, &view, &clamped)?
        }
        "hardshrink" => {
            let view = call.tensor(interpreter, 0, "self")?;
            let threshold = call.float(interpreter, 1, "lambd", Some(0.5))?;
            let size = interpreter.activation(Activation::Abs, &view)?;
            let (size, own) = (tensor(size), tensor(view));
            let threshold = number(interpreter, threshold)?;
            let small = interpreter.compare(CompareOp::Le, &size, &threshold)?;
            let zero = number(interpreter, 0.0)?;
            interpreter.choose(&small, &zero, &own)?
        }
        "prelu" => {
            let view = call.tensor(interpreter, 0, "self")?;
            let slope = channels(interpreter, &view, &call.tensor(interpreter, 1, "weight")?)?;
            let own = tensor(view.clone());
            let below = interpreter.two(BinaryOp::Mul, &view, &slope)?;
            let zero = number(interpreter, 0.0)?;
            let above = interpreter.compare(CompareOp::Gt, &own, &zero)?;
            interpreter.choose(&above, &own, &tensor(below))?
        }
        "glu" => {
            let view = call.tensor(interpreter, 0, "self")?;
            let at = call.axis(interpreter, 1, "dim", view.rank(), Some(-1))?;
            match view.shape.get(at) {
                Some(&size) if size.is_multiple_of(2) => {
                    let half = size / 2;
                    let gate = view.narrowed(at, half, 1, half);
                    let gate = interpreter.activation(Activation::Sigmoid, &gate)?;
                    interpreter.two(BinaryOp::Mul, &view.narrowed(at, 0, 1, half), &gate)?
                }
                _ => return mismatch(format!("glu cannot halve this axis of {:?}", view.shape)),
            }
        }
        "rms_norm" => rms_norm(interpreter, call)?,
        _ => return Ok(None),
    };
    interpreter.tensor(view).map(Some)
}

fn tensor(view: View) -> Operand {
    Operand { view, literal: false }
}

fn number(interpreter: &mut Interpreter<'_, '_>, value: f64) -> Step<Operand> {
    Ok(Operand { view: interpreter.number(DType::F64, value)?, literal: true })
}

/// Returns `values` along the channel axis of `view`. There is one value, or one per channel.
fn channels(interpreter: &mut Interpreter<'_, '_>, view: &View, values: &View) -> Step<View> {
    let mut shape = vec![1; view.rank()];
    if values.len() != 1 {
        match (shape.get_mut(1), view.shape.get(1)) {
            (Some(at), Some(&count)) if count == values.len() => *at = count,
            _ => {
                return mismatch(format!(
                    "{} values do not fit the channels of {:?}",
                    values.len(),
                    view.shape
                ));
            }
        }
    }
    interpreter.reshape(values, &shape)
}

/// Zhang and Sennrich (2019): `x / √(mean x² + ε) · w`.
fn rms_norm(interpreter: &mut Interpreter<'_, '_>, call: &Call) -> Step<View> {
    let input = call.tensor(interpreter, 0, "input")?;
    let over = call.ints(interpreter, 1, "normalized_shape")?.len();
    let weight = call.optional_tensor(interpreter, 2, "weight")?;
    if input.dtype != DType::F32 || over == 0 || over > input.rank() {
        return mismatch(format!("{:?} cannot be normalised over {over} axes", input.shape));
    }
    let epsilon = call.float(interpreter, 3, "eps", Some(f64::from(f32::EPSILON)))?;
    let axes: Vec<usize> = (input.rank() - over..input.rank()).collect();
    let square = interpreter.activation(Activation::Square, &input)?;
    let mean = interpreter.reduce(ReduceOp::Mean, &square, &axes, true)?;
    let mean = interpreter.with_number(BinaryOp::Add, &mean, epsilon)?;
    let factor = interpreter.activation(Activation::Rsqrt, &mean)?;
    let result = interpreter.two(BinaryOp::Mul, &input, &factor)?;
    match weight {
        Some(weight) => interpreter.two(BinaryOp::Mul, &result, &weight),
        None => Ok(result),
    }
}

/// Repeats a view along each axis: inserts an axis of stride zero before it, then merges both.
pub(super) fn repeat(interpreter: &mut Interpreter<'_, '_>, view: View, repeats: &[i64]) -> Step<View> {
    let mut view = view;
    if repeats.len() < view.rank() || repeats.len() > 16 {
        return mismatch("repeat needs a count for every axis");
    }
    while view.rank() < repeats.len() {
        view = view.unsqueezed(0);
    }
    let (mut shape, mut strides, mut merged) = (Vec::new(), Vec::new(), Vec::new());
    for (at, &repeat) in repeats.iter().enumerate() {
        let repeat = size(repeat)?;
        shape.extend([repeat, view.shape[at]]);
        strides.extend([0, view.strides[at]]);
        merged.push(repeat.saturating_mul(view.shape[at]));
    }
    bounded(interpreter, &merged)?;
    let tiled = View { shape, strides, ..view };
    interpreter.reshape(&tiled, &merged)
}
