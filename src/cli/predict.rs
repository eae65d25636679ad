//! `escapement predict POLICY --observations FILE.npy --out FILE.npy`: runs a policy over recorded observations.
//!
//! ```text
//! $ escapement predict config/example.bundle --observations observations.npy --out actions.npy --backend torch
//! 10000 actions of 3 from 10000 observations of 24, backend torch
//! ```
//!
//! Observations are float32 `[n, observation]` in C order, actions are written as float32 `[n, action]`. Neither rings
//! nor deadlines are involved: this is the policy's own answer, to be compared with the one in Python. A recurrent
//! policy carries its state from row to row, beginning with its initial one.

use super::CommandResult;
use super::execution::ExecutionArguments;
use super::exit::{ExitCode, Failure};
use super::npy::Matrix;
use crate::bundle::{Candidate, Served, Trust};
use crate::denormals::FlushDenormals;
use crate::policy::{Policy, Widths};
use std::path::PathBuf;

/// Run a policy over recorded observations
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// A TorchScript file, or a bundle directory
    policy: PathBuf,
    /// Observations: a .npy file, float32, [n, observation]
    #[arg(long, value_name = "FILE.npy")]
    observations: PathBuf,
    /// Where to write the actions: a .npy file, float32, [n, action]
    #[arg(long, value_name = "FILE.npy")]
    out: PathBuf,
    #[command(flatten)]
    execution: ExecutionArguments,
}

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    let execution = arguments.execution.execution()?;
    let observations = Matrix::read(&arguments.observations)?;
    let candidate = Candidate::read(&arguments.policy, &Trust::default())?;
    let widths = Widths { observation: Some(observations.width), action: None };
    let Served { mut policy, passed_over, .. } = candidate.load(execution, widths)?;
    super::bundle::tell_passed_over(passed_over.as_ref());
    let actions = predict(policy.as_mut(), &observations)?;
    actions.write(&arguments.out)?;
    println!(
        "{} actions of {} from {} observations of {}, backend {}",
        actions.rows,
        actions.width,
        observations.rows,
        observations.width,
        policy.backend()
    );
    Ok(ExitCode::Ok)
}

fn predict(policy: &mut dyn Policy, observations: &Matrix) -> Result<Matrix, Failure> {
    let _flush = FlushDenormals::enter();
    policy.enter_thread()?;
    policy.reset();
    let width = policy.dimensions().action;
    let mut values = vec![0.0; observations.rows * width];
    let rows = observations.values.chunks_exact(observations.width).zip(values.chunks_exact_mut(width));
    for (row, (observation, action)) in rows.enumerate() {
        policy.infer(observation, action).map_err(|fault| {
            let detail = policy.last_fault().map_or_else(String::new, |text| format!(": {text}"));
            Failure::new(ExitCode::Bundle, format!("observation {row}: {fault}{detail}"))
        })?;
    }
    Ok(Matrix { rows: observations.rows, width, values })
}
