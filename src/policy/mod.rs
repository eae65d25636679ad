//! The backends of a policy, and the choice between them.
//!
//! | backend | what it runs | built |
//! |---|---|---|
//! | `native` | the TorchScript archive, lowered to a fixed plan of SIMD kernels | always |
//! | `torch` | the TorchScript archive, through libtorch | feature `torch` |
//! | `null` | nothing: answers zeros at once, to measure everything around a policy | always |

mod backend;
#[cfg(feature = "torch")]
mod torch;
mod weights;

pub use backend::{Backend, Execution, PolicyFile, Widths};
pub use escapement_native as native;
pub use escapement_native::choice::{WeightCandidate, WeightChoice};
pub use escapement_native::kernels::{Precision, WeightKernel};
pub use escapement_policy::{Dimensions, Fault, Null, Policy, PolicyError, Signature};
#[cfg(feature = "torch")]
pub use torch::Torch;
pub use weights::Weights;
