//! Layers: linear, convolution, normalisation, embedding.

use super::{Call, size};
use crate::ir::graph::{BinaryOp, ConvGeometry, Op, View};
use crate::ir::tensor::DType;
use crate::kernels::Activation;
use crate::lower::emit::Operand;
use crate::lower::interpreter::{Interpreter, Step, mismatch, unsupported};
use crate::lower::value::Value;

pub(super) fn call(interpreter: &mut Interpreter<'_, '_>, name: &str, call: &Call) -> Step<Option<Value>> {
    let view = match name {
        "linear" => {
            let input = call.tensor(interpreter, 0, "input")?;
            let weights = call.tensor(interpreter, 1, "weight")?;
            let bias = call.optional_tensor(interpreter, 2, "bias")?;
            linear(interpreter, &input, &weights, bias)?
        }
        "addmm" => addmm(interpreter, call)?,
        "matmul" | "mm" | "mv" | "bmm" | "dot" => {
            let a = call.tensor(interpreter, 0, "self")?;
            let b = call.tensor(interpreter, 1, "other")?;
            matmul(interpreter, &a, &b)?
        }
        "layer_norm" | "native_layer_norm" => layer_norm(interpreter, call)?,
        "batch_norm" | "native_batch_norm" => batch_norm(interpreter, call)?,
        "embedding" => {
            let table = call.tensor(interpreter, 0, "weight")?;
            let index = call.tensor(interpreter, 1, "indices")?;
            lookup(interpreter, &table, 0, &index)?
        }
        "conv1d" | "_convolution_mode" => match call.present(4, "padding") {
            Some(Value::Str(mode)) => convolution_by_mode(interpreter, call, &mode.clone())?,
            _ => {
                let geometry = geometry(interpreter, call, [3, 4, 5, 6])?;
                convolution(interpreter, call, geometry)?
            }
        },
        "_convolution" | "convolution" => {
            let transposed = call.flag(interpreter, 6, "transposed", false)?;
            if transposed {
                return unsupported("a transposed convolution");
            }
            let geometry = geometry(interpreter, call, [3, 4, 5, 8])?;
            convolution(interpreter, call, geometry)?
        }
        _ => return Ok(None),
    };
    interpreter.tensor(view).map(Some)
}

fn linear(
    interpreter: &mut Interpreter<'_, '_>,
    input: &View,
    weights: &View,
    bias: Option<View>,
) -> Step<View> {
    let (Some(&inputs), [outputs, columns]) = (input.shape.last(), &*weights.shape) else {
        return mismatch(format!("input {:?} does not fit weights {:?}", input.shape, weights.shape));
    };
    let (outputs, columns) = (*outputs, *columns);
    if inputs != columns {
        return mismatch(format!("{inputs} inputs do not fit weights for {columns}"));
    }
    let constant_bias = bias.as_ref().is_none_or(|bias| interpreter.graph.is_constant(bias));
    let usable = input.dtype == DType::F32 && weights.dtype == DType::F32;
    if !interpreter.graph.is_constant(weights) || !constant_bias || !usable {
        let product = matmul(interpreter, input, &weights.permuted(&[1, 0]))?;
        return match bias {
            Some(bias) => interpreter.two(BinaryOp::Add, &product, &bias),
            None => Ok(product),
        };
    }
    if bias.as_ref().is_some_and(|bias| bias.len() != outputs && bias.len() != 1) {
        return mismatch(format!(
            "a bias of {:?} does not fit {outputs} outputs",
            bias.map(|bias| bias.shape)
        ));
    }
    let bias = bias.map(|bias| interpreter.reshape(&bias, &[bias.len()])).transpose()?;
    let bias = bias.map(|bias| interpreter.expand(&bias, &[outputs])).transpose()?;
    let rows = input.len() / inputs.max(1);
    if inputs == 0 || outputs == 0 {
        return mismatch("a linear layer without inputs or outputs");
    }
    let limits = *interpreter.limits();
    interpreter.graph.charge_arithmetic(&[rows, inputs, outputs], &limits)?;
    let flat = interpreter.reshape(input, &[rows, inputs])?;
    let op = Op::Dense { weights: weights.clone(), bias, activation: Activation::Identity };
    let result = interpreter.emit_one(op, vec![flat], DType::F32, &[rows, outputs])?;
    let mut shape = input.shape.clone();
    if let Some(last) = shape.last_mut() {
        *last = outputs;
    }
    interpreter.reshape(&result, &shape)
}

fn addmm(interpreter: &mut Interpreter<'_, '_>, call: &Call) -> Step<View> {
    let bias = call.tensor(interpreter, 0, "self")?;
    let a = call.tensor(interpreter, 1, "mat1")?;
    let b = call.tensor(interpreter, 2, "mat2")?;
    let beta = call.float(interpreter, 3, "beta", Some(1.0))?;
    let alpha = call.float(interpreter, 4, "alpha", Some(1.0))?;
    let product = matmul(interpreter, &a, &b)?;
    let product =
        if alpha == 1.0 { product } else { interpreter.with_number(BinaryOp::Mul, &product, alpha)? };
    let bias = if beta == 1.0 { bias } else { interpreter.with_number(BinaryOp::Mul, &bias, beta)? };
    interpreter.two(BinaryOp::Add, &product, &bias)
}

/// Follows the rules of `torch.matmul`: vectors are rows or columns, and leading axes are batches.
fn matmul(interpreter: &mut Interpreter<'_, '_>, a: &View, b: &View) -> Step<View> {
    if a.rank() == 0 || b.rank() == 0 || a.dtype != b.dtype || !a.dtype.is_float() {
        return mismatch(format!(
            "{:?} {} and {:?} {} cannot be multiplied",
            a.shape, a.dtype, b.shape, b.dtype
        ));
    }
    if interpreter.graph.is_constant(b)
        && b.rank() <= 2
        && a.dtype == DType::F32
        && !interpreter.graph.is_constant(a)
    {
        let column = b.rank() == 1;
        let weights = if column { b.unsqueezed(0) } else { b.permuted(&[1, 0]) };
        let result = linear(interpreter, a, &weights, None)?;
        let shape = if column { result.shape[..result.rank() - 1].to_vec() } else { result.shape.clone() };
        return interpreter.reshape(&result, &shape);
    }
    let left = if a.rank() == 1 { a.unsqueezed(0) } else { a.clone() };
    let right = if b.rank() == 1 { b.unsqueezed(1) } else { b.clone() };
    let (m, k) = (left.shape[left.rank() - 2], left.shape[left.rank() - 1]);
    let (k_right, n) = (right.shape[right.rank() - 2], right.shape[right.rank() - 1]);
    if k != k_right {
        return mismatch(format!("{:?} and {:?} cannot be multiplied", a.shape, b.shape));
    }
    let batch_of = |view: &View| {
        let shape = view.shape[..view.rank() - 2].to_vec();
        let strides = view.strides[..view.rank() - 2].to_vec();
        Operand { view: View { shape, strides, ..view.clone() }, literal: false }
    };
    let batch = Interpreter::broadcast_shape(&[&batch_of(&left), &batch_of(&right)])?;
    let count: usize = batch.iter().product();
    let limits = *interpreter.limits();
    interpreter.graph.charge_arithmetic(&[count, m, k, n], &limits)?;
    let full = |rows, columns| batch.iter().copied().chain([rows, columns]).collect::<Vec<_>>();
    let left = interpreter.expand(&left, &full(m, k))?;
    let right = interpreter.expand(&right, &full(k, n))?;
    let left = interpreter.reshape(&left, &[count, m, k])?;
    let right = interpreter.reshape(&right, &[count, k, n])?;
    let dtype = left.dtype;
    let result = interpreter.emit_one(Op::MatMul, vec![left, right], dtype, &[count, m, n])?;
    let mut shape = batch;
    if a.rank() > 1 {
        shape.push(m);
    }
    if b.rank() > 1 {
        shape.push(n);
    }
    interpreter.reshape(&result, &shape)
}

fn layer_norm(interpreter: &mut Interpreter<'_, '_>, call: &Call) -> Step<View> {
    let input = call.tensor(interpreter, 0, "input")?;
    let over: Vec<usize> =
        call.ints(interpreter, 1, "normalized_shape")?.into_iter().map(size).collect::<Step<_>>()?;
    let weight = call.optional_tensor(interpreter, 2, "weight")?;
    let bias = call.optional_tensor(interpreter, 3, "bias")?;
    let epsilon = call.float(interpreter, 4, "eps", Some(1e-5))?;
    if over.is_empty() || !input.shape.ends_with(&over) || input.dtype != DType::F32 || input.len() == 0 {
        return mismatch(format!("{:?} cannot be normalised over {over:?}", input.shape));
    }
    let width: usize = over.iter().product();
    let rows = input.len() / width;
    let mut parameters = Vec::new();
    for parameter in [weight, bias] {
        parameters.push(match parameter {
            None => None,
            Some(view) if view.len() == width && view.dtype == DType::F32 => {
                if !interpreter.graph.is_constant(&view) {
                    return unsupported("parameters that are computed");
                }
                Some(interpreter.reshape(&view, &[width])?)
            }
            Some(view) => {
                return mismatch(format!("a parameter of shape {:?} does not fit {over:?}", view.shape));
            }
        });
    }
    let (bias, weight) = (parameters.pop().flatten(), parameters.pop().flatten());
    let flat = interpreter.reshape(&input, &[rows, width])?;
    let op = Op::LayerNorm { weight, bias, epsilon };
    let result = interpreter.emit_one(op, vec![flat], DType::F32, &[rows, width])?;
    interpreter.reshape(&result, &input.shape)
}

/// In evaluation, this is one multiplication and one addition per element, with factors that are known here.
fn batch_norm(interpreter: &mut Interpreter<'_, '_>, call: &Call) -> Step<View> {
    let input = call.tensor(interpreter, 0, "input")?;
    let weight = call.optional_tensor(interpreter, 1, "weight")?;
    let bias = call.optional_tensor(interpreter, 2, "bias")?;
    let mean = call.optional_tensor(interpreter, 3, "running_mean")?;
    let variance = call.optional_tensor(interpreter, 4, "running_var")?;
    if call.flag(interpreter, 5, "training", false)? {
        return unsupported("batch_norm in training mode: call eval() before exporting");
    }
    let epsilon = call.float(interpreter, 7, "eps", Some(1e-5))?;
    let (Some(mean), Some(variance)) = (mean, variance) else {
        return unsupported("batch_norm without running statistics");
    };
    let channels = *input.shape.get(1).unwrap_or(&0);
    let constant = [Some(&mean), Some(&variance), weight.as_ref(), bias.as_ref()]
        .into_iter()
        .flatten()
        .all(|view| interpreter.graph.is_constant(view) && view.shape == [channels]);
    if !constant || input.dtype != DType::F32 {
        return mismatch(format!("the parameters do not fit the channels of {:?}", input.shape));
    }
    // Computed in double precision, so that folding loses nothing: scale = w / √(var + ε), shift = b - mean ·
    // scale.
    let variance = interpreter.cast(&variance, DType::F64)?;
    let mean = interpreter.cast(&mean, DType::F64)?;
    let shifted = interpreter.with_number(BinaryOp::Add, &variance, epsilon)?;
    let mut scale = interpreter.activation(Activation::Rsqrt, &shifted)?;
    if let Some(weight) = weight {
        scale = interpreter.two(BinaryOp::Mul, &scale, &weight)?;
    }
    let moved = interpreter.two(BinaryOp::Mul, &mean, &scale)?;
    let shift = match bias {
        Some(bias) => interpreter.two(BinaryOp::Sub, &bias, &moved)?,
        None => interpreter.activation(Activation::Neg, &moved)?,
    };
    let mut result = input.clone();
    let mut shape = vec![1; input.rank()];
    shape[1] = channels;
    for (op, factor) in [(BinaryOp::Mul, scale), (BinaryOp::Add, shift)] {
        let factor = interpreter.cast(&factor, DType::F32)?;
        let factor = interpreter.reshape(&factor, &shape)?;
        result = interpreter.two(op, &result, &factor)?;
    }
    Ok(result)
}

/// Rows of `table` along axis `at`, chosen by integers that are known only when the plan runs.
pub(super) fn lookup(
    interpreter: &mut Interpreter<'_, '_>,
    table: &View,
    at: usize,
    index: &View,
) -> Step<View> {
    if index.dtype != DType::I64 {
        return mismatch(format!("an index of type {}", index.dtype));
    }
    if at != 0 || !interpreter.graph.is_constant(table) || table.dtype != DType::F32 || table.rank() == 0 {
        return unsupported(
            "an index computed by the network into anything but the rows of a constant table",
        );
    }
    let count = table.shape[0];
    let width: usize = table.shape[1..].iter().product();
    let rows = interpreter.reshape(table, &[count, width])?;
    let flat = interpreter.reshape(index, &[index.len()])?;
    let result =
        interpreter.emit_one(Op::Embedding { table: rows }, vec![flat], DType::F32, &[index.len(), width])?;
    let shape: Vec<usize> = index.shape.iter().chain(&table.shape[1..]).copied().collect();
    interpreter.reshape(&result, &shape)
}

/// Reads stride, padding, dilation and groups at these positions.
fn geometry(interpreter: &Interpreter<'_, '_>, call: &Call, at: [usize; 4]) -> Step<ConvGeometry> {
    let one = |position: usize, name: &str, default: usize| -> Step<usize> {
        match call.present(position, name) {
            None => Ok(default),
            // The padding is given by name; see `convolution_by_mode`.
            Some(Value::Str(_)) => Ok(0),
            Some(value) => match *super::ints(interpreter, value)? {
                [only] => size(only),
                _ => unsupported("a convolution over more than one axis"),
            },
        }
    };
    let geometry = ConvGeometry {
        stride: one(at[0], "stride", 1)?,
        padding: one(at[1], "padding", 0)?,
        dilation: one(at[2], "dilation", 1)?,
        groups: one(at[3], "groups", 1)?,
    };
    if geometry.stride == 0 || geometry.dilation == 0 || geometry.groups == 0 {
        return mismatch("a convolution whose stride, dilation or groups are 0");
    }
    Ok(geometry)
}

/// Padding by name: `valid` adds no padding, and `same` adds enough to keep the length.
fn convolution_by_mode(interpreter: &mut Interpreter<'_, '_>, call: &Call, mode: &str) -> Step<View> {
    let geometry = geometry(interpreter, call, [3, 4, 5, 6])?;
    let kernel = call.tensor(interpreter, 1, "weight")?.shape.last().copied().unwrap_or(0);
    match mode {
        "valid" => convolution(interpreter, call, geometry),
        "same" if geometry.stride == 1 && kernel > 0 => {
            let Some(total) = (kernel - 1).checked_mul(geometry.dilation) else {
                return mismatch(format!(
                    "a kernel of {kernel} with dilation {} is too long",
                    geometry.dilation
                ));
            };
            // An odd element of padding belongs to the right. Padding both sides gives one result too many on
            // the left.
            let padding = total.div_ceil(2);
            let padded = convolution(interpreter, call, ConvGeometry { padding, ..geometry })?;
            let last = padded.rank() - 1;
            let extra = total % 2;
            Ok(padded.narrowed(last, extra, 1, padded.shape[last] - extra))
        }
        "same" => mismatch("padding \"same\" with a stride"),
        _ => unsupported(format!("padding {mode:?}")),
    }
}

fn convolution(interpreter: &mut Interpreter<'_, '_>, call: &Call, geometry: ConvGeometry) -> Step<View> {
    let input = call.tensor(interpreter, 0, "input")?;
    let weights = call.tensor(interpreter, 1, "weight")?;
    let bias = call.optional_tensor(interpreter, 2, "bias")?;
    let &[outputs, per_group, kernel] = &*weights.shape else {
        return unsupported("a convolution over more than one axis");
    };
    let single = input.rank() == 2;
    let input = if single { input.unsqueezed(0) } else { input };
    let &[batch, channels, length] = &*input.shape else {
        return mismatch(format!("an input of shape {:?} for a convolution", input.shape));
    };
    let constant = interpreter.graph.is_constant(&weights)
        && bias.as_ref().is_none_or(|bias| interpreter.graph.is_constant(bias) && bias.shape == [outputs]);
    if !constant || input.dtype != DType::F32 || weights.dtype != DType::F32 {
        return unsupported("a convolution whose weights are computed");
    }
    let span = (kernel.max(1) - 1).checked_mul(geometry.dilation).and_then(|span| span.checked_add(1));
    let padded = geometry.padding.checked_mul(2).and_then(|padding| padding.checked_add(length));
    let fits = kernel > 0
        && outputs > 0
        && per_group > 0
        && channels == per_group.saturating_mul(geometry.groups)
        && outputs.is_multiple_of(geometry.groups);
    let (Some(span), Some(padded), true) = (span, padded, fits) else {
        return mismatch(format!("input {:?} does not fit weights {:?}", input.shape, weights.shape));
    };
    if padded < span || padded > interpreter.limits().elements {
        return mismatch(format!("a kernel of {span} does not fit a length of {padded}"));
    }
    let steps = (padded - span) / geometry.stride + 1;
    let limits = *interpreter.limits();
    interpreter.graph.charge_arithmetic(&[batch, outputs, steps, per_group, kernel], &limits)?;
    interpreter.meter.bytes(batch.saturating_mul(View::bytes(input.rank())))?;
    let mut parts = Vec::with_capacity(batch);
    for index in 0..batch {
        let one = interpreter.contiguous(&input.selected(0, index))?;
        let op = Op::Conv1d {
            weights: weights.clone(),
            bias: bias.clone(),
            geometry,
            activation: Activation::Identity,
        };
        let result = interpreter.emit_one(op, vec![one], DType::F32, &[outputs, steps])?;
        parts.push(interpreter.reshape(&result, &[1, outputs * steps])?);
    }
    let joined = match &*parts {
        [only] => only.clone(),
        _ => interpreter.emit_one(Op::Concat, parts, DType::F32, &[1, batch * outputs * steps])?,
    };
    let shape: &[usize] = if single { &[outputs, steps] } else { &[batch, outputs, steps] };
    interpreter.reshape(&joined, shape)
}
