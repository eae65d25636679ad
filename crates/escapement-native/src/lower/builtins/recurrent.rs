//! Recurrent layers: windows and single steps of LSTM and GRU.

use super::{Call, size};
use crate::ir::graph::{Op, RecurrentWeights, View};
use crate::ir::tensor::DType;
use crate::lower::interpreter::{Interpreter, Step, Stop, mismatch, unsupported};
use crate::lower::value::Value;

pub(super) fn call(interpreter: &mut Interpreter<'_, '_>, name: &str, call: &Call) -> Step<Option<Value>> {
    match name {
        "lstm" | "gru" => window(interpreter, name, call).map(Some),
        "lstm_cell" | "gru_cell" => cell(interpreter, name, call).map(Some),
        _ => Ok(None),
    }
}

/// The weights of one layer and direction, checked against each other.
fn layer_weights(
    interpreter: &Interpreter<'_, '_>,
    weights: &[View],
    gates: usize,
) -> Step<(RecurrentWeights, usize, usize)> {
    let (input, hidden, bias) = match weights {
        [input, hidden] => (input, hidden, None),
        [input, hidden, first, second] => (input, hidden, Some((first.clone(), second.clone()))),
        _ => return unsupported("a recurrent layer with projections"),
    };
    let (&[rows, inputs], &[hidden_rows, units]) = (&*input.shape, &*hidden.shape) else {
        return mismatch("the weights of a recurrent layer are not matrices");
    };
    let fits = rows == gates * units
        && hidden_rows == rows
        && units > 0
        && inputs > 0
        && bias.as_ref().is_none_or(|(a, b)| a.shape == [rows] && b.shape == [rows]);
    if !fits {
        return mismatch(format!(
            "weights {:?} and {:?} of a recurrent layer do not fit each other",
            input.shape, hidden.shape
        ));
    }
    let constant = weights.iter().all(|view| interpreter.graph.is_constant(view) && view.dtype == DType::F32);
    if !constant {
        return unsupported("a recurrent layer whose weights are computed");
    }
    Ok((RecurrentWeights { input: input.clone(), hidden: hidden.clone(), bias }, inputs, units))
}

/// One layer as an operation, with the types and shapes of its results: the outputs, then each state.
fn operation(
    lstm: bool,
    weights: RecurrentWeights,
    steps: usize,
    units: usize,
) -> (Op, Vec<(DType, Vec<usize>)>) {
    let outputs = (DType::F32, vec![steps, units]);
    let state = (DType::F32, vec![units]);
    if lstm {
        (Op::Lstm { weights }, vec![outputs, state.clone(), state])
    } else {
        (Op::Gru { weights }, vec![outputs, state])
    }
}

/// `lstm(input, hx, params, has_biases, layers, dropout, train, bidirectional, batch_first)`; `gru` is the
/// same.
fn window(interpreter: &mut Interpreter<'_, '_>, name: &str, call: &Call) -> Step<Value> {
    let lstm = name == "lstm";
    let weights = call.tensors(interpreter, 2, "params")?;
    let biased = call.flag(interpreter, 3, "has_biases", true)?;
    let layers = size(call.int(interpreter, 4, "num_layers", None)?)?;
    if call.flag(interpreter, 7, "bidirectional", false)? {
        return unsupported("a bidirectional recurrent layer");
    }
    let dropout = call.float(interpreter, 5, "dropout", Some(0.0))?;
    if call.flag(interpreter, 6, "train", false)? && dropout != 0.0 {
        return unsupported("dropout in training mode: call eval() before exporting");
    }
    let batch_first = call.flag(interpreter, 8, "batch_first", false)?;
    let each = if biased { 4 } else { 2 };
    if layers == 0 || layers.checked_mul(each) != Some(weights.len()) {
        return unsupported(format!("{} weights for {layers} recurrent layers", weights.len()));
    }
    let gates = if lstm { 4 } else { 3 };
    let (_, inputs, units) = layer_weights(interpreter, &weights[..each], gates)?;
    let states = states_of(interpreter, call, lstm)?;
    if states.len() != if lstm { 2 } else { 1 } {
        return mismatch("a recurrent layer with the wrong number of states");
    }
    let input = call.required(0, "input")?;
    if let Value::Unshaped(input) = input {
        return Err(Stop::NeedsShape { input: *input, suggestion: None });
    }
    let input = super::tensor(interpreter, input)?;
    let batched = input.rank() == 3;
    let state_shape = if batched { vec![layers, 1, units] } else { vec![layers, units] };
    let states =
        states.iter().map(|state| shaped(interpreter, state, &state_shape)).collect::<Step<Vec<_>>>()?;
    let steps = match (&*input.shape, batch_first) {
        (&[1, steps, width], true) | (&[steps, 1, width] | &[steps, width], _) if width == inputs => steps,
        _ => {
            return mismatch(format!(
                "input {:?} for a recurrent layer of {inputs} inputs and batch 1",
                input.shape
            ));
        }
    };
    if steps == 0 || input.dtype != DType::F32 {
        return mismatch("a recurrent layer over no steps");
    }
    let mut sequence = interpreter.reshape(&input, &[steps, inputs])?;
    let mut last: Vec<Vec<View>> = vec![Vec::new(); states.len()];
    for layer in 0..layers {
        let own = &weights[layer * each..(layer + 1) * each];
        let (weights, width, layer_units) = layer_weights(interpreter, own, gates)?;
        if width != sequence.shape[1] || layer_units != units {
            return mismatch(format!(
                "the weights of recurrent layer {layer} do not fit the layer before it"
            ));
        }
        let limits = *interpreter.limits();
        interpreter.graph.charge_arithmetic(&[steps, gates * units, width + units], &limits)?;
        let mut operands = vec![interpreter.contiguous(&sequence)?];
        for state in &states {
            let flat = interpreter.reshape(state, &[layers, units])?;
            operands.push(interpreter.contiguous(&flat.selected(0, layer))?);
        }
        let (op, results) = operation(lstm, weights, steps, units);
        let outputs = interpreter.emit(op, operands, &results)?;
        sequence = outputs[0].clone();
        for (all, state) in last.iter_mut().zip(&outputs[1..]) {
            all.push(state.reshaped(&[1, units]).unwrap_or_else(|| state.clone()));
        }
    }
    let mut shape = input.shape.clone();
    if let Some(width) = shape.last_mut() {
        *width = units;
    }
    let output = interpreter.reshape(&sequence, &shape)?;
    let mut values = vec![interpreter.tensor(output)?];
    for parts in last {
        let joined = match &*parts {
            [only] => only.clone(),
            _ => {
                let flat = parts
                    .iter()
                    .map(|part| interpreter.reshape(part, &[1, units]))
                    .collect::<Step<Vec<_>>>()?;
                interpreter.emit_one(Op::Concat, flat, DType::F32, &[1, layers * units])?
            }
        };
        let state = interpreter.reshape(&joined, &state_shape)?;
        values.push(interpreter.tensor(state)?);
    }
    Ok(Value::tuple(values)?)
}

/// The states that are given to a layer: a tuple of two, or one.
fn states_of(interpreter: &Interpreter<'_, '_>, call: &Call, lstm: bool) -> Step<Vec<Value>> {
    let given = call.required(1, "hx")?;
    if !lstm {
        return Ok(vec![given.clone()]);
    }
    given.members().map_or(Ok(Vec::new()), |states| interpreter.copied(&states))
}

/// Returns a state of this shape. If its shape is not known yet, stops with this shape as the suggestion.
fn shaped(interpreter: &Interpreter<'_, '_>, value: &Value, shape: &[usize]) -> Step<View> {
    if let Value::Unshaped(input) = value {
        return Err(Stop::NeedsShape { input: *input, suggestion: Some(shape.to_vec()) });
    }
    let view = super::tensor(interpreter, value)?;
    if view.shape != shape || view.dtype != DType::F32 {
        return mismatch(format!("a state of shape {:?} where {shape:?} is expected", view.shape));
    }
    Ok(view)
}

/// `lstm_cell(input, hx, w_ih, w_hh, b_ih, b_hh)`; `gru_cell` is the same.
fn cell(interpreter: &mut Interpreter<'_, '_>, name: &str, call: &Call) -> Step<Value> {
    let lstm = name == "lstm_cell";
    let mut weights = vec![call.tensor(interpreter, 2, "w_ih")?, call.tensor(interpreter, 3, "w_hh")?];
    for (position, name) in [(4, "b_ih"), (5, "b_hh")] {
        weights.extend(call.optional_tensor(interpreter, position, name)?);
    }
    let (weights, inputs, units) = layer_weights(interpreter, &weights, if lstm { 4 } else { 3 })?;
    let input = call.required(0, "input")?;
    if let Value::Unshaped(input) = input {
        return Err(Stop::NeedsShape { input: *input, suggestion: None });
    }
    let input = super::tensor(interpreter, input)?;
    let (rows, state_shape) = match *input.shape {
        [1, width] if width == inputs => (true, vec![1, units]),
        [width] if width == inputs => (false, vec![units]),
        _ => return mismatch(format!("input {:?} for a cell of {inputs} inputs and batch 1", input.shape)),
    };
    let states = states_of(interpreter, call, lstm)?;
    if states.len() != if lstm { 2 } else { 1 } || input.dtype != DType::F32 {
        return mismatch("a recurrent cell with the wrong number of states or type of input");
    }
    let mut operands = vec![interpreter.reshape(&input, &[1, inputs])?];
    for state in &states {
        let state = shaped(interpreter, state, &state_shape)?;
        let state = interpreter.reshape(&state, &[units])?;
        operands.push(interpreter.contiguous(&state)?);
    }
    let limits = *interpreter.limits();
    interpreter.graph.charge_arithmetic(&[if lstm { 4 } else { 3 }, units, inputs + units], &limits)?;
    let (op, results) = operation(lstm, weights, 1, units);
    let outputs = interpreter.emit(op, operands, &results)?;
    let mut values = Vec::new();
    for state in &outputs[1..] {
        let view = interpreter.reshape(state, &state_shape)?;
        values.push(interpreter.tensor(view)?);
    }
    debug_assert_eq!(rows, state_shape.len() == 2);
    match (lstm, values.pop()) {
        (false, Some(only)) => Ok(only),
        (true, Some(cell)) => {
            values.push(cell);
            Ok(Value::tuple(values)?)
        }
        _ => mismatch("a cell without a result"),
    }
}
