//! Reductions of rows to one value each. Sums are kept in double precision.

use crate::ir::graph::ReduceOp;

/// A number whose rows can be reduced.
pub(crate) trait Foldable: Copy + PartialOrd {
    fn to_f64(self) -> f64;
    fn from_f64(value: f64) -> Self;
    fn sum(row: &[Self]) -> Self;
    fn product(row: &[Self]) -> Self;

    /// Replaces each element by the sum of it and all elements before it.
    fn running_sum(row: &[Self], output: &mut [Self]) {
        let mut sum = 0.0;
        for (output, x) in output.iter_mut().zip(row) {
            sum += x.to_f64();
            *output = Self::from_f64(sum);
        }
    }
}

impl Foldable for f32 {
    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    fn from_f64(value: f64) -> Self {
        value as f32
    }

    fn sum(row: &[Self]) -> Self {
        row.iter().map(|&x| f64::from(x)).sum::<f64>() as f32
    }

    fn product(row: &[Self]) -> Self {
        row.iter().map(|&x| f64::from(x)).product::<f64>() as f32
    }
}

impl Foldable for f64 {
    fn to_f64(self) -> f64 {
        self
    }

    fn from_f64(value: f64) -> Self {
        value
    }

    fn sum(row: &[Self]) -> Self {
        row.iter().sum()
    }

    fn product(row: &[Self]) -> Self {
        row.iter().product()
    }
}

impl Foldable for i64 {
    fn to_f64(self) -> f64 {
        self as f64
    }

    fn from_f64(value: f64) -> Self {
        value as i64
    }

    fn sum(row: &[Self]) -> Self {
        row.iter().fold(0, |sum, &x| sum.wrapping_add(x))
    }

    fn product(row: &[Self]) -> Self {
        row.iter().fold(1, |product, &x| product.wrapping_mul(x))
    }

    fn running_sum(row: &[Self], output: &mut [Self]) {
        let mut sum = 0i64;
        for (output, &x) in output.iter_mut().zip(row) {
            sum = sum.wrapping_add(x);
            *output = sum;
        }
    }
}

/// The position of the first extreme. NaN counts as more extreme than every number, as in PyTorch.
fn extreme<T: Foldable>(row: &[T], beats: impl Fn(T, T) -> bool) -> usize {
    let mut best = 0;
    for (at, &x) in row.iter().enumerate().skip(1) {
        let best_is_nan = row[best].to_f64().is_nan();
        if !best_is_nan && (x.to_f64().is_nan() || beats(x, row[best])) {
            best = at;
        }
    }
    best
}

fn variance<T: Foldable>(row: &[T], correction: f64) -> f64 {
    let mean = row.iter().map(|x| x.to_f64()).sum::<f64>() / row.len() as f64;
    let squares: f64 = row.iter().map(|x| (x.to_f64() - mean).powi(2)).sum();
    squares / (row.len() as f64 - correction).max(0.0)
}

fn norm<T: Foldable>(row: &[T], order: f64) -> f64 {
    let sizes = row.iter().map(|x| x.to_f64().abs());
    if order == 2.0 {
        sizes.map(|x| x * x).sum::<f64>().sqrt()
    } else if order == 1.0 {
        sizes.sum()
    } else if order == 0.0 {
        sizes.filter(|&x| x != 0.0).count() as f64
    } else if order == f64::INFINITY {
        sizes.fold(0.0, |a, b| if a > b || a.is_nan() { a } else { b })
    } else if order == f64::NEG_INFINITY {
        sizes.fold(f64::INFINITY, |a, b| if a < b || a.is_nan() { a } else { b })
    } else {
        sizes.map(|x| x.powf(order)).sum::<f64>().powf(1.0 / order)
    }
}

/// Reduces each row of `width` elements.
pub(crate) fn reduce<T: Foldable>(op: ReduceOp, width: usize, input: &[T], output: &mut [T]) {
    for (at, output) in output.iter_mut().enumerate() {
        let row = &input[at * width..(at + 1) * width];
        *output = match op {
            ReduceOp::Sum => T::sum(row),
            ReduceOp::Prod => T::product(row),
            ReduceOp::Mean => T::from_f64(row.iter().map(|x| x.to_f64()).sum::<f64>() / width as f64),
            ReduceOp::Max => row[extreme(row, |a, b| a > b)],
            ReduceOp::Min => row[extreme(row, |a, b| a < b)],
            ReduceOp::Norm(order) => T::from_f64(norm(row, order)),
            ReduceOp::Variance(correction) => T::from_f64(variance(row, correction)),
            ReduceOp::LogSumExp => {
                let top = row[extreme(row, |a, b| a > b)].to_f64();
                let shift = if top.is_finite() { top } else { 0.0 };
                T::from_f64(row.iter().map(|x| (x.to_f64() - shift).exp()).sum::<f64>().ln() + shift)
            }
            // These return other types and have their own functions.
            ReduceOp::ArgMax | ReduceOp::ArgMin | ReduceOp::Any | ReduceOp::All => T::from_f64(0.0),
        };
    }
}

/// The position of each row's extreme.
pub(crate) fn arg<T: Foldable>(op: ReduceOp, width: usize, input: &[T], output: &mut [i64]) {
    for (at, output) in output.iter_mut().enumerate() {
        let row = &input[at * width..(at + 1) * width];
        let best =
            if op == ReduceOp::ArgMin { extreme(row, |a, b| a < b) } else { extreme(row, |a, b| a > b) };
        *output = best as i64;
    }
}

/// Whether any element, or every element, of each row is true.
pub(crate) fn truth(op: ReduceOp, width: usize, input: &[bool], output: &mut [bool]) {
    for (at, output) in output.iter_mut().enumerate() {
        let row = &input[at * width..(at + 1) * width];
        *output = if op == ReduceOp::All { row.iter().all(|&x| x) } else { row.iter().any(|&x| x) };
    }
}

/// The running sum of each row.
pub(crate) fn cumulative_sum<T: Foldable>(width: usize, input: &[T], output: &mut [T]) {
    for (input, output) in input.chunks_exact(width.max(1)).zip(output.chunks_exact_mut(width.max(1))) {
        T::running_sum(input, output);
    }
}

#[cfg(test)]
mod tests {
    use super::{arg, reduce};
    use crate::ir::graph::ReduceOp;

    #[test]
    fn the_first_of_equal_maxima_is_chosen_and_nan_wins() {
        let mut output = [0; 2];
        arg(ReduceOp::ArgMax, 3, &[1.0f32, 3.0, 3.0, 2.0, f32::NAN, 9.0], &mut output);
        assert_eq!(output, [1, 1]);
    }

    #[test]
    fn logsumexp_does_not_overflow() {
        let mut output = [0.0f32];
        reduce(ReduceOp::LogSumExp, 2, &[1000.0f32, 1000.0], &mut output);
        assert!((output[0] - 1_000.693_1).abs() < 1e-3);
    }
}
