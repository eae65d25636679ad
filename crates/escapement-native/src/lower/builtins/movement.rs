//! Operators that rearrange elements: shapes, slices, concatenation, indexing by constants, and the creation
//! of tensors.

use super::{Call, axis, ints, size};
use crate::ir::graph::{MAX_RANK, Op, Origin, View};
use crate::ir::tensor::{DType, Data, count};
use crate::lower::interpreter::{Interpreter, Step, mismatch, unsupported};
use crate::lower::value::Value;

pub(super) fn call(interpreter: &mut Interpreter<'_, '_>, name: &str, call: &Call) -> Step<Option<Value>> {
    if let Some(view) = reshape(interpreter, name, call)? {
        return interpreter.tensor(view).map(Some);
    }
    if let Some(view) = window(interpreter, name, call)? {
        return interpreter.tensor(view).map(Some);
    }
    if let Some(view) = join(interpreter, name, call)? {
        return interpreter.tensor(view).map(Some);
    }
    if let Some(view) = create(interpreter, name, call)? {
        return interpreter.tensor(view).map(Some);
    }
    parts(interpreter, name, call)
}

fn reshape(interpreter: &mut Interpreter<'_, '_>, name: &str, call: &Call) -> Step<Option<View>> {
    let own = |interpreter: &Interpreter<'_, '_>| call.tensor(interpreter, 0, "self");
    Ok(Some(match name {
        "view" | "reshape" | "_reshape_alias" | "_unsafe_view" => {
            let view = own(interpreter)?;
            let wanted = call.ints(interpreter, 1, if name == "reshape" { "shape" } else { "size" })?;
            let shape = infer(&wanted, view.len())?;
            interpreter.reshape(&view, &shape)?
        }
        "view_as" | "reshape_as" => {
            let view = own(interpreter)?;
            let shape = call.tensor(interpreter, 1, "other")?.shape;
            interpreter.reshape(&view, &shape)?
        }
        "flatten" => {
            let view = own(interpreter)?;
            if view.rank() == 0 {
                return interpreter.reshape(&view, &[1]).map(Some);
            }
            let start = call.axis(interpreter, 1, "start_dim", view.rank(), Some(0))?;
            let end = call.axis(interpreter, 2, "end_dim", view.rank(), Some(-1))?;
            if start > end {
                return mismatch("the first axis to flatten is after the last one");
            }
            let mut shape = view.shape[..start].to_vec();
            shape.push(view.shape[start..=end].iter().product());
            shape.extend(&view.shape[end + 1..]);
            interpreter.reshape(&view, &shape)?
        }
        "ravel" => {
            let view = own(interpreter)?;
            interpreter.reshape(&view, &[view.len()])?
        }
        "unflatten" => {
            let view = own(interpreter)?;
            let at = call.axis(interpreter, 1, "dim", view.rank(), None)?;
            let middle = infer(&call.ints(interpreter, 2, "sizes")?, view.shape[at])?;
            let mut shape = view.shape[..at].to_vec();
            shape.extend(middle);
            shape.extend(&view.shape[at + 1..]);
            interpreter.reshape(&view, &shape)?
        }
        "squeeze" => {
            let view = own(interpreter)?;
            let axes = match call.present(1, "dim") {
                None => (0..view.rank()).collect(),
                Some(_) => call
                    .ints(interpreter, 1, "dim")?
                    .into_iter()
                    .map(|dim| axis(dim, view.rank()))
                    .collect::<Step<Vec<_>>>()?,
            };
            let kept: Vec<usize> =
                (0..view.rank()).filter(|at| view.shape[*at] != 1 || !axes.contains(at)).collect();
            view.permuted(&kept)
        }
        "unsqueeze" => {
            let view = own(interpreter)?;
            if view.rank() >= MAX_RANK {
                return unsupported(format!("more than {MAX_RANK} axes"));
            }
            view.unsqueezed(call.axis(interpreter, 1, "dim", view.rank() + 1, None)?)
        }
        "transpose" | "swapaxes" => {
            let view = own(interpreter)?;
            let a = call.axis(interpreter, 1, "dim0", view.rank(), None)?;
            let b = call.axis(interpreter, 2, "dim1", view.rank(), None)?;
            let mut order: Vec<usize> = (0..view.rank()).collect();
            if view.rank() > 0 {
                order.swap(a, b);
            }
            view.permuted(&order)
        }
        "t" | "numpy_T" => {
            let view = own(interpreter)?;
            let order: Vec<usize> = (0..view.rank()).rev().collect();
            view.permuted(&order)
        }
        "permute" => {
            let view = own(interpreter)?;
            let order = call
                .ints(interpreter, 1, "dims")?
                .into_iter()
                .map(|dim| axis(dim, view.rank()))
                .collect::<Step<Vec<_>>>()?;
            let mut sorted = order.clone();
            sorted.sort_unstable();
            if sorted != (0..view.rank()).collect::<Vec<_>>() {
                return mismatch("permute needs every axis once");
            }
            view.permuted(&order)
        }
        "expand" => {
            let view = own(interpreter)?;
            let sizes = call.ints(interpreter, 1, "size")?;
            let missing = sizes.len().saturating_sub(view.rank());
            let mut shape = Vec::with_capacity(sizes.len());
            for (at, &wanted) in sizes.iter().enumerate() {
                shape.push(match (wanted, at.checked_sub(missing).and_then(|at| view.shape.get(at))) {
                    (-1, Some(&own)) => own,
                    (wanted, _) => size(wanted)?,
                });
            }
            bounded(interpreter, &shape)?;
            interpreter.expand(&view, &shape)?
        }
        "expand_as" => {
            let view = own(interpreter)?;
            let shape = call.tensor(interpreter, 1, "other")?.shape;
            interpreter.expand(&view, &shape)?
        }
        "repeat" | "tile" => {
            let view = own(interpreter)?;
            let repeats = call.ints(interpreter, 1, if name == "tile" { "dims" } else { "repeats" })?;
            super::composite::repeat(interpreter, view, &repeats)?
        }
        _ => return Ok(None),
    }))
}

/// Resolves a shape in which one size may be -1.
fn infer(wanted: &[i64], elements: usize) -> Step<Vec<usize>> {
    let known = wanted
        .iter()
        .filter(|&&wanted| wanted != -1)
        .map(|&wanted| size(wanted))
        .collect::<Step<Vec<_>>>()?;
    let product = count(&known);
    let unknown = wanted.len() - known.len();
    match (unknown, product) {
        (0, _) => Ok(known),
        (1, Some(product)) if product > 0 && elements.is_multiple_of(product) => wanted
            .iter()
            .map(|&wanted| if wanted == -1 { Ok(elements / product) } else { size(wanted) })
            .collect(),
        _ => mismatch(format!("{elements} elements do not fit shape {wanted:?}")),
    }
}

/// Checks that sizes do not overflow. Views may be larger than their root; only copies of them are counted
/// against a limit.
pub(super) fn bounded(interpreter: &Interpreter<'_, '_>, shape: &[usize]) -> Step<()> {
    match count(shape) {
        Some(elements) if elements <= interpreter.limits().elements => Ok(()),
        _ => mismatch(format!("shape {shape:?} is beyond {} elements", interpreter.limits().elements)),
    }
}

fn window(interpreter: &mut Interpreter<'_, '_>, name: &str, call: &Call) -> Step<Option<View>> {
    let own = |interpreter: &Interpreter<'_, '_>| call.tensor(interpreter, 0, "self");
    Ok(Some(match name {
        "select" => {
            let view = own(interpreter)?;
            let at = call.axis(interpreter, 1, "dim", view.rank(), None)?;
            let index = call.int(interpreter, 2, "index", None)?;
            select(&view, at, index)?
        }
        "slice" => {
            let view = own(interpreter)?;
            let at = call.axis(interpreter, 1, "dim", view.rank(), Some(0))?;
            let Some(&length) = view.shape.get(at) else { return mismatch("a slice of a number") };
            let clip = |value: i64| -> usize {
                let value = if value < 0 { value.saturating_add(length as i64) } else { value };
                value.clamp(0, length as i64) as usize
            };
            let start = clip(call.int(interpreter, 2, "start", Some(0))?);
            let end = clip(call.int(interpreter, 3, "end", Some(i64::MAX))?);
            let step = size(call.int(interpreter, 4, "step", Some(1))?)?;
            if step == 0 {
                return mismatch("a slice whose step is 0");
            }
            view.narrowed(at, start, step.min(length.max(1)), end.saturating_sub(start).div_ceil(step))
        }
        "narrow" => {
            let view = own(interpreter)?;
            let at = call.axis(interpreter, 1, "dim", view.rank(), None)?;
            let start = size(call.int(interpreter, 2, "start", None)?)?;
            let length = size(call.int(interpreter, 3, "length", None)?)?;
            if view.rank() == 0 || start.checked_add(length).is_none_or(|end| end > view.shape[at]) {
                return mismatch("narrow reaches beyond its axis");
            }
            view.narrowed(at, start, 1, length)
        }
        "index_select" => {
            let view = own(interpreter)?;
            let at = call.axis(interpreter, 1, "dim", view.rank(), None)?;
            let index = call.tensor(interpreter, 2, "index")?;
            let indices = constant_indices(interpreter, &index)?;
            pick(interpreter, &view, at, &indices)?
        }
        "index" => index(interpreter, call)?,
        "flip" => {
            let mut view = own(interpreter)?;
            for dim in call.ints(interpreter, 1, "dims")? {
                let at = axis(dim, view.rank())?;
                let length = view.shape.get(at).copied().unwrap_or(1);
                interpreter.meter.room::<i64>(length)?;
                let reversed: Vec<i64> = (0..length as i64).rev().collect();
                view = pick(interpreter, &view, at, &reversed)?;
            }
            view
        }
        _ => return Ok(None),
    }))
}

fn select(view: &View, at: usize, index: i64) -> Step<View> {
    match view.shape.get(at) {
        Some(&length) if length > 0 => Ok(view.selected(at, axis(index, length)?)),
        _ => mismatch("selects from an axis without elements"),
    }
}

fn constant_indices(interpreter: &Interpreter<'_, '_>, index: &View) -> Step<Vec<i64>> {
    interpreter.meter.room::<i64>(index.len())?;
    match interpreter.graph.constant_data(index)?.as_deref() {
        Some(Data::I64(indices)) => Ok(indices.clone()),
        Some(Data::Bool(mask)) if index.rank() == 1 => {
            Ok(mask.iter().enumerate().filter(|(_, chosen)| **chosen).map(|(at, _)| at as i64).collect())
        }
        Some(_) => mismatch("an index that does not hold integers"),
        None => unsupported("an index that is not constant"),
    }
}

/// The elements `indices` of axis `at`, side by side.
fn pick(interpreter: &mut Interpreter<'_, '_>, view: &View, at: usize, indices: &[i64]) -> Step<View> {
    interpreter.charge(indices.len())?;
    interpreter.meter.bytes(indices.len().saturating_mul(2 * View::bytes(view.rank() + 1)))?;
    let parts = indices
        .iter()
        .map(|&index| select(view, at, index).map(|part| part.unsqueezed(at)))
        .collect::<Step<Vec<_>>>()?;
    if parts.is_empty() {
        return Ok(view.narrowed(at, 0, 1, 0));
    }
    concat(interpreter, &parts, at)
}

/// `x[..., indices, ...]` with constant indices on one axis, or a runtime index on the first.
fn index(interpreter: &mut Interpreter<'_, '_>, call: &Call) -> Step<View> {
    let view = call.tensor(interpreter, 0, "self")?;
    let Some(members) = call.required(1, "indices")?.members() else {
        return mismatch("indices are not a list");
    };
    let mut chosen = None;
    interpreter.meter.work(members.len())?;
    for (at, member) in members.iter().enumerate() {
        match member {
            Value::None => {}
            Value::Tensor(_) if chosen.is_none() => chosen = Some((at, super::tensor(interpreter, member)?)),
            _ => return unsupported("indexes more than one axis by tensors"),
        }
    }
    let Some((at, index)) = chosen else { return Ok(view) };
    if at >= view.rank() {
        return mismatch("an index for an axis that does not exist");
    }
    if !interpreter.graph.is_constant(&index) {
        return super::network::lookup(interpreter, &view, at, &index);
    }
    let indices = constant_indices(interpreter, &index)?;
    let picked = pick(interpreter, &view, at, &indices)?;
    let mut shape = view.shape[..at].to_vec();
    // A mask selects as many elements as it has set. Integers keep the shape of the index.
    shape.extend(if index.dtype == DType::Bool { vec![indices.len()] } else { index.shape });
    shape.extend(&view.shape[at + 1..]);
    interpreter.reshape(&picked, &shape)
}

fn join(interpreter: &mut Interpreter<'_, '_>, name: &str, call: &Call) -> Step<Option<View>> {
    Ok(Some(match name {
        "cat" | "concat" | "concatenate" => {
            let views = call.tensors(interpreter, 0, "tensors")?;
            // A legacy rule: an empty vector joins with anything.
            let views: Vec<View> = views.into_iter().filter(|view| view.shape != [0]).collect();
            let Some(first) = views.first() else { return mismatch("cat needs at least one tensor") };
            let at = call.axis(interpreter, 1, "dim", first.rank(), Some(0))?;
            concat(interpreter, &views, at)?
        }
        "stack" => {
            let views = call.tensors(interpreter, 0, "tensors")?;
            let Some(first) = views.first() else { return mismatch("stack needs at least one tensor") };
            let at = call.axis(interpreter, 1, "dim", first.rank() + 1, Some(0))?;
            let shape = first.shape.clone();
            interpreter.meter.bytes(views.len().saturating_mul(View::bytes(first.rank() + 1)))?;
            if views.iter().any(|view| view.shape != shape) {
                return mismatch("stack of different shapes");
            }
            let views: Vec<View> = views.iter().map(|view| view.unsqueezed(at)).collect();
            concat(interpreter, &views, at)?
        }
        _ => return Ok(None),
    }))
}

fn concat(interpreter: &mut Interpreter<'_, '_>, views: &[View], at: usize) -> Step<View> {
    let Some(first) = views.first() else { return mismatch("a join needs at least one tensor") };
    if first.rank() == 0 {
        return mismatch("cat of numbers");
    }
    let dtype = views.iter().map(|view| view.dtype).fold(first.dtype, DType::promote);
    let mut shape = first.shape.clone();
    shape[at] = 0;
    let outer: usize = first.shape[..at].iter().product();
    interpreter.meter.work(views.len().saturating_mul(shape.len()))?;
    interpreter.meter.bytes(views.len().saturating_mul(2 * View::bytes(shape.len())))?;
    let mut parts = Vec::with_capacity(views.len());
    for view in views {
        let fits = view.rank() == shape.len()
            && view
                .shape
                .iter()
                .zip(&shape)
                .enumerate()
                .all(|(axis, (own, common))| axis == at || own == common);
        if !fits {
            return mismatch(format!("shapes {:?} and {:?} do not join along {at}", first.shape, view.shape));
        }
        shape[at] += view.shape[at];
        let view = interpreter.cast(view, dtype)?;
        let inner = view.shape[at..].iter().product();
        // Operands may stay strided: the copy into place rearranges them.
        parts.push(match view.reshaped(&[outer, inner]) {
            Some(view) => view,
            None => interpreter.reshape(&view, &[outer, inner])?,
        });
    }
    let inner: usize = shape[at..].iter().product();
    let joined = interpreter.emit_one(Op::Concat, parts, dtype, &[outer, inner])?;
    interpreter.reshape(&joined, &shape)
}

fn create(interpreter: &mut Interpreter<'_, '_>, name: &str, call: &Call) -> Step<Option<View>> {
    let (value, like) = match name {
        "zeros" | "new_zeros" => (0.0, false),
        "ones" | "new_ones" => (1.0, false),
        "zeros_like" => (0.0, true),
        "ones_like" => (1.0, true),
        "full" => (call.float(interpreter, 1, "fill_value", None)?, false),
        "new_full" => (call.float(interpreter, 2, "fill_value", None)?, false),
        "full_like" => (call.float(interpreter, 1, "fill_value", None)?, true),
        "arange" => return arange(interpreter, call).map(Some),
        _ => return Ok(None),
    };
    let dtype = call.dtype(interpreter, usize::MAX, "dtype")?;
    if like {
        let view = call.tensor(interpreter, 0, "self")?;
        return interpreter.filled(dtype.unwrap_or(view.dtype), &view.shape, value).map(Some);
    }
    let (position, own) = match call.positional.first() {
        Some(Value::Tensor(id)) => (1, interpreter.view(*id)?.dtype),
        _ => (0, DType::F32),
    };
    let shape =
        call.ints(interpreter, position, "size")?.into_iter().map(size).collect::<Step<Vec<usize>>>()?;
    bounded(interpreter, &shape)?;
    // The printer writes `dtype=` for these. Older files pass it by position.
    let by_position =
        if name == "zeros" || name == "ones" { call.dtype(interpreter, 1, "dtype")? } else { None };
    interpreter.filled(dtype.or(by_position).unwrap_or(own), &shape, value).map(Some)
}

fn arange(interpreter: &mut Interpreter<'_, '_>, call: &Call) -> Step<View> {
    let bounds: Vec<i64> = call
        .positional
        .iter()
        .take_while(|value| !value.is_none())
        .map(|value| super::int(interpreter, value))
        .collect::<Step<_>>()?;
    let (start, end) = match *bounds {
        [end] => (0, end),
        [start, end] => (start, end),
        _ => return unsupported("arange with a step"),
    };
    let length = end.checked_sub(start).map(|length| length.max(0) as usize);
    let Some(length) = length.filter(|&length| length <= 1 << 20) else {
        return mismatch("arange is too long");
    };
    interpreter.charge(length)?;
    interpreter.meter.room::<i64>(length)?;
    let dtype = call.dtype(interpreter, usize::MAX, "dtype")?.unwrap_or(DType::I64);
    let data = Data::I64((0..length as i64).map(|at| start + at).collect());
    let view = interpreter.graph.constant(std::rc::Rc::new(data), &[length], false)?;
    interpreter.cast(&view, dtype)
}

/// Operators that return several views of one tensor.
fn parts(interpreter: &mut Interpreter<'_, '_>, name: &str, call: &Call) -> Step<Option<Value>> {
    let mut sizes = Vec::new();
    let (view, at) = match name {
        "chunk" | "unsafe_chunk" => {
            let view = call.tensor(interpreter, 0, "self")?;
            let chunks = size(call.int(interpreter, 1, "chunks", None)?)?;
            let at = call.axis(interpreter, 2, "dim", view.rank(), Some(0))?;
            let length = *view.shape.get(at).unwrap_or(&0);
            if chunks == 0 || length == 0 {
                return mismatch("chunk needs a tensor with elements and at least one chunk");
            }
            let each = length.div_ceil(chunks);
            interpreter.charge(length / each)?;
            interpreter.room(length / each + 1)?;
            sizes = (0..length).step_by(each).map(|start| each.min(length - start)).collect();
            (view, at)
        }
        "split" | "unsafe_split" | "split_with_sizes" | "unsafe_split_with_sizes" => {
            let view = call.tensor(interpreter, 0, "self")?;
            let at = call.axis(interpreter, 2, "dim", view.rank(), Some(0))?;
            let length = *view.shape.get(at).unwrap_or(&0);
            match call.present(1, "split_size") {
                Some(value) if value.members().is_none() => {
                    let each = size(super::int(interpreter, value)?)?;
                    if each == 0 {
                        return mismatch("parts of no elements");
                    }
                    interpreter.charge(length / each)?;
                    interpreter.room(length / each + 1)?;
                    sizes = (0..length).step_by(each).map(|start| each.min(length - start)).collect();
                }
                Some(value) => {
                    for part in ints(interpreter, value)? {
                        sizes.push(size(part)?);
                    }
                    let total = sizes.iter().try_fold(0usize, |total, &part| total.checked_add(part));
                    if total != Some(length) {
                        return mismatch(format!("{} parts do not add up to {length}", sizes.len()));
                    }
                }
                None => return mismatch("argument split_size is missing"),
            }
            (view, at)
        }
        "unbind" => {
            let view = call.tensor(interpreter, 0, "self")?;
            let at = call.axis(interpreter, 1, "dim", view.rank(), Some(0))?;
            let length = *view.shape.get(at).unwrap_or(&0);
            interpreter.charge(length)?;
            interpreter.room(length)?;
            if view.rank() == 0 {
                return mismatch("unbind of a number");
            }
            let members: Step<Vec<Value>> =
                (0..length).map(|index| interpreter.tensor(view.selected(at, index))).collect();
            return Ok(Some(Value::list(members?)?));
        }
        _ => return Ok(None),
    };
    let mut start = 0;
    interpreter.room(sizes.len())?;
    let mut members = Vec::with_capacity(sizes.len());
    for part in sizes {
        members.push(interpreter.tensor(view.narrowed(at, start, 1, part))?);
        start += part;
    }
    debug_assert!(
        !matches!(interpreter.graph.roots[view.root].origin, Origin::Input(_)) || start <= view.len()
    );
    Ok(Some(Value::list(members)?))
}
