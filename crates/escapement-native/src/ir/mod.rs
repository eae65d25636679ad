//! The intermediate representation: a graph of operations on strided views of typed tensors.
//!
//! Lowering builds a graph, and the plan compiles one. Neither owns it, and neither knows the other.

pub(crate) mod graph;
pub(crate) mod tensor;

use graph::{Graph, View};
use tensor::Data;

use crate::refusal::Refusal;

/// Computes the values of views whose operands are all constant.
///
/// Lowering uses it to fold constants. It is a parameter, so that lowering does not depend on the code that
/// executes a graph.
pub(crate) type Evaluate = fn(&Graph, &[View]) -> Result<Vec<Data>, Refusal>;
