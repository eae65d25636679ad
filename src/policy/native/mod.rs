//! The native backend: the TorchScript archive, lowered to a fixed plan of SIMD kernels.

pub mod kernels;
