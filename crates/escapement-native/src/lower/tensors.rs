//! The table of tensors: views that names share, and the effect of an operation in place on them.

use super::interpreter::{Interpreter, Step, Tensor, mismatch, unsupported};
use super::value::{TensorId, Value};
use crate::ir::graph::{MAX_RANK, Origin, Place, View};
use crate::ir::tensor::Data;
use crate::limits::Limits;
use crate::refusal::Refusal;

/// Work of one evaluation.
const EVALUATION_STEPS: usize = 16;

impl Interpreter<'_, '_> {
    pub(super) fn limits(&self) -> &Limits {
        &self.program.limits
    }

    pub(super) fn place(&self) -> Place {
        Place { file: self.file.clone(), line: self.line, operator: self.operator.clone() }
    }

    /// Adds `view` to the table of tensors.
    pub(super) fn tensor(&mut self, view: View) -> Step<Value> {
        if view.rank() > MAX_RANK {
            return unsupported(format!("a tensor of {} axes, at most {MAX_RANK} are allowed", view.rank()));
        }
        self.meter.bytes(2 * size_of::<Tensor>() + View::bytes(view.rank()))?;
        self.tensors.push(Tensor { view, overwritten: None, number: false });
        Ok(Value::Tensor(self.tensors.len() - 1))
    }

    /// Returns the view of a tensor value. Fails if its elements were overwritten.
    pub(super) fn view(&self, id: TensorId) -> Step<View> {
        let tensor = &self.tensors[id];
        if let Some(operator) = &tensor.overwritten {
            return unsupported(format!(
                "reads a tensor through a view after {operator} wrote over it in place"
            ));
        }
        Ok(tensor.view.clone())
    }

    /// Returns the view of a tensor value that nothing else refers to yet, and frees its place in the table.
    pub(super) fn take_last(&mut self, id: TensorId) -> Step<View> {
        let view = self.view(id)?;
        if id + 1 == self.tensors.len() {
            self.tensors.pop();
        }
        Ok(view)
    }

    /// Whether a tensor stands for a number of the source.
    pub(super) fn is_number(&self, id: TensorId) -> bool {
        self.tensors[id].number
    }

    /// Makes `id` stand for `result` from now on, as an operation in place does. Every other view of the
    /// overwritten elements becomes unreadable.
    pub(super) fn overwrite(&mut self, id: TensorId, result: View) -> Step<()> {
        let old = self.view(id)?;
        if matches!(self.graph.roots[old.root].origin, Origin::Constant { stored: true, .. }) {
            return unsupported("writes to a tensor of the module itself");
        }
        if old.shape != result.shape || old.dtype != result.dtype {
            return unsupported("changes the shape or type of a tensor in place");
        }
        self.meter.work(self.tensors.len().saturating_mul(4))?;
        let aliases = self.tensors.iter().filter(|tensor| tensor.view.root == old.root);
        self.charge(aliases.map(|tensor| tensor.view.len() / 64 + 1).sum())?;
        let positions = self.tensors.iter().filter(|tensor| tensor.view.root == old.root);
        self.meter.work(positions.map(|tensor| tensor.view.len().saturating_mul(4)).sum())?;
        let elements = self.graph.roots[old.root].len;
        self.meter.room::<bool>(elements)?;
        let mut written = vec![false; elements];
        old.positions().for_each(|position| written[position] = true);
        let operator = self.operator.clone();
        for tensor in &mut self.tensors {
            if tensor.view.root != old.root {
                continue;
            }
            if tensor.view == old {
                tensor.view = result.clone();
            } else if tensor.view.positions().any(|position| written[position]) {
                tensor.overwritten = Some(operator.clone());
            }
        }
        Ok(())
    }

    /// Charges a list or tuple of `count` members. The caller makes it afterwards.
    pub(super) fn room(&self, count: usize) -> Step<()> {
        self.meter.work(count)?;
        Ok(self.meter.bytes(count.saturating_mul(Value::MEMBER_BYTES))?)
    }

    /// A copy of the members of a list or tuple.
    pub(super) fn copied(&self, members: &[Value]) -> Step<Vec<Value>> {
        self.room(members.len())?;
        Ok(members.to_vec())
    }

    /// Counts `cost` evaluations. Fails if the total exceeds the limit.
    pub(super) fn charge(&mut self, cost: usize) -> Step<()> {
        self.evaluations = self.evaluations.saturating_add(cost);
        let limit = self.program.limits.evaluations;
        if self.evaluations > limit {
            return Err(Refusal::malformed(format!("takes more than {limit} evaluations")).into());
        }
        Ok(self.meter.work(cost.saturating_mul(EVALUATION_STEPS))?)
    }

    /// Returns the truth of a value that is known during lowering.
    pub(super) fn truth(&self, value: &Value) -> Step<bool> {
        match value {
            Value::None => Ok(false),
            Value::Tensor(_) => Ok(self.scalar(value)?.number().unwrap_or(0.0) != 0.0),
            _ => match value.number() {
                Some(number) => Ok(number != 0.0),
                None => unsupported(format!("a condition that is a {}", value.kind())),
            },
        }
    }

    /// Returns the number in a constant tensor of one element.
    pub(super) fn scalar(&self, value: &Value) -> Step<Value> {
        let Value::Tensor(id) = value else { return Ok(value.clone()) };
        let view = self.view(*id)?;
        if view.len() != 1 {
            return mismatch(format!("a tensor of shape {:?} where one number is expected", view.shape));
        }
        let Some(data) = self.graph.constant_data(&view)? else {
            return unsupported("depends on the elements of a tensor, which a fixed plan cannot branch on");
        };
        Ok(match &*data {
            Data::I64(values) => Value::Int(values[0]),
            Data::Bool(values) => Value::Bool(values[0]),
            other => Value::Float(other.as_f64(0)),
        })
    }
}
