//! Operators on numbers, strings and lists, and operators that ask a tensor for its shape or type. All are
//! decided here.

use std::rc::Rc;

use super::{Call, axis, int};
use crate::ir::tensor::{DType, Data};
use crate::lower::interpreter::{Interpreter, Step, mismatch, unsupported};
use crate::lower::value::Value;
use crate::refusal::Refusal;

pub(super) fn call(interpreter: &mut Interpreter<'_, '_>, name: &str, call: &Call) -> Step<Option<Value>> {
    if let Some(value) = question(interpreter, name, call)? {
        return Ok(Some(value));
    }
    if let Some(value) = conversion(interpreter, name, call)? {
        return Ok(Some(value));
    }
    if call.has_tensor() {
        return Ok(None);
    }
    if let Some(value) = container(interpreter, name, call)? {
        return Ok(Some(value));
    }
    arithmetic(name, call)
}

/// Questions about tensors and about the environment.
fn question(interpreter: &mut Interpreter<'_, '_>, name: &str, call: &Call) -> Step<Option<Value>> {
    Ok(Some(match name {
        "dim" => Value::Int(call.tensor(interpreter, 0, "self")?.rank() as i64),
        "numel" => Value::Int(call.tensor(interpreter, 0, "self")?.len() as i64),
        "size" => {
            let view = call.tensor(interpreter, 0, "self")?;
            match call.present(1, "dim") {
                Some(dim) => {
                    let axis = axis(int(interpreter, dim)?, view.rank())?;
                    match view.shape.get(axis) {
                        Some(&size) => Value::Int(size as i64),
                        None => return mismatch("the size of a tensor without dimensions"),
                    }
                }
                None => {
                    interpreter.room(view.rank())?;
                    let sizes: Vec<Value> = view.shape.iter().map(|&size| Value::Int(size as i64)).collect();
                    Value::tuple(sizes)?
                }
            }
        }
        "dtype" => Value::Int(call.tensor(interpreter, 0, "self")?.dtype.code()),
        "device" => Value::Str("cpu".into()),
        "layout" => Value::None,
        "is_cuda" | "is_grad_enabled" | "is_complex" | "requires_grad" => Value::Bool(false),
        "is_floating_point" => Value::Bool(call.tensor(interpreter, 0, "self")?.dtype.is_float()),
        "RaiseException" => {
            let message = match call.positional.first() {
                Some(Value::Str(message)) => message.to_string(),
                _ => "an exception".to_owned(),
            };
            return Err(Refusal::shape(format!("forward raises at these shapes: {message}")).into());
        }
        "warn" => Value::None,
        "append" => {
            let [Value::List(list), value] = &*call.positional else {
                return unsupported("appends to a value that is not a local list");
            };
            interpreter.room(1)?;
            if !list.append(value) {
                return unsupported("appends a list to a list");
            }
            Value::List(list.clone())
        }
        "__is__" | "__isnot__" => {
            let [a, b] = &*call.positional else { return Ok(None) };
            if !a.is_none() && !b.is_none() {
                return unsupported("identity of two values");
            }
            Value::Bool((a.is_none() && b.is_none()) == (name == "__is__"))
        }
        _ => return Ok(None),
    }))
}

/// Conversions between numbers and tensors without dimensions.
fn conversion(interpreter: &mut Interpreter<'_, '_>, name: &str, call: &Call) -> Step<Option<Value>> {
    let [value, ..] = &*call.positional else { return Ok(None) };
    Ok(Some(match name {
        "int" | "Int" | "IntImplicit" => match interpreter.scalar(value)? {
            Value::Str(text) => match short(&text)?.parse() {
                Ok(value) => Value::Int(value),
                Err(_) => return mismatch("a string that is not an integer"),
            },
            scalar => match scalar.number() {
                Some(number) => match scalar {
                    Value::Int(value) => Value::Int(value),
                    _ => Value::Int(number as i64),
                },
                None => return mismatch(format!("int of a {}", scalar.kind())),
            },
        },
        "float" | "Float" | "FloatImplicit" => match interpreter.scalar(value)? {
            Value::Str(text) => match short(&text)?.parse() {
                Ok(value) => Value::Float(value),
                Err(_) => return mismatch("a string that is not a number"),
            },
            scalar => match scalar.number() {
                Some(number) => Value::Float(number),
                None => return mismatch(format!("float of a {}", scalar.kind())),
            },
        },
        "bool" | "Bool" => Value::Bool(interpreter.truth(value)?),
        "ScalarImplicit" | "item" => interpreter.scalar(value)?,
        "NumToTensor" | "scalar_tensor" | "tensor" | "as_tensor" => {
            let asked = call.dtype(interpreter, 1, "dtype")?;
            return tensor_of(interpreter, value, asked).map(Some);
        }
        "unchecked_unwrap_optional" | "_unwrap_optional" => value.clone(),
        _ => return Ok(None),
    }))
}

/// A constant tensor from numbers that are nested in its shape.
fn tensor_of(interpreter: &mut Interpreter<'_, '_>, value: &Value, asked: Option<DType>) -> Step<Value> {
    fn flatten(
        interpreter: &Interpreter<'_, '_>,
        value: &Value,
        depth: usize,
        numbers: &mut Vec<Value>,
        shape: &mut Vec<usize>,
    ) -> Step<()> {
        let Some(members) = value.members() else {
            numbers.push(value.clone());
            return if shape.len() == depth { Ok(()) } else { mismatch("a tensor of uneven lists") };
        };
        if shape.len() == depth {
            shape.push(members.len());
        }
        if depth >= 8 || shape.get(depth) != Some(&members.len()) || numbers.len() > 1 << 16 {
            return mismatch("a tensor of uneven or too many lists");
        }
        interpreter.room(members.len())?;
        members.iter().try_for_each(|member| flatten(interpreter, member, depth + 1, numbers, shape))
    }
    if let Value::Tensor(id) = value {
        let view = interpreter.view(*id)?;
        let view = interpreter.cast(&view, asked.unwrap_or(view.dtype))?;
        return interpreter.tensor(view);
    }
    let (mut numbers, mut shape) = (Vec::new(), Vec::new());
    flatten(interpreter, value, 0, &mut numbers, &mut shape)?;
    interpreter.charge(numbers.len())?;
    let own = match numbers.first() {
        Some(Value::Int(_)) => DType::I64,
        Some(Value::Bool(_)) => DType::Bool,
        _ => DType::F32,
    };
    let dtype = asked.unwrap_or(own);
    interpreter.meter.bytes(numbers.len().saturating_mul(dtype.size()))?;
    let mut data = Data::filled(dtype, numbers.len(), 0.0);
    for (position, number) in numbers.iter().enumerate() {
        let Some(number_value) = number.number() else {
            return unsupported(format!("a tensor made of a {}", number.kind()));
        };
        match (&mut data, number) {
            (Data::I64(values), Value::Int(value)) => values[position] = *value,
            (Data::I64(values), _) => values[position] = number_value as i64,
            (Data::F32(values), _) => values[position] = number_value as f32,
            (Data::F64(values), _) => values[position] = number_value,
            (Data::Bool(values), _) => values[position] = number_value != 0.0,
        }
    }
    let view = interpreter.graph.constant(Rc::new(data), &shape, false)?;
    interpreter.tensor(view)
}

/// Returns a string that may be a number. Fails if it is too long to be one.
fn short(text: &str) -> Step<&str> {
    if text.len() > 64 { mismatch("a string that is not a number") } else { Ok(text) }
}

fn container(interpreter: &mut Interpreter<'_, '_>, name: &str, call: &Call) -> Step<Option<Value>> {
    let mut fuel = 1 << 16;
    Ok(Some(match (name, &*call.positional) {
        ("len", [container]) => match container {
            Value::Str(text) => {
                interpreter.meter.work(text.len())?;
                Value::Int(text.chars().count() as i64)
            }
            _ => match container.members() {
                Some(members) => Value::Int(members.len() as i64),
                None => return mismatch(format!("len of a {}", container.kind())),
            },
        },
        ("list", [container]) => match container.members() {
            Some(members) => Value::list(interpreter.copied(&members)?)?,
            None => return Ok(None),
        },
        ("__getitem__", [container, index]) => {
            let (Some(members), Value::Int(index)) = (container.members(), index) else { return Ok(None) };
            let position = axis(*index, members.len())?;
            match members.get(position) {
                Some(member) => member.clone(),
                None => return mismatch("an index into an empty list"),
            }
        }
        ("__contains__", [container, value]) => {
            let Some(members) = container.members() else { return Ok(None) };
            let mut found = false;
            for member in members.iter() {
                found |= member.equals(value, &mut fuel, &interpreter.meter)? == Some(true);
                if found {
                    break;
                }
                if fuel == 0 {
                    return unsupported("looks for a value in a container that is too large");
                }
            }
            Value::Bool(found)
        }
        ("eq" | "ne", [a, b]) => match a.equals(b, &mut fuel, &interpreter.meter)? {
            Some(equal) => Value::Bool(equal == (name == "eq")),
            None => return unsupported(format!("compares a {} with a {}", a.kind(), b.kind())),
        },
        ("range", [Value::Int(end)]) => range(interpreter, 0, *end, 1)?,
        ("range", [Value::Int(start), Value::Int(end)]) => range(interpreter, *start, *end, 1)?,
        ("range", [Value::Int(start), Value::Int(end), Value::Int(step)]) => {
            range(interpreter, *start, *end, *step)?
        }
        ("__range_length", [Value::Int(start), Value::Int(end), Value::Int(step)]) => {
            Value::Int(i64::try_from(range_length(*start, *end, *step)?).unwrap_or(i64::MAX))
        }
        ("format", [Value::Str(template), values @ ..]) => format(interpreter, template, values)?,
        ("str", [value]) => Value::Str(described(value).into()),
        ("device", _) => Value::Str("cpu".into()),
        ("add", [a, b]) => match (a.members(), b.members()) {
            (Some(a), Some(b)) => {
                let count = a.len() + b.len();
                interpreter.charge(count)?;
                interpreter.room(count)?;
                Value::list([&*a, &*b].concat())?
            }
            _ => return Ok(None),
        },
        _ => return Ok(None),
    }))
}

/// The number of members of a range.
fn range_length(start: i64, end: i64, step: i64) -> Step<u64> {
    let distance =
        if step < 0 { i128::from(start) - i128::from(end) } else { i128::from(end) - i128::from(start) };
    match u64::try_from(distance.max(0)) {
        _ if step == 0 => mismatch("a range whose step is 0"),
        Ok(distance) => Ok(distance.div_ceil(step.unsigned_abs())),
        Err(_) => mismatch("a range that is too long"),
    }
}

fn range(interpreter: &mut Interpreter<'_, '_>, start: i64, end: i64, step: i64) -> Step<Value> {
    let length = usize::try_from(range_length(start, end, step)?).unwrap_or(usize::MAX);
    interpreter.charge(length)?;
    interpreter.room(length)?;
    // Each member is below `end`, so nothing overflows.
    Value::list((0..length as i64).map(|at| Value::Int(start + at * step)).collect()).map_err(Into::into)
}

/// The most characters that a value has in the text of a message.
const SHOWN: usize = 200;

/// Python's `str.format` with plain `{}` placeholders, for the messages of exceptions.
fn format(interpreter: &Interpreter<'_, '_>, template: &str, values: &[Value]) -> Step<Value> {
    // A character has at most four bytes, and a string grows by doubling.
    let most = template.len().saturating_add(values.len().saturating_mul(4 * SHOWN));
    interpreter.meter.work(most)?;
    interpreter.meter.bytes(most.saturating_mul(3))?;
    let mut values = values.iter();
    let mut text = String::new();
    for (index, part) in template.split("{}").enumerate() {
        if index > 0 {
            match values.next() {
                Some(value) => text.push_str(&described(value)),
                None => text.push_str("{}"),
            }
        }
        text.push_str(part);
    }
    Ok(Value::Str(text.into()))
}

/// A value as a short text.
fn described(value: &Value) -> String {
    let mut text = String::new();
    describe(value, 0, &mut text);
    text.chars().take(SHOWN).collect()
}

fn describe(value: &Value, depth: usize, text: &mut String) {
    match value {
        Value::Int(value) => text.push_str(&value.to_string()),
        Value::Float(value) => text.push_str(&value.to_string()),
        Value::Bool(value) => text.push_str(&value.to_string()),
        Value::Str(part) => text.extend(part.chars().take(SHOWN)),
        _ => match value.members() {
            Some(members) if depth < 2 => {
                text.push('[');
                for (at, member) in members.iter().take(8).enumerate() {
                    text.push_str(if at > 0 { ", " } else { "" });
                    describe(member, depth + 1, text);
                }
                text.push(']');
            }
            _ => text.push_str(value.kind()),
        },
    }
}

fn arithmetic(name: &str, call: &Call) -> Step<Option<Value>> {
    let values: Option<Vec<f64>> = call.positional.iter().map(Value::number).collect();
    let Some(values) = values else { return Ok(None) };
    let integers: Option<Vec<i64>> = call
        .positional
        .iter()
        .map(|value| match value {
            Value::Int(value) => Some(*value),
            Value::Bool(value) => Some(i64::from(*value)),
            _ => None,
        })
        .collect();
    if let Some(value) = integers.and_then(|integers| integer(name, &integers)) {
        return Ok(Some(value));
    }
    Ok(Some(match (name, &*values) {
        ("add", [a, b]) => Value::Float(a + b),
        ("sub", [a, b]) => Value::Float(a - b),
        ("mul", [a, b]) => Value::Float(a * b),
        ("div", [a, b]) => Value::Float(a / b),
        ("floordiv", [a, b]) => Value::Float((a / b).floor()),
        ("pow", [a, b]) => Value::Float(a.powf(*b)),
        ("neg", [a]) => Value::Float(-a),
        ("abs", [a]) => Value::Float(a.abs()),
        ("sqrt", [a]) => Value::Float(a.sqrt()),
        ("exp", [a]) => Value::Float(a.exp()),
        ("log", [a]) => Value::Float(a.ln()),
        ("floor", [a]) => Value::Int(a.floor() as i64),
        ("ceil", [a]) => Value::Int(a.ceil() as i64),
        ("min", [a, b]) => Value::Float(a.min(*b)),
        ("max", [a, b]) => Value::Float(a.max(*b)),
        ("lt", [a, b]) => Value::Bool(a < b),
        ("le", [a, b]) => Value::Bool(a <= b),
        ("gt", [a, b]) => Value::Bool(a > b),
        ("ge", [a, b]) => Value::Bool(a >= b),
        ("__not__", [a]) => Value::Bool(*a == 0.0),
        _ => return Ok(None),
    }))
}

/// The same between integers, if the result is an integer. Returns `None` to continue with floats.
fn integer(name: &str, values: &[i64]) -> Option<Value> {
    Some(match (name, values) {
        ("add", [a, b]) => Value::Int(a.checked_add(*b)?),
        ("sub", [a, b]) => Value::Int(a.checked_sub(*b)?),
        ("mul", [a, b]) => Value::Int(a.checked_mul(*b)?),
        ("floordiv", [a, b]) => {
            let quotient = a.checked_div(*b)?;
            Value::Int(if a % b != 0 && (*a < 0) != (*b < 0) { quotient - 1 } else { quotient })
        }
        ("remainder", [a, b]) => {
            let rest = a.checked_rem(*b)?;
            Value::Int(if rest != 0 && (rest < 0) != (*b < 0) { rest + b } else { rest })
        }
        ("neg", [a]) => Value::Int(a.checked_neg()?),
        ("abs", [a]) => Value::Int(a.checked_abs()?),
        ("min", [a, b]) => Value::Int(*a.min(b)),
        ("max", [a, b]) => Value::Int(*a.max(b)),
        ("__and__", [a, b]) => Value::Bool(*a != 0 && *b != 0),
        ("__or__", [a, b]) => Value::Bool(*a != 0 || *b != 0),
        _ => return None,
    })
}
