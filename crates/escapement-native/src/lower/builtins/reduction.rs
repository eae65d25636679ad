//! Operators that reduce axes, and operators that work along one: softmax, running sums.

use super::{Call, axis, ints};
use crate::ir::graph::{BinaryOp, Op, ReduceOp, View};
use crate::ir::tensor::DType;
use crate::kernels::Activation;
use crate::lower::interpreter::{Interpreter, Step, mismatch, unsupported};
use crate::lower::value::Value;

pub(super) fn call(interpreter: &mut Interpreter<'_, '_>, name: &str, call: &Call) -> Step<Option<Value>> {
    if matches!(name, "max" | "min") && call.present(1, "dim").is_some() {
        return extreme_along(interpreter, name, call).map(Some);
    }
    let view = match name {
        "sum" | "mean" | "prod" | "amax" | "amin" | "logsumexp" | "max" | "min" | "any" | "all" => {
            fold(interpreter, name, call)?
        }
        "argmax" | "argmin" => {
            let op = if name == "argmax" { ReduceOp::ArgMax } else { ReduceOp::ArgMin };
            let view = call.tensor(interpreter, 0, "self")?;
            let keep = call.flag(interpreter, 2, "keepdim", false)?;
            match call.present(1, "dim") {
                Some(dim) => {
                    let at = axis(super::int(interpreter, dim)?, view.rank())?;
                    let axes: Vec<usize> = if view.rank() == 0 { Vec::new() } else { vec![at] };
                    interpreter.reduce(op, &view, &axes, keep)?
                }
                None => {
                    let flat = interpreter.reshape(&view, &[view.len()])?;
                    interpreter.reduce(op, &flat, &[0], false)?
                }
            }
        }
        "norm" | "linalg_vector_norm" | "linalg_norm" | "frobenius_norm" => norm(interpreter, name, call)?,
        "var" | "std" => variance(interpreter, name, call)?,
        "softmax" | "_softmax" | "log_softmax" | "_log_softmax" => softmax(interpreter, name, call)?,
        "cumsum" => {
            let view = call.tensor(interpreter, 0, "self")?;
            let at = call.axis(interpreter, 1, "dim", view.rank(), None)?;
            if view.rank() == 0 {
                view
            } else {
                let view =
                    if view.dtype == DType::Bool { interpreter.cast(&view, DType::I64)? } else { view };
                let (rows, back) = interpreter.axis_last(&view, at)?;
                let dtype = rows.dtype;
                let shape = rows.shape.clone();
                interpreter.emit_one(Op::CumulativeSum, vec![rows], dtype, &shape)?.permuted(&back)
            }
        }
        _ => return Ok(None),
    };
    interpreter.tensor(view).map(Some)
}

/// The requested axes, or all axes.
fn axes(
    interpreter: &Interpreter<'_, '_>,
    call: &Call,
    position: usize,
    name: &str,
    rank: usize,
) -> Step<Vec<usize>> {
    let mut axes = match call.present(position, name) {
        None => Vec::new(),
        Some(dims) => {
            ints(interpreter, dims)?.into_iter().map(|dim| axis(dim, rank)).collect::<Step<Vec<_>>>()?
        }
    };
    axes.retain(|&at| at < rank);
    axes.sort_unstable();
    axes.dedup();
    // No axes, and an empty list of axes, both mean all.
    Ok(if axes.is_empty() { (0..rank).collect() } else { axes })
}

fn fold(interpreter: &mut Interpreter<'_, '_>, name: &str, call: &Call) -> Step<View> {
    let mut view = call.tensor(interpreter, 0, "self")?;
    // `sum(x, *, dtype)` and `sum(x, dim, keepdim, *, dtype)`: without axes, an integer at position 1 would
    // be a type.
    if let Some(dtype) = call.dtype(interpreter, 3, "dtype")? {
        view = interpreter.cast(&view, dtype)?;
    }
    let axes = axes(interpreter, call, 1, "dim", view.rank())?;
    let keep = call.flag(interpreter, 2, "keepdim", false)?;
    let op = match name {
        "sum" => ReduceOp::Sum,
        "mean" => ReduceOp::Mean,
        "prod" => ReduceOp::Prod,
        "max" | "amax" => ReduceOp::Max,
        "min" | "amin" => ReduceOp::Min,
        "any" => ReduceOp::Any,
        "all" => ReduceOp::All,
        _ => ReduceOp::LogSumExp,
    };
    interpreter.reduce(op, &view, &axes, keep)
}

/// `max(x, dim)`: the values and their positions.
fn extreme_along(interpreter: &mut Interpreter<'_, '_>, name: &str, call: &Call) -> Step<Value> {
    let view = call.tensor(interpreter, 0, "self")?;
    let at = call.axis(interpreter, 1, "dim", view.rank(), None)?;
    let keep = call.flag(interpreter, 2, "keepdim", false)?;
    let axes: Vec<usize> = if view.rank() == 0 { Vec::new() } else { vec![at] };
    let (value, place) = match name {
        "max" => (ReduceOp::Max, ReduceOp::ArgMax),
        _ => (ReduceOp::Min, ReduceOp::ArgMin),
    };
    let values = interpreter.reduce(value, &view, &axes, keep)?;
    let places = interpreter.reduce(place, &view, &axes, keep)?;
    let (values, places) = (interpreter.tensor(values)?, interpreter.tensor(places)?);
    Ok(Value::tuple([values, places])?)
}

fn norm(interpreter: &mut Interpreter<'_, '_>, name: &str, call: &Call) -> Step<View> {
    let view = call.tensor(interpreter, 0, "self")?;
    let (order, dims) = if name == "frobenius_norm" {
        (2.0, 1)
    } else {
        match call.present(1, "ord").or(call.present(1, "p")) {
            Some(Value::Str(_)) => (2.0, 2),
            Some(value) => (interpreter.scalar(value)?.number().unwrap_or(2.0), 2),
            None => (2.0, 2),
        }
    };
    let axes = axes(interpreter, call, dims, "dim", view.rank())?;
    if name == "linalg_norm" && axes.len() > 1 && call.present(1, "ord").is_some() {
        return unsupported("a matrix norm");
    }
    let keep = call.flag(interpreter, dims + 1, "keepdim", false)?;
    interpreter.reduce(ReduceOp::Norm(order), &view, &axes, keep)
}

fn variance(interpreter: &mut Interpreter<'_, '_>, name: &str, call: &Call) -> Step<View> {
    let view = call.tensor(interpreter, 0, "self")?;
    // `var(x, unbiased)`, `var(x, dim, unbiased, keepdim)` and `var(x, dim, *, correction, keepdim)`.
    let (axes, unbiased_at) = match call.present(1, "dim") {
        Some(Value::Bool(_)) => ((0..view.rank()).collect(), 1),
        _ => (axes(interpreter, call, 1, "dim", view.rank())?, 2),
    };
    let correction = match call.present(usize::MAX, "correction") {
        Some(value) => interpreter.scalar(value)?.number().unwrap_or(1.0),
        None => f64::from(u8::from(call.flag(interpreter, unbiased_at, "unbiased", true)?)),
    };
    let keep = call.flag(interpreter, 3, "keepdim", false)?;
    let variance = interpreter.reduce(ReduceOp::Variance(correction), &view, &axes, keep)?;
    if name == "std" { interpreter.activation(Activation::Sqrt, &variance) } else { Ok(variance) }
}

fn softmax(interpreter: &mut Interpreter<'_, '_>, name: &str, call: &Call) -> Step<View> {
    let mut view = call.tensor(interpreter, 0, "self")?;
    let at = call.axis(interpreter, 1, "dim", view.rank(), None)?;
    // `_softmax` takes a flag at the position where `softmax` takes a type.
    if !name.starts_with('_')
        && let Some(dtype) = call.dtype(interpreter, 2, "dtype")?
    {
        view = interpreter.cast(&view, dtype)?;
    }
    let log = name.ends_with("log_softmax");
    if view.rank() == 0 || view.len() == 0 {
        return mismatch("softmax of a single number");
    }
    if view.dtype == DType::F64 {
        return double_softmax(interpreter, &view, at, log);
    }
    let view = interpreter.cast(&view, DType::F32)?;
    let (rows, back) = interpreter.axis_last(&view, at)?;
    let shape = rows.shape.clone();
    Ok(interpreter.emit_one(Op::Softmax { log }, vec![rows], DType::F32, &shape)?.permuted(&back))
}

/// Computed in double precision as `x - ln Σ e^x`. The reduction computes the second term without overflow.
fn double_softmax(interpreter: &mut Interpreter<'_, '_>, view: &View, at: usize, log: bool) -> Step<View> {
    let total = interpreter.reduce(ReduceOp::LogSumExp, view, &[at], true)?;
    let logarithm = interpreter.two(BinaryOp::Sub, view, &total)?;
    if log { Ok(logarithm) } else { interpreter.activation(Activation::Exp, &logarithm) }
}
