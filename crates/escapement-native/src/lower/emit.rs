//! Emits operations: folds those that are constant, and casts and broadcasts operands.

use std::rc::Rc;

use super::interpreter::{Interpreter, Step, mismatch, unsupported};
use super::value::Value;
use crate::ir::graph::{BinaryOp, CompareOp, Graph, Op, ReduceOp, UnaryOp, View};
use crate::ir::tensor::{DType, Data, count};
use crate::kernels::Activation;
use crate::refusal::Refusal;

/// One operand of an elementwise operation, with the facts that decide the type of the result.
#[derive(Debug, Clone)]
pub(super) struct Operand {
    pub(super) view: View,
    /// Whether it is a Python number. Its type yields to the type of any tensor of the same category.
    pub(super) literal: bool,
}

impl Interpreter<'_, '_> {
    /// Appends `op`. If every operand is constant, computes it now instead.
    pub(super) fn emit(
        &mut self,
        op: Op,
        inputs: Vec<View>,
        results: &[(DType, Vec<usize>)],
    ) -> Step<Vec<View>> {
        let limits = *self.limits();
        let place = self.place();
        if !inputs.iter().all(|view| self.graph.is_constant(view)) {
            return Ok(self.graph.push(op, inputs, results, &place, &limits)?);
        }
        for (_, shape) in results {
            self.graph.charge_elements(count(shape), &limits)?;
        }
        self.charge(1)?;
        self.meter.work(op.steps(&inputs, results))?;
        let stage = self.meter.mark();
        // A graph with only this operation and the constants it reads. It is evaluated once.
        let mut single = Graph::new(&self.meter);
        let (mut op, mut inputs) = (op, inputs);
        for view in op.parameters_mut().into_iter().chain(&mut inputs) {
            let root = self.graph.roots[view.root].clone();
            view.root = single.roots.len();
            single.roots.push(root);
        }
        let views = single.push(op, inputs, results, &place, &limits)?;
        let folded = (self.program.evaluate)(&single, &views)?;
        drop(single);
        // Only the results are left of what the evaluation took.
        self.meter.release(stage);
        let mut constants = Vec::with_capacity(folded.len());
        for (data, view) in folded.into_iter().zip(&views) {
            self.meter.bytes(data.len().saturating_mul(data.dtype().size()))?;
            constants.push(self.graph.constant(Rc::new(data), &view.shape, false)?);
        }
        Ok(constants)
    }

    /// As [`Interpreter::emit`], for operations with one result.
    pub(super) fn emit_one(
        &mut self,
        op: Op,
        inputs: Vec<View>,
        dtype: DType,
        shape: &[usize],
    ) -> Step<View> {
        let mut views = self.emit(op, inputs, &[(dtype, shape.to_vec())])?;
        match views.pop() {
            Some(view) => Ok(view),
            None => Err(Refusal::malformed("an operation without a result").into()),
        }
    }

    /// A constant of this type and shape, with all elements equal.
    pub(super) fn filled(&mut self, dtype: DType, shape: &[usize], value: f64) -> Step<View> {
        let elements = count(shape);
        let limits = *self.limits();
        self.graph.charge_elements(elements, &limits)?;
        let elements = elements.unwrap_or(0);
        self.meter.bytes(elements.saturating_mul(dtype.size()))?;
        let data = Data::filled(dtype, elements, value);
        Ok(self.graph.constant(Rc::new(data), shape, false)?)
    }

    /// A constant without dimensions.
    pub(super) fn number(&mut self, dtype: DType, value: f64) -> Step<View> {
        Ok(self.graph.constant(Rc::new(Data::filled(dtype, 1, value)), &[], false)?)
    }

    /// Returns `view`, or a row-major copy of it if it is not contiguous.
    pub(super) fn contiguous(&mut self, view: &View) -> Step<View> {
        if view.is_contiguous() {
            return Ok(view.clone());
        }
        self.emit_one(Op::Copy, vec![view.clone()], view.dtype, &view.shape)
    }

    /// Returns `view` in another shape with as many elements. It is copied if strides cannot express the
    /// shape.
    pub(super) fn reshape(&mut self, view: &View, shape: &[usize]) -> Step<View> {
        if count(shape) != Some(view.len()) {
            return mismatch(format!("shape {:?} does not fit {shape:?}", view.shape));
        }
        if let Some(view) = view.reshaped(shape) {
            return Ok(view);
        }
        let copy = self.contiguous(view)?;
        match copy.reshaped(shape) {
            Some(view) => Ok(view),
            None => mismatch(format!("shape {:?} does not fit {shape:?}", view.shape)),
        }
    }

    pub(super) fn expand(&mut self, view: &View, shape: &[usize]) -> Step<View> {
        match view.expanded(shape) {
            Some(view) => Ok(view),
            None => mismatch(format!("shape {:?} does not broadcast to {shape:?}", view.shape)),
        }
    }

    pub(super) fn cast(&mut self, view: &View, dtype: DType) -> Step<View> {
        if view.dtype == dtype {
            return Ok(view.clone());
        }
        self.emit_one(Op::Cast, vec![view.clone()], dtype, &view.shape)
    }

    pub(super) fn unary(&mut self, op: UnaryOp, view: &View) -> Step<View> {
        let view = match (op, view.dtype) {
            (UnaryOp::Not, _) => self.cast(view, DType::Bool)?,
            (UnaryOp::Activation(Activation::Abs | Activation::Neg | Activation::Relu), DType::I64)
            | (
                UnaryOp::Sign | UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Round | UnaryOp::Trunc,
                DType::I64,
            )
            | (_, DType::F32 | DType::F64) => view.clone(),
            _ => self.cast(view, DType::F32)?,
        };
        let dtype = if matches!(op, UnaryOp::IsNan) { DType::Bool } else { view.dtype };
        let shape = view.shape.clone();
        self.emit_one(Op::Unary(op), vec![view], dtype, &shape)
    }

    pub(super) fn activation(&mut self, activation: Activation, view: &View) -> Step<View> {
        self.unary(UnaryOp::Activation(activation), view)
    }

    /// A tensor or number as an operand.
    pub(super) fn operand(&mut self, value: &Value) -> Step<Operand> {
        Ok(match value {
            Value::Tensor(id) => Operand { view: self.view(*id)?, literal: self.is_number(*id) },
            Value::Int(value) => {
                let view = self.graph.constant(Rc::new(Data::I64(vec![*value])), &[], false)?;
                Operand { view, literal: true }
            }
            Value::Float(value) => Operand { view: self.number(DType::F64, *value)?, literal: true },
            Value::Bool(value) => {
                Operand { view: self.number(DType::Bool, f64::from(u8::from(*value)))?, literal: true }
            }
            Value::Unshaped(input) => {
                return Err(super::interpreter::Stop::NeedsShape { input: *input, suggestion: None });
            }
            other => return unsupported(format!("a {} as an operand", other.kind())),
        })
    }

    /// The type in which PyTorch computes an elementwise operation of these operands. Tensors with dimensions
    /// decide, then tensors without, then literals. A lower class decides only if its category is higher.
    pub(super) fn common_type(operands: &[&Operand]) -> DType {
        let class = |operand: &Operand| match (operand.literal, operand.view.rank()) {
            (true, _) => 2,
            (false, 0) => 1,
            (false, _) => 0,
        };
        let mut result: Option<DType> = None;
        for wanted in 0..3 {
            let in_class = operands.iter().filter(|operand| class(operand) == wanted);
            let Some(dtype) = in_class.map(|operand| operand.view.dtype).reduce(DType::promote) else {
                continue;
            };
            result = Some(match result {
                None if wanted == 2 && dtype == DType::F64 => DType::F32,
                None => dtype,
                Some(higher) if higher.category() >= dtype.category() => higher,
                // A float literal has the default type, independent of its own precision.
                Some(_) if wanted == 2 && dtype == DType::F64 => DType::F32,
                Some(_) => dtype,
            });
        }
        result.unwrap_or(DType::F32)
    }

    /// The shape that the operands broadcast to together.
    pub(super) fn broadcast_shape(operands: &[&Operand]) -> Step<Vec<usize>> {
        let mut shape: Vec<usize> = Vec::new();
        for operand in operands {
            let other = &operand.view.shape;
            while shape.len() < other.len() {
                shape.insert(0, 1);
            }
            let missing = shape.len() - other.len();
            for (axis, &size) in other.iter().enumerate() {
                let common = &mut shape[missing + axis];
                match (*common, size) {
                    (a, b) if a == b => {}
                    (1, b) => *common = b,
                    (_, 1) => {}
                    (a, b) => return mismatch(format!("sizes {a} and {b} do not broadcast")),
                }
            }
        }
        Ok(shape)
    }

    /// Returns all operands, cast to `dtype` and broadcast to their common shape.
    fn broadcast(&mut self, operands: &[&Operand], dtype: DType) -> Step<(Vec<View>, Vec<usize>)> {
        let shape = Self::broadcast_shape(operands)?;
        let mut views = Vec::with_capacity(operands.len());
        for operand in operands {
            let view = self.cast(&operand.view, dtype)?;
            views.push(self.expand(&view, &shape)?);
        }
        Ok((views, shape))
    }

    pub(super) fn binary(&mut self, op: BinaryOp, a: &Operand, b: &Operand) -> Step<View> {
        let mut dtype = Self::common_type(&[a, b]);
        match op {
            BinaryOp::Div | BinaryOp::Atan2 if !dtype.is_float() => dtype = DType::F32,
            BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => {}
            _ if dtype == DType::Bool => dtype = DType::I64,
            _ => {}
        }
        let (views, shape) = self.broadcast(&[a, b], dtype)?;
        self.emit_one(Op::Binary(op), views, dtype, &shape)
    }

    pub(super) fn compare(&mut self, op: CompareOp, a: &Operand, b: &Operand) -> Step<View> {
        let dtype = match Self::common_type(&[a, b]) {
            DType::Bool => DType::I64,
            other => other,
        };
        let (views, shape) = self.broadcast(&[a, b], dtype)?;
        self.emit_one(Op::Compare(op), views, DType::Bool, &shape)
    }

    /// `a` where the condition holds, `b` elsewhere. The three are broadcast together.
    pub(super) fn choose(&mut self, condition: &View, a: &Operand, b: &Operand) -> Step<View> {
        let dtype = Self::common_type(&[a, b]);
        let condition = Operand { view: self.cast(condition, DType::Bool)?, literal: false };
        let shape = Self::broadcast_shape(&[&condition, a, b])?;
        let mut inputs = vec![self.expand(&condition.view, &shape)?];
        for operand in [a, b] {
            let view = self.cast(&operand.view, dtype)?;
            inputs.push(self.expand(&view, &shape)?);
        }
        self.emit_one(Op::Where, inputs, dtype, &shape)
    }

    /// `view op number`, in the type of `view`.
    pub(super) fn with_number(&mut self, op: BinaryOp, view: &View, number: f64) -> Step<View> {
        let operand = Operand { view: view.clone(), literal: false };
        let number = Operand { view: self.number(DType::F64, number)?, literal: true };
        self.binary(op, &operand, &number)
    }

    pub(super) fn two(&mut self, op: BinaryOp, a: &View, b: &View) -> Step<View> {
        let a = Operand { view: a.clone(), literal: false };
        let b = Operand { view: b.clone(), literal: false };
        self.binary(op, &a, &b)
    }

    /// Reduces `axes` (sorted, distinct) of `view`. With `keep`, they stay in the shape with one element
    /// each.
    pub(super) fn reduce(&mut self, op: ReduceOp, view: &View, axes: &[usize], keep: bool) -> Step<View> {
        let kept: Vec<usize> = (0..view.rank()).filter(|axis| !axes.contains(axis)).collect();
        let order: Vec<usize> = kept.iter().chain(axes).copied().collect();
        let rows: usize = kept.iter().map(|&axis| view.shape[axis]).product();
        let width: usize = axes.iter().map(|&axis| view.shape[axis]).product();
        if width == 0 && !matches!(op, ReduceOp::Sum | ReduceOp::Prod | ReduceOp::Any | ReduceOp::All) {
            return mismatch("a reduction over no elements");
        }
        let dtype = match op {
            ReduceOp::ArgMax | ReduceOp::ArgMin => DType::I64,
            ReduceOp::Any | ReduceOp::All => DType::Bool,
            ReduceOp::Sum | ReduceOp::Prod if view.dtype == DType::Bool => DType::I64,
            ReduceOp::Sum | ReduceOp::Prod | ReduceOp::Max | ReduceOp::Min => view.dtype,
            _ if view.dtype.is_float() => view.dtype,
            _ => return mismatch(format!("this reduction of {} elements", view.dtype)),
        };
        let source = match op {
            ReduceOp::Any | ReduceOp::All => self.cast(view, DType::Bool)?,
            _ if view.dtype == DType::Bool => self.cast(view, DType::I64)?,
            _ => view.clone(),
        };
        let flat = self.reshape(&source.permuted(&order), &[rows, width])?;
        let out_dtype = if dtype == DType::Bool && source.dtype == DType::I64 { DType::I64 } else { dtype };
        let result = self.emit_one(Op::Reduce(op), vec![flat], out_dtype, &[rows])?;
        let shape: Vec<usize> = if keep {
            (0..view.rank()).map(|axis| if axes.contains(&axis) { 1 } else { view.shape[axis] }).collect()
        } else {
            kept.iter().map(|&axis| view.shape[axis]).collect()
        };
        let result = self.reshape(&result, &shape)?;
        // The largest of several truth values is a truth value.
        if view.dtype == DType::Bool && matches!(op, ReduceOp::Max | ReduceOp::Min) {
            return self.cast(&result, DType::Bool);
        }
        Ok(result)
    }

    /// Moves `axis` last, so that rows lie side by side.
    pub(super) fn axis_last(&mut self, view: &View, axis: usize) -> Step<(View, Vec<usize>)> {
        let order: Vec<usize> = (0..view.rank()).filter(|&other| other != axis).chain([axis]).collect();
        let moved = self.contiguous(&view.permuted(&order))?;
        let mut back = vec![0; order.len()];
        for (position, &source) in order.iter().enumerate() {
            back[source] = position;
        }
        Ok((moved, back))
    }
}
