//! Executes one step. Nothing here allocates.

use super::arena::{Arenas, Element, carve};
use super::step::{Span, Step};
use crate::ir::graph::ReduceOp;
use crate::ir::tensor::DType;
use crate::kernels::{self, Isa};
use crate::reference::{elementwise, reduce, rows};
use escapement_policy::Fault;

/// Evaluates `$body` with `$type` set to the element type of `$dtype`.
macro_rules! numeric {
    ($dtype:expr, $type:ident => $body:expr) => {
        match $dtype {
            DType::F32 => {
                type $type = f32;
                $body
            }
            DType::F64 => {
                type $type = f64;
                $body
            }
            // Lowering casts truth values to integers before it computes with them.
            DType::I64 | DType::Bool => {
                type $type = i64;
                $body
            }
        }
    };
}

/// [`numeric!`] for steps that only move elements, including truth values.
macro_rules! any {
    ($dtype:expr, $type:ident => $body:expr) => {
        match $dtype {
            DType::Bool => {
                type $type = bool;
                $body
            }
            other => numeric!(other, $type => $body),
        }
    };
}

pub(super) fn execute(step: &mut Step, arenas: &mut Arenas, isa: Isa) -> Result<(), Fault> {
    match step {
        Step::Dense { layer, rows, input, output } => {
            let (rest, output) = carve(&mut arenas.f32, *output);
            if *rows == 1 {
                layer.run(rest.get(*input), output)
            } else {
                layer.run_rows(*rows, rest.get(*input), output)
            }
        }
        Step::Activate { activation, input, output } => {
            let (rest, output) = carve(&mut arenas.f32, *output);
            kernels::activate(isa, *activation, rest.get(*input), output);
        }
        Step::Elementwise { op, a, b, output } => {
            let (rest, output) = carve(&mut arenas.f32, *output);
            let (a, b) = (rest.get(*a), rest.get(*b));
            match (a.len() == output.len(), b.len() == output.len()) {
                (true, true) => kernels::binary(isa, *op, a, b, output),
                (true, false) => kernels::binary_scalar(isa, *op, a, b[0], output),
                (false, true) => kernels::scalar_binary(isa, *op, a[0], b, output),
                (false, false) => output.fill(op.reference(a[0], b[0])),
            }
        }
        Step::Unary { dtype, op, input, output } => numeric!(*dtype, T => {
            let (rest, output) = carve(T::arena_mut(arenas), *output);
            elementwise::unary::<T>(*op, rest.get(*input), output);
        }),
        Step::Binary { dtype: DType::Bool, op, a, b, output } => {
            let (rest, output) = carve(&mut arenas.bool, *output);
            elementwise::logical(*op, rest.get(*a), rest.get(*b), output);
        }
        Step::Binary { dtype, op, a, b, output } => numeric!(*dtype, T => {
            let (rest, output) = carve(T::arena_mut(arenas), *output);
            elementwise::binary::<T>(*op, rest.get(*a), rest.get(*b), output);
        }),
        Step::Compare { dtype, op, a, b, output } => numeric!(*dtype, T => {
            across::<T, bool>(arenas, *output, |all, output| {
                elementwise::compare(*op, &all[a.range()], &all[b.range()], output);
            });
        }),
        Step::Where { dtype: DType::Bool, condition, a, b, output } => {
            let (rest, output) = carve(&mut arenas.bool, *output);
            elementwise::choose(rest.get(*condition), rest.get(*a), rest.get(*b), output);
        }
        Step::Where { dtype, condition, a, b, output } => {
            numeric!(*dtype, T => choose::<T>(arenas, *condition, *a, *b, *output))
        }
        Step::Reduce { dtype, op, width, input, output } => {
            fold(arenas, *dtype, *op, *width, *input, *output)
        }
        Step::Softmax { log, rows, width, input, output } => {
            let (rest, output) = carve(&mut arenas.f32, *output);
            let form = if *log { kernels::Softmax::Logarithm } else { kernels::Softmax::Probability };
            kernels::softmax(isa, *rows, *width, form, rest.get(*input), output);
        }
        Step::LayerNorm { weight, bias, epsilon, rows, width, input, output } => {
            let (rest, output) = carve(&mut arenas.f32, *output);
            let weight = weight.map(|span| rest.get(span));
            let bias = bias.map(|span| rest.get(span));
            kernels::layer_norm(isa, *rows, *width, weight, bias, *epsilon, rest.get(*input), output);
        }
        Step::CumulativeSum { dtype, width, input, output } => numeric!(*dtype, T => {
            let (rest, output) = carve(T::arena_mut(arenas), *output);
            reduce::cumulative_sum::<T>(*width, rest.get(*input), output);
        }),
        Step::Gather { dtype, table, input, output } => any!(*dtype, T => {
            let (rest, output) = carve(T::arena_mut(arenas), *output);
            rows::gather(table, rest.get(*input), output);
        }),
        Step::Copy { dtype, input, output } => any!(*dtype, T => {
            T::arena_mut(arenas).slice_mut().copy_within(input.range(), output.start);
        }),
        Step::Concat { dtype, stride, pieces, output } => any!(*dtype, T => {
            let all = T::arena_mut(arenas).slice_mut();
            for piece in pieces.iter() {
                for row in 0..piece.input.len / piece.width.max(1) {
                    let from = piece.input.start + row * piece.width;
                    all.copy_within(from..from + piece.width, output.start + row * *stride + piece.at);
                }
            }
        }),
        Step::Cast { from, to, input, output } => cast(arenas, *from, *to, *input, *output),
        Step::Embedding { table, width, index, output } => {
            let all = &mut arenas.f32.slice_mut()[output.range()];
            return rows::embedding(table, *width, &arenas.i64.slice()[index.range()], all);
        }
        Step::Lstm { layer, steps, units, input, h, c, block } => {
            let (rest, block) = carve(&mut arenas.f32, *block);
            let (next_h, block) = block.split_at_mut(padded(*units));
            let (next_c, block) = block.split_at_mut(padded(*units));
            let (sequence, scratch) = block.split_at_mut(padded(*steps * *units));
            let (next_h, next_c) = (&mut next_h[..*units], &mut next_c[..*units]);
            next_h.copy_from_slice(rest.get(*h));
            next_c.copy_from_slice(rest.get(*c));
            let sequence = &mut sequence[..*steps * *units];
            if *steps == 1 {
                layer.step(rest.get(*input), next_h, next_c, scratch);
                sequence.copy_from_slice(next_h);
            } else {
                layer.window(*steps, rest.get(*input), next_h, next_c, sequence, scratch);
            }
        }
        Step::Gru { layer, steps, units, input, h, block } => {
            let (rest, block) = carve(&mut arenas.f32, *block);
            let (next_h, block) = block.split_at_mut(padded(*units));
            let (sequence, scratch) = block.split_at_mut(padded(*steps * *units));
            let next_h = &mut next_h[..*units];
            next_h.copy_from_slice(rest.get(*h));
            let sequence = &mut sequence[..*steps * *units];
            if *steps == 1 {
                layer.step(rest.get(*input), next_h, scratch);
                sequence.copy_from_slice(next_h);
            } else {
                layer.window(*steps, rest.get(*input), next_h, sequence, scratch);
            }
        }
        Step::Conv1d { layer, length, input, output } => {
            let (rest, output) = carve(&mut arenas.f32, *output);
            layer.run(*length, rest.get(*input), output);
        }
        Step::MatMul { dtype: DType::F64, m, k, n, a, b, output } => {
            let (rest, output) = carve(&mut arenas.f64, *output);
            rows::matmul(*m, *k, *n, rest.get(*a), rest.get(*b), output);
        }
        Step::MatMul { m, k, n, a, b, output, .. } => {
            let (rest, output) = carve(&mut arenas.f32, *output);
            rows::matmul(*m, *k, *n, rest.get(*a), rest.get(*b), output);
        }
    }
    Ok(())
}

/// Rounds a length up, so that the parts of a recurrent step's block start on cache lines.
pub(super) fn padded(len: usize) -> usize {
    len.next_multiple_of(super::arena::Arena::<f32>::UNIT)
}

/// Lends all of one arena for reading, and a span of an arena of another type for writing.
fn across<A: Element, B: Element>(arenas: &mut Arenas, output: Span, run: impl FnOnce(&[A], &mut [B])) {
    // The arena is taken out and put back, a move of a few words. Safe code borrows two generic fields at
    // once this way.
    let mut target = std::mem::take(B::arena_mut(arenas));
    run(A::arena(arenas).slice(), &mut target.slice_mut()[output.range()]);
    *B::arena_mut(arenas) = target;
}

fn choose<T: Element>(arenas: &mut Arenas, condition: Span, a: Span, b: Span, output: Span) {
    let mut target = std::mem::take(T::arena_mut(arenas));
    let (rest, out) = carve(&mut target, output);
    elementwise::choose(&arenas.bool.slice()[condition.range()], rest.get(a), rest.get(b), out);
    *T::arena_mut(arenas) = target;
}

fn fold(arenas: &mut Arenas, dtype: DType, op: ReduceOp, width: usize, input: Span, output: Span) {
    match op {
        ReduceOp::Any | ReduceOp::All => {
            let (rest, output) = carve(&mut arenas.bool, output);
            reduce::truth(op, width, rest.get(input), output);
        }
        ReduceOp::ArgMax | ReduceOp::ArgMin if matches!(dtype, DType::F32 | DType::F64) => {
            numeric!(dtype, T => across::<T, i64>(arenas, output, |all, output| {
                reduce::arg(op, width, &all[input.range()], output);
            }));
        }
        ReduceOp::ArgMax | ReduceOp::ArgMin => {
            let (rest, output) = carve(&mut arenas.i64, output);
            reduce::arg(op, width, rest.get(input), output);
        }
        _ => numeric!(dtype, T => {
            let (rest, output) = carve(T::arena_mut(arenas), output);
            reduce::reduce::<T>(op, width, rest.get(input), output);
        }),
    }
}

fn cast(arenas: &mut Arenas, from: DType, to: DType, input: Span, output: Span) {
    fn each<A: Element, B: Element>(
        arenas: &mut Arenas,
        input: Span,
        output: Span,
        convert: impl Fn(A) -> B,
    ) {
        across::<A, B>(arenas, output, |all, output| {
            for (output, &x) in output.iter_mut().zip(&all[input.range()]) {
                *output = convert(x);
            }
        });
    }
    use DType::{Bool, F32, F64, I64};
    match (from, to) {
        (F32, F64) => each(arenas, input, output, |x: f32| f64::from(x)),
        (F32, I64) => each(arenas, input, output, |x: f32| truncate(f64::from(x))),
        (F32, Bool) => each(arenas, input, output, |x: f32| x != 0.0),
        (F64, F32) => each(arenas, input, output, |x: f64| x as f32),
        (F64, I64) => each(arenas, input, output, |x: f64| truncate(x)),
        (F64, Bool) => each(arenas, input, output, |x: f64| x != 0.0),
        (I64, F32) => each(arenas, input, output, |x: i64| x as f32),
        (I64, F64) => each(arenas, input, output, |x: i64| x as f64),
        (I64, Bool) => each(arenas, input, output, |x: i64| x != 0),
        (Bool, F32) => each(arenas, input, output, |x: bool| f32::from(u8::from(x))),
        (Bool, F64) => each(arenas, input, output, |x: bool| f64::from(u8::from(x))),
        (Bool, I64) => each(arenas, input, output, |x: bool| i64::from(x)),
        // Lowering emits no cast to the same type.
        (F32, F32) | (F64, F64) | (I64, I64) | (Bool, Bool) => {}
    }
}

/// Converts towards zero. A value that does not fit becomes the smallest integer, as with the x86 conversion
/// that PyTorch compiles to.
fn truncate(x: f64) -> i64 {
    if (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&x) { x as i64 } else { i64::MIN }
}
