//! The operators that `forward` may call, by their TorchScript names.

mod composite;
mod movement;
mod network;
mod pointwise;
mod recurrent;
mod reduction;
mod scalar;

use std::rc::Rc;

use super::interpreter::{Interpreter, Step, Stop, mismatch, unsupported};
use super::value::Value;
use crate::ir::graph::{MAX_RANK, View};
use crate::ir::tensor::DType;
use crate::refusal::Refusal;

/// Calls the operator at `path` (`torch.tanh`, `ops.prim.NumToTensor`, `int`).
pub(super) fn call(
    interpreter: &mut Interpreter<'_, '_>,
    path: &str,
    positional: Vec<Value>,
    keyword: Vec<(Rc<str>, Value)>,
) -> Step<Value> {
    let name = ["torch.", "ops.prim.", "ops.aten.", "prim."]
        .iter()
        .find_map(|prefix| path.strip_prefix(prefix))
        .unwrap_or(path);
    // A recurrent layer may imply the shape of its argument. Every other operator needs the shape first.
    if !matches!(name, "lstm" | "gru" | "lstm_cell" | "gru_cell") {
        for value in positional.iter().chain(keyword.iter().map(|(_, value)| value)) {
            if let Some(input) = value.unshaped() {
                return Err(Stop::NeedsShape { input, suggestion: None });
            }
        }
    }
    let call = Call { positional, keyword };
    if let Some(target) = in_place_target(name) {
        return in_place(interpreter, target, &call);
    }
    match dispatch(interpreter, name, &call)? {
        Some(value) => Ok(value),
        None => unsupported("not an operator that runs natively"),
    }
}

fn dispatch(interpreter: &mut Interpreter<'_, '_>, name: &str, call: &Call) -> Step<Option<Value>> {
    if let Some(value) = scalar::call(interpreter, name, call)? {
        return Ok(Some(value));
    }
    if let Some(value) = pointwise::call(interpreter, name, call)? {
        return Ok(Some(value));
    }
    if let Some(value) = composite::call(interpreter, name, call)? {
        return Ok(Some(value));
    }
    if let Some(value) = movement::call(interpreter, name, call)? {
        return Ok(Some(value));
    }
    if let Some(value) = reduction::call(interpreter, name, call)? {
        return Ok(Some(value));
    }
    if let Some(value) = recurrent::call(interpreter, name, call)? {
        return Ok(Some(value));
    }
    network::call(interpreter, name, call)
}

/// The operator that `name` applies in place: `relu` for `relu_`. `__not__` is not in place.
fn in_place_target(name: &str) -> Option<&str> {
    name.strip_suffix('_').filter(|target| !target.ends_with('_') && *target != "requires_grad")
}

fn in_place(interpreter: &mut Interpreter<'_, '_>, target: &str, call: &Call) -> Step<Value> {
    let Some(Value::Tensor(id)) = call.positional.first() else {
        return unsupported("writes in place to something other than a tensor");
    };
    let old = interpreter.view(*id)?;
    let result = match target {
        "copy" => {
            let source = call.tensor(interpreter, 1, "src")?;
            interpreter.expand(&source, &old.shape)?
        }
        "zero" => interpreter.filled(old.dtype, &old.shape, 0.0)?,
        "fill" => {
            let value = call.float(interpreter, 1, "value", None)?;
            interpreter.filled(old.dtype, &old.shape, value)?
        }
        _ => match dispatch(interpreter, target, call)? {
            Some(Value::Tensor(result)) if result == *id => return Ok(Value::Tensor(*id)),
            // If the result had a separate tensor, that would have to follow every later operation in
            // place.
            Some(Value::Tensor(result)) => interpreter.take_last(result)?,
            _ => return unsupported("not an operator that runs natively"),
        },
    };
    let result = interpreter.cast(&result, old.dtype)?;
    interpreter.overwrite(*id, result)?;
    Ok(Value::Tensor(*id))
}

/// The arguments of one call.
pub(super) struct Call {
    positional: Vec<Value>,
    keyword: Vec<(Rc<str>, Value)>,
}

impl Call {
    /// The argument at `position`, or the one named `name`.
    fn get(&self, position: usize, name: &str) -> Option<&Value> {
        self.positional
            .get(position)
            .or_else(|| self.keyword.iter().find(|(keyword, _)| **keyword == *name).map(|(_, value)| value))
    }

    /// The argument. `None` if it is absent or is Python's `None`.
    fn present(&self, position: usize, name: &str) -> Option<&Value> {
        self.get(position, name).filter(|value| !value.is_none())
    }

    fn required(&self, position: usize, name: &str) -> Step<&Value> {
        match self.present(position, name) {
            Some(value) => Ok(value),
            None => mismatch(format!("argument {name} is missing")),
        }
    }

    fn has_tensor(&self) -> bool {
        self.positional
            .iter()
            .chain(self.keyword.iter().map(|(_, value)| value))
            .any(|value| matches!(value, Value::Tensor(_) | Value::Unshaped(_)))
    }

    fn tensor(&self, interpreter: &Interpreter<'_, '_>, position: usize, name: &str) -> Step<View> {
        tensor(interpreter, self.required(position, name)?)
    }

    fn optional_tensor(
        &self,
        interpreter: &Interpreter<'_, '_>,
        position: usize,
        name: &str,
    ) -> Step<Option<View>> {
        self.present(position, name).map(|value| tensor(interpreter, value)).transpose()
    }

    fn tensors(&self, interpreter: &Interpreter<'_, '_>, position: usize, name: &str) -> Step<Vec<View>> {
        let Some(members) = self.required(position, name)?.members() else {
            return mismatch(format!("argument {name} is not a list of tensors"));
        };
        interpreter.meter.work(members.len())?;
        let mut views = Vec::new();
        for member in members.iter() {
            let view = tensor(interpreter, member)?;
            interpreter.meter.bytes(View::bytes(view.rank()))?;
            views.push(view);
        }
        Ok(views)
    }

    fn int(
        &self,
        interpreter: &Interpreter<'_, '_>,
        position: usize,
        name: &str,
        default: Option<i64>,
    ) -> Step<i64> {
        match (self.present(position, name), default) {
            (Some(value), _) => int(interpreter, value),
            (None, Some(default)) => Ok(default),
            (None, None) => mismatch(format!("argument {name} is missing")),
        }
    }

    fn float(
        &self,
        interpreter: &Interpreter<'_, '_>,
        position: usize,
        name: &str,
        default: Option<f64>,
    ) -> Step<f64> {
        match (self.present(position, name), default) {
            (Some(value), _) => match interpreter.scalar(value)?.number() {
                Some(number) => Ok(number),
                None => mismatch(format!("argument {name} is not a number")),
            },
            (None, Some(default)) => Ok(default),
            (None, None) => mismatch(format!("argument {name} is missing")),
        }
    }

    fn flag(
        &self,
        interpreter: &Interpreter<'_, '_>,
        position: usize,
        name: &str,
        default: bool,
    ) -> Step<bool> {
        match self.present(position, name) {
            Some(value) => interpreter.truth(value),
            None => Ok(default),
        }
    }

    /// One integer, or a list of integers: a shape, or axes of one.
    fn ints(&self, interpreter: &Interpreter<'_, '_>, position: usize, name: &str) -> Step<Vec<i64>> {
        let all = ints(interpreter, self.required(position, name)?)?;
        if all.len() > MAX_RANK {
            return unsupported(format!("{} axes, at most {MAX_RANK} are allowed", all.len()));
        }
        Ok(all)
    }

    /// The axis of `view` in the argument `name`.
    fn axis(
        &self,
        interpreter: &Interpreter<'_, '_>,
        position: usize,
        name: &str,
        rank: usize,
        default: Option<i64>,
    ) -> Step<usize> {
        axis(self.int(interpreter, position, name, default)?, rank)
    }

    /// The requested element type, if the call names one.
    fn dtype(&self, interpreter: &Interpreter<'_, '_>, position: usize, name: &str) -> Step<Option<DType>> {
        match self.present(position, name) {
            None => Ok(None),
            Some(value) => dtype(int(interpreter, value)?).map(Some),
        }
    }
}

fn tensor(interpreter: &Interpreter<'_, '_>, value: &Value) -> Step<View> {
    match value {
        Value::Tensor(id) => interpreter.view(*id),
        Value::Unshaped(input) => Err(Stop::NeedsShape { input: *input, suggestion: None }),
        other => mismatch(format!("a {} where a tensor is expected", other.kind())),
    }
}

fn int(interpreter: &Interpreter<'_, '_>, value: &Value) -> Step<i64> {
    match interpreter.scalar(value)? {
        Value::Int(value) => Ok(value),
        Value::Bool(value) => Ok(i64::from(value)),
        other => mismatch(format!("a {} where an integer is expected", other.kind())),
    }
}

fn ints(interpreter: &Interpreter<'_, '_>, value: &Value) -> Step<Vec<i64>> {
    match value.members() {
        Some(members) => {
            interpreter.room(members.len())?;
            members.iter().map(|member| int(interpreter, member)).collect()
        }
        None => Ok(vec![int(interpreter, value)?]),
    }
}

fn dtype(code: i64) -> Step<DType> {
    match DType::from_code(code) {
        Some(dtype) => Ok(dtype),
        None => unsupported(format!("element type {code} of c10/core/ScalarType.h")),
    }
}

/// Resolves an axis that may count from the end.
fn axis(axis: i64, rank: usize) -> Step<usize> {
    // A tensor without dimensions accepts 0 and -1, as in PyTorch.
    let range = rank.max(1) as i64;
    let positive = if axis < 0 { axis.saturating_add(range) } else { axis };
    match usize::try_from(positive) {
        Ok(found) if positive < range => Ok(found),
        _ => mismatch(format!("axis {axis} of a tensor with {rank} axes")),
    }
}

/// Converts a size from the source.
fn size(value: i64) -> Step<usize> {
    match usize::try_from(value) {
        Ok(size) => Ok(size),
        Err(_) => Err(Refusal::shape(format!("size {value} is negative")).into()),
    }
}
