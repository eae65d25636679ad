//! The arguments of `predict` and `validate` that choose the backend and its weights.

use super::exit::{ExitCode, Failure};
use crate::policy::{Backend, Execution, Weights};

/// What runs the policy.
#[derive(Debug, clap::Args)]
pub(super) struct ExecutionArguments {
    /// What runs the policy: auto, native, torch or null
    #[arg(long, default_value = "auto")]
    backend: Backend,
    /// How the native backend holds weights: f32; bf16 (the fastest that a bundle's golden vectors allow, and
    /// f32 where bf16 is not faster); or one kernel by name, like bf16_avx512
    #[arg(long, default_value = "f32")]
    weights: Weights,
}

impl ExecutionArguments {
    pub(super) fn execution(&self) -> Result<Execution, Failure> {
        let execution = Execution { backend: self.backend, weights: self.weights };
        execution.check().map_err(|_| {
            let message = format!(
                "--weights {}: the backend {} has no such weights; allowed: with native or auto",
                self.weights.name(),
                self.backend.name()
            );
            Failure::new(ExitCode::Usage, message)
        })?;
        Ok(execution)
    }
}
