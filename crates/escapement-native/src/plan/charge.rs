//! Charges what a compiled plan takes, before it takes it: buffers, packed weights, steps and their
//! descriptions.

use super::arena::ALIGNMENT;
use super::compile::{Buffer, Compiler};
use super::describe::StepDescription;
use super::step::{Span, Step};
use crate::ir::graph::{Node, View};
use crate::ir::tensor::{DType, Data};
use crate::meter::Meter;
use crate::refusal::Refusal;

/// The lanes of the widest vectors.
const WIDEST: usize = 16;
/// Memory of a buffer in the compiler's tables.
const BUFFER_BYTES: usize = 2 * size_of::<Buffer>() + 16 * size_of::<usize>();
/// Memory and work of a step beside its tables, with its description.
const STEP_BYTES: usize = 2 * (size_of::<Step>() + size_of::<StepDescription>()) + 256;
const STEP_STEPS: usize = 256;

impl Compiler<'_> {
    pub(super) fn buffer(
        &mut self,
        dtype: DType,
        len: usize,
        permanent: bool,
        content: Option<Data>,
    ) -> Result<usize, Refusal> {
        // Its place in the arena, in whole cache lines; and the tables that assign the places.
        let bytes = len.saturating_mul(dtype.size()).saturating_add(2 * ALIGNMENT);
        self.meter().bytes(bytes.saturating_add(BUFFER_BYTES))?;
        self.buffers.push(Buffer { dtype, len, permanent, content });
        Ok(self.buffers.len() - 1)
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.graph.meter
    }

    /// A copy of a constant's elements.
    pub(super) fn copied(&self, data: &Data) -> Result<Data, Refusal> {
        self.meter().bytes(data.len().saturating_mul(data.dtype().size()))?;
        Ok(data.clone())
    }

    /// Charges the packed weights of a layer: `words` numbers with their padding. They are collected in a
    /// vector, which grows by doubling, and copied to aligned memory.
    pub(super) fn pack(&self, words: Option<usize>) -> Result<(), Refusal> {
        let words = words.unwrap_or(usize::MAX);
        self.meter().work(words)?;
        self.meter().bytes(words.saturating_mul(4 * size_of::<f32>()))
    }

    /// A new span for all elements of a new value.
    pub(super) fn fresh(&mut self, dtype: DType, len: usize) -> Result<Span, Refusal> {
        let buffer = self.buffer(dtype, len, false, None)?;
        Ok(Span { buffer, start: 0, len })
    }

    pub(super) fn push(&mut self, step: Step, description: StepDescription) -> Result<(), Refusal> {
        self.meter().work(STEP_STEPS)?;
        self.meter().bytes(STEP_BYTES)?;
        self.steps.push(step);
        self.descriptions.push(description);
        Ok(())
    }

    /// Describes a step of `node`. A plan is reported by the names in the source.
    pub(super) fn describe(&self, node: Option<&Node>, operator: &str) -> Result<StepDescription, Refusal> {
        if let Some(node) = node {
            let names = node.fused.iter().map(|name| name.len() + size_of::<String>()).sum::<usize>();
            let shapes = node.inputs.iter().map(|view| View::bytes(view.rank())).sum::<usize>();
            self.meter().bytes(names + shapes + node.place.file.len() + node.place.operator.len())?;
        }
        Ok(describe(node, operator))
    }
}

/// The size of a matrix that is packed in whole vectors and pairs, however narrow it is. Returns `None` if it
/// overflows.
pub(super) fn padded_matrix(rows: usize, columns: usize) -> Option<usize> {
    rows.checked_add(rows.min(WIDEST))?
        .checked_next_multiple_of(WIDEST)?
        .checked_mul(columns.checked_add(2 * WIDEST)?)
}

pub(super) fn place_of(node: &Node) -> String {
    format!("{}:{}", node.place.file, node.place.line)
}

fn describe(node: Option<&Node>, operator: &str) -> StepDescription {
    let place = node.map(|node| &node.place);
    StepDescription {
        operator: match place {
            Some(place) if operator.is_empty() => place.operator.to_string(),
            _ => operator.to_owned(),
        },
        fused: node.map_or_else(Vec::new, |node| node.fused.iter().map(ToString::to_string).collect()),
        place: node.map_or_else(String::new, place_of),
        kernel: "copy (scalar)".to_owned(),
        inputs: node
            .map_or_else(Vec::new, |node| node.inputs.iter().map(|view| view.shape.clone()).collect()),
        outputs: Vec::new(),
        multiply_adds: 0,
        weight_bytes: 0,
    }
}
