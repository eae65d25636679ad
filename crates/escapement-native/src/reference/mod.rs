//! Scalar kernels for operators that take little of a policy's time, and for every element type except `f32`.
//!
//! They are free functions on slices. If an operand is one element for all, its slice has one element.

pub(crate) mod elementwise;
pub(crate) mod reduce;
pub(crate) mod rows;
