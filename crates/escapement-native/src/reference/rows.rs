//! Moves rows, and multiplies matrices that are both computed.

use escapement_policy::Fault;

/// `output[i] = input[table[i]]`.
pub(crate) fn gather<T: Copy>(table: &[u32], input: &[T], output: &mut [T]) {
    for (output, &from) in output.iter_mut().zip(table) {
        *output = input[from as usize];
    }
}

/// Copies rows of a table, chosen by index.
///
/// # Errors
/// [`Fault::Raised`] if an index is outside the table. PyTorch raises an error too.
pub(crate) fn embedding(table: &[f32], width: usize, index: &[i64], output: &mut [f32]) -> Result<(), Fault> {
    for (row, &index) in output.chunks_exact_mut(width.max(1)).zip(index) {
        let start =
            usize::try_from(index).ok().and_then(|index| index.checked_mul(width)).ok_or(Fault::Raised)?;
        let found = table.get(start..start.saturating_add(width)).ok_or(Fault::Raised)?;
        row.copy_from_slice(found);
    }
    Ok(())
}

/// The type in which products of computed matrices are summed.
pub(crate) trait Accumulate: Copy {
    fn to_f64(self) -> f64;
    fn from_f64(value: f64) -> Self;
}

impl Accumulate for f32 {
    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    fn from_f64(value: f64) -> Self {
        value as f32
    }
}

impl Accumulate for f64 {
    fn to_f64(self) -> f64 {
        self
    }

    fn from_f64(value: f64) -> Self {
        value
    }
}

/// `[batch, m, k] × [batch, k, n]`.
pub(crate) fn matmul<T: Accumulate>(m: usize, k: usize, n: usize, a: &[T], b: &[T], output: &mut [T]) {
    if m * n == 0 {
        return;
    }
    for (batch, output) in output.chunks_exact_mut(m * n).enumerate() {
        let (a, b) = (&a[batch * m * k..][..m * k], &b[batch * k * n..][..k * n]);
        for row in 0..m {
            for column in 0..n {
                let sum: f64 = (0..k).map(|at| a[row * k + at].to_f64() * b[at * n + column].to_f64()).sum();
                output[row * n + column] = T::from_f64(sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{embedding, matmul};
    use escapement_policy::Fault;

    #[test]
    fn an_index_outside_the_table_is_a_fault() {
        let mut output = [0.0; 2];
        assert_eq!(embedding(&[1.0, 2.0, 3.0, 4.0], 2, &[1], &mut output), Ok(()));
        assert_eq!(output, [3.0, 4.0]);
        for index in [-1, 2, i64::MIN, i64::MAX] {
            assert_eq!(embedding(&[1.0, 2.0, 3.0, 4.0], 2, &[index], &mut output), Err(Fault::Raised));
        }
    }

    #[test]
    fn a_product_of_two_by_two() {
        let mut output = [0.0f32; 4];
        matmul(2, 2, 2, &[1.0f32, 2.0, 3.0, 4.0], &[5.0, 6.0, 7.0, 8.0], &mut output);
        assert_eq!(output, [19.0, 22.0, 43.0, 50.0]);
    }
}
