//! Element types, the data of constant tensors, and shapes.

use std::fmt;

/// The element types that a plan distinguishes. Narrower floats are widened to `F32`, and narrower integers
/// to `I64`, when they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// Single precision.
    F32,
    /// Double precision.
    F64,
    /// Signed 64-bit integers.
    I64,
    /// Truth values.
    Bool,
}

impl DType {
    /// Bytes of one element.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F64 | Self::I64 => 8,
            Self::Bool => 1,
        }
    }

    /// Whether elements are floating-point numbers.
    pub(crate) fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64)
    }

    /// The type with the number `code` in TorchScript source (`torch.to(x, 6)`), from
    /// `c10/core/ScalarType.h`. Returns `None` for types that a plan cannot compute in.
    pub(crate) fn from_code(code: i64) -> Option<Self> {
        match code {
            0..=4 => Some(Self::I64),
            6 => Some(Self::F32),
            7 => Some(Self::F64),
            11 => Some(Self::Bool),
            _ => None,
        }
    }

    /// The number of this type in TorchScript source.
    pub(crate) fn code(self) -> i64 {
        match self {
            Self::I64 => 4,
            Self::F32 => 6,
            Self::F64 => 7,
            Self::Bool => 11,
        }
    }

    /// The result type of an operation between two tensors that both have dimensions, by PyTorch's promotion
    /// lattice.
    pub(crate) fn promote(self, other: Self) -> Self {
        self.max_by_rank(other)
    }

    fn max_by_rank(self, other: Self) -> Self {
        if self.rank() >= other.rank() { self } else { other }
    }

    fn rank(self) -> u8 {
        match self {
            Self::Bool => 0,
            Self::I64 => 1,
            Self::F32 => 2,
            Self::F64 => 3,
        }
    }

    /// The category that decides promotion between a tensor with dimensions and one without.
    pub(crate) fn category(self) -> u8 {
        match self {
            Self::Bool => 0,
            Self::I64 => 1,
            Self::F32 | Self::F64 => 2,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::I64 => "i64",
            Self::Bool => "bool",
        })
    }
}

/// The elements of a constant. Views refer to them by position.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Data {
    F32(Vec<f32>),
    F64(Vec<f64>),
    I64(Vec<i64>),
    Bool(Vec<bool>),
}

impl Data {
    pub(crate) fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F64(_) => DType::F64,
            Self::I64(_) => DType::I64,
            Self::Bool(_) => DType::Bool,
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F64(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::Bool(values) => values.len(),
        }
    }

    /// The elements at `positions`, in that order.
    pub(crate) fn gather(&self, positions: impl Iterator<Item = usize>) -> Self {
        match self {
            Self::F32(values) => Self::F32(positions.map(|position| values[position]).collect()),
            Self::F64(values) => Self::F64(positions.map(|position| values[position]).collect()),
            Self::I64(values) => Self::I64(positions.map(|position| values[position]).collect()),
            Self::Bool(values) => Self::Bool(positions.map(|position| values[position]).collect()),
        }
    }

    /// `count` elements of type `dtype`, each equal to `value`.
    pub(crate) fn filled(dtype: DType, count: usize, value: f64) -> Self {
        match dtype {
            DType::F32 => Self::F32(vec![value as f32; count]),
            DType::F64 => Self::F64(vec![value; count]),
            DType::I64 => Self::I64(vec![value as i64; count]),
            DType::Bool => Self::Bool(vec![value != 0.0; count]),
        }
    }

    /// The element at `position` as a double. Integers beyond 2^53 lose their last bits.
    pub(crate) fn as_f64(&self, position: usize) -> f64 {
        match self {
            Self::F32(values) => f64::from(values[position]),
            Self::F64(values) => values[position],
            Self::I64(values) => values[position] as f64,
            Self::Bool(values) => f64::from(u8::from(values[position])),
        }
    }

    /// The elements, if they are single precision.
    pub(crate) fn as_f32(&self) -> Option<&[f32]> {
        match self {
            Self::F32(values) => Some(values),
            _ => None,
        }
    }
}

/// The product of `shape`. Returns `None` if it overflows.
pub(crate) fn count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size))
}

/// Row-major strides of `shape`.
pub(crate) fn contiguous_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for axis in (0..shape.len().saturating_sub(1)).rev() {
        strides[axis] = strides[axis + 1].saturating_mul(shape[axis + 1].max(1));
    }
    strides
}

/// The storage positions of a strided view, in row-major order of its shape.
pub(crate) struct Positions<'a> {
    shape: &'a [usize],
    strides: &'a [usize],
    index: Vec<usize>,
    position: usize,
    remaining: usize,
}

impl<'a> Positions<'a> {
    pub(crate) fn new(shape: &'a [usize], strides: &'a [usize], offset: usize) -> Self {
        let remaining = count(shape).unwrap_or(0);
        Self { shape, strides, index: vec![0; shape.len()], position: offset, remaining }
    }
}

impl Iterator for Positions<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.remaining == 0 {
            return None;
        }
        self.remaining -= 1;
        let current = self.position;
        for axis in (0..self.shape.len()).rev() {
            self.index[axis] += 1;
            self.position += self.strides[axis];
            if self.index[axis] < self.shape[axis] {
                break;
            }
            self.position -= self.index[axis] * self.strides[axis];
            self.index[axis] = 0;
        }
        Some(current)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining, Some(self.remaining))
    }
}

#[cfg(test)]
mod tests {
    use super::{DType, Positions, contiguous_strides};

    #[test]
    fn positions_of_a_transposed_view_run_down_the_columns() {
        let positions: Vec<usize> = Positions::new(&[3, 2], &[1, 3], 0).collect();
        assert_eq!(positions, [0, 3, 1, 4, 2, 5]);
    }

    #[test]
    fn positions_of_a_scalar_and_of_an_empty_view() {
        assert_eq!(Positions::new(&[], &[], 7).collect::<Vec<_>>(), [7]);
        assert_eq!(Positions::new(&[2, 0], &[0, 1], 7).count(), 0);
    }

    #[test]
    fn strides_are_row_major() {
        assert_eq!(contiguous_strides(&[2, 3, 4]), [12, 4, 1]);
        assert!(contiguous_strides(&[]).is_empty());
    }

    #[test]
    fn type_codes_round_trip() {
        for dtype in [DType::F32, DType::F64, DType::I64, DType::Bool] {
            assert_eq!(DType::from_code(dtype.code()), Some(dtype));
        }
        assert_eq!(DType::from_code(9), None);
    }
}
