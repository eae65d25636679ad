//! The steps of a plan. A step owns its packed weights and index tables. Everything else is a span of an
//! arena.

use std::ops::Range;

use crate::ir::graph::{BinaryOp, CompareOp, ReduceOp, UnaryOp};
use crate::ir::tensor::DType;
use crate::kernels::{Activation, Binary, Conv1d, Dense, Gru, Lstm};

/// A range of an arena. During compilation, `start` counts from the start of `buffer`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) buffer: usize,
    pub(super) start: usize,
    pub(super) len: usize,
}

impl Span {
    pub(super) fn range(self) -> Range<usize> {
        self.start..self.start + self.len
    }
}

/// Rows of one operand of a concatenation. They are written `stride` elements apart into the result.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) input: Span,
    pub(super) width: usize,
    pub(super) at: usize,
}

/// An operand of an elementwise step: as many elements as the result has, or one element for all.
pub(super) type Operand = Span;

pub(super) enum Step {
    Dense {
        layer: Dense,
        rows: usize,
        input: Span,
        output: Span,
    },
    Activate {
        activation: Activation,
        input: Span,
        output: Span,
    },
    /// Single precision, with the vector kernels.
    Elementwise {
        op: Binary,
        a: Operand,
        b: Operand,
        output: Span,
    },
    Unary {
        dtype: DType,
        op: UnaryOp,
        input: Span,
        output: Span,
    },
    Binary {
        dtype: DType,
        op: BinaryOp,
        a: Operand,
        b: Operand,
        output: Span,
    },
    Compare {
        dtype: DType,
        op: CompareOp,
        a: Operand,
        b: Operand,
        output: Span,
    },
    Where {
        dtype: DType,
        condition: Operand,
        a: Operand,
        b: Operand,
        output: Span,
    },
    Reduce {
        dtype: DType,
        op: ReduceOp,
        width: usize,
        input: Span,
        output: Span,
    },
    Softmax {
        log: bool,
        rows: usize,
        width: usize,
        input: Span,
        output: Span,
    },
    LayerNorm {
        weight: Option<Span>,
        bias: Option<Span>,
        epsilon: f32,
        rows: usize,
        width: usize,
        input: Span,
        output: Span,
    },
    CumulativeSum {
        dtype: DType,
        width: usize,
        input: Span,
        output: Span,
    },
    Gather {
        dtype: DType,
        table: Box<[u32]>,
        input: Span,
        output: Span,
    },
    Copy {
        dtype: DType,
        input: Span,
        output: Span,
    },
    Concat {
        dtype: DType,
        stride: usize,
        pieces: Box<[Piece]>,
        output: Span,
    },
    Cast {
        from: DType,
        to: DType,
        input: Span,
        output: Span,
    },
    Embedding {
        table: Box<[f32]>,
        width: usize,
        index: Span,
        output: Span,
    },
    /// `block` is the result: h, c, the sequence of outputs, and scratch memory, in this order.
    Lstm {
        layer: Lstm,
        steps: usize,
        units: usize,
        input: Span,
        h: Span,
        c: Span,
        block: Span,
    },
    /// `block` is the result: h, the sequence of outputs, and scratch memory, in this order.
    Gru {
        layer: Gru,
        steps: usize,
        units: usize,
        input: Span,
        h: Span,
        block: Span,
    },
    Conv1d {
        layer: Conv1d,
        length: usize,
        input: Span,
        output: Span,
    },
    MatMul {
        dtype: DType,
        m: usize,
        k: usize,
        n: usize,
        a: Span,
        b: Span,
        output: Span,
    },
}

impl Step {
    /// Calls `visit` for every span.
    pub(super) fn visit(&mut self, visit: &mut dyn FnMut(&mut Span)) {
        match self {
            Self::Dense { input, output, .. }
            | Self::Activate { input, output, .. }
            | Self::Unary { input, output, .. }
            | Self::Reduce { input, output, .. }
            | Self::Softmax { input, output, .. }
            | Self::CumulativeSum { input, output, .. }
            | Self::Gather { input, output, .. }
            | Self::Copy { input, output, .. }
            | Self::Cast { input, output, .. }
            | Self::Embedding { index: input, output, .. }
            | Self::Conv1d { input, output, .. } => {
                visit(input);
                visit(output);
            }
            Self::Elementwise { a, b, output, .. }
            | Self::Binary { a, b, output, .. }
            | Self::Compare { a, b, output, .. }
            | Self::MatMul { a, b, output, .. } => {
                visit(a);
                visit(b);
                visit(output);
            }
            Self::Where { condition, a, b, output, .. } => {
                visit(condition);
                visit(a);
                visit(b);
                visit(output);
            }
            Self::LayerNorm { weight, bias, input, output, .. } => {
                weight.iter_mut().chain(bias).for_each(&mut *visit);
                visit(input);
                visit(output);
            }
            Self::Concat { pieces, output, .. } => {
                pieces.iter_mut().for_each(|piece| visit(&mut piece.input));
                visit(output);
            }
            Self::Lstm { input, h, c, block, .. } => {
                visit(input);
                visit(h);
                visit(c);
                visit(block);
            }
            Self::Gru { input, h, block, .. } => {
                visit(input);
                visit(h);
                visit(block);
            }
        }
    }

    /// The kernel's name, for reports.
    pub(super) fn kernel(&self) -> &'static str {
        match self {
            Self::Dense { .. } => "dense",
            Self::Activate { .. } | Self::Unary { .. } => "unary",
            Self::Elementwise { .. } | Self::Binary { .. } => "binary",
            Self::Compare { .. } => "compare",
            Self::Where { .. } => "where",
            Self::Reduce { .. } => "reduce",
            Self::Softmax { .. } => "softmax",
            Self::LayerNorm { .. } => "layer_norm",
            Self::CumulativeSum { .. } => "cumulative_sum",
            Self::Gather { .. } => "gather",
            Self::Copy { .. } => "copy",
            Self::Concat { .. } => "concat",
            Self::Cast { .. } => "cast",
            Self::Embedding { .. } => "embedding",
            Self::Lstm { .. } => "lstm",
            Self::Gru { .. } => "gru",
            Self::Conv1d { .. } => "conv1d",
            Self::MatMul { .. } => "matmul",
        }
    }

    /// Whether the step uses vector kernels if the machine has them. The other steps are scalar.
    pub(super) fn is_vectorised(&self) -> bool {
        matches!(
            self,
            Self::Dense { .. }
                | Self::Activate { .. }
                | Self::Elementwise { .. }
                | Self::Softmax { .. }
                | Self::LayerNorm { .. }
                | Self::Lstm { .. }
                | Self::Gru { .. }
                | Self::Conv1d { .. }
        )
    }
}
