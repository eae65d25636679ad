//! Scalar kernels: operators that no policy spends its time in, and every element type but `f32`.
//!
//! Free functions on slices; where an operand may be one element for all, its slice has one element.

pub(crate) mod elementwise;
pub(crate) mod reduce;
pub(crate) mod rows;
