//! Kernels: free functions on slices and packed layers. After packing, they use no allocation, lock or system
//! call.
//!
//! Every kernel has a scalar reference in double precision, and one vector form that is generic over `lanes`
//! and compiled for AVX2 and for AVX-512. Weights are packed when a policy is loaded, for the width that
//! detection found.
//!
//! | file | holds |
//! |---|---|
//! | `isa` | the instruction sets, and how weights are stored |
//! | `weight_kernel` | both together, as one value with a name |
//! | `lanes`, `avx2`, `avx512`, `avx512_bf16` | one vector of `f32` |
//! | `dispatch` | running a kernel with the instructions of an `Isa` |
//! | `functions`, `activation` | exp, log, tanh and their like, with their error bounds |
//! | `storage`, `panel` | packed weights and the loops that multiply them |
//! | `dense`, `conv`, `recurrent` | layers |
//! | `elementwise`, `normalize` | functions of values and of rows |
//! | `limits` | the limits of the core, to compare kernels with |
//! | `conformance` | the tests of the kernels against the reference, and of the reference against PyTorch |
//!
//! Every call checks the lengths and panics with a message that names them. After that, no kernel touches a
//! value outside of its slices. Kernels do not set the denormal mode of the thread. Run them under
//! [`escapement_policy::denormals::FlushDenormals`], as all backends do.

#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only the scalar kernels run there"))]

#[macro_use]
mod activation;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_bf16;
#[cfg(test)]
mod conformance;
mod conv;
mod dense;
mod dispatch;
mod elementwise;
mod functions;
mod isa;
mod lanes;
#[cfg(target_arch = "x86_64")]
mod limits;
mod normalize;
mod panel;
mod recurrent;
mod storage;
mod weight_kernel;

pub use activation::Activation;
#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
#[cfg(target_arch = "x86_64")]
pub use avx512_bf16::Avx512Bf16;
pub use conv::{Conv1d, Shape as Conv1dShape};
pub use dense::Dense;
pub use elementwise::{Binary, activate, activate_in_place, binary, binary_scalar, scalar_binary};
pub use isa::{Isa, Precision};
#[cfg(target_arch = "x86_64")]
pub use limits::CoreLimits;
pub use normalize::{Softmax, layer_norm, softmax};
pub use recurrent::{Gru, Lstm};
pub use weight_kernel::WeightKernel;
