//! `escapement predict POLICY --observations FILE.npy --out FILE.npy`: runs a policy over recorded
//! observations.
//!
//! ```text
//! $ escapement predict config/example.bundle --observations observations.npy --out actions.npy --backend torch
//! 10000 actions of 3 from 10000 observations of 24, backend torch
//! ```
//!
//! Observations are float32 `[n, observation]` in C order, actions are written as float32 `[n, action]`.
//! Rings and deadlines are not involved: this is the policy's own answer, for comparison with Python.
//!
//! A recurrent policy carries its state from row to row. It starts from the initial state at the first row,
//! and at every row where `--episode-starts` is not zero. With `--stochastic` the policy gets noise: row i
//! gets the noise of the sequence number i, as in a daemon with the same seed.

use super::CommandResult;
use super::confinement::Confinement;
use super::execution::ExecutionArguments;
use super::exit::{ExitCode, Failure};
use super::npy::Matrix;
use crate::bundle::{Candidate, Served, Trust};
use crate::policy::{Policy, Widths};
use escapement_engine::noise::Noise;
use escapement_policy::denormals::FlushDenormals;
use std::path::{Path, PathBuf};

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
    /// Begin an episode at every row that is not zero here: a .npy file, float32, [n, 1]
    #[arg(long, value_name = "FILE.npy")]
    episode_starts: Option<PathBuf>,
    /// With noise, as predict(obs, deterministic=False) draws it
    #[arg(long)]
    stochastic: bool,
    /// What the noise is drawn from
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        requires = "stochastic",
        allow_negative_numbers = true
    )]
    seed: u64,
    #[command(flatten)]
    confinement: Confinement,
}

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    let execution = arguments.execution.execution()?;
    let observations = Matrix::read(&arguments.observations)?;
    let starts = arguments.episode_starts.as_deref().map(|path| read_starts(path, observations.rows));
    let starts = starts.transpose()?;
    let candidate = Candidate::read(&arguments.policy, &Trust::default())?;
    let widths = Widths { observation: Some(observations.width), action: None };
    let kind = candidate.manifest().and_then(|manifest| manifest.noise).filter(|_| arguments.stochastic);
    let noise = kind.map(|noise| Noise::new(arguments.seed, noise.kind.into()));
    let (actions, backend) = arguments.confinement.run(execution, |loader| {
        let Served { mut policy, passed_over, .. } = loader.load(&candidate, widths)?;
        super::bundle::tell_passed_over(passed_over.as_ref());
        let actions = predict(policy.as_mut(), &observations, starts.as_ref(), noise)?;
        Ok((actions, policy.backend()))
    })?;
    actions.write(&arguments.out)?;
    println!(
        "{} actions of {} from {} observations of {}, backend {backend}",
        actions.rows, actions.width, observations.rows, observations.width,
    );
    Ok(ExitCode::Ok)
}

/// Reads where episodes begin: one number for each observation.
fn read_starts(path: &Path, rows: usize) -> Result<Matrix, Failure> {
    let starts = Matrix::read(path)?;
    if (starts.rows, starts.width) == (rows, 1) {
        return Ok(starts);
    }
    let found = format!("{}: {} rows of {}", path.display(), starts.rows, starts.width);
    Err(Failure::new(
        ExitCode::Usage,
        format!("{found}; allowed: one number for each of {rows} observations"),
    ))
}

fn predict(
    policy: &mut dyn Policy,
    observations: &Matrix,
    starts: Option<&Matrix>,
    noise: Option<Noise>,
) -> Result<Matrix, Failure> {
    let _flush = FlushDenormals::enter();
    policy.enter_thread()?;
    policy.reset();
    policy.noise_mut().fill(0.0);
    let width = policy.dimensions().action;
    let mut values = vec![0.0; observations.rows * width];
    let rows = observations.values.chunks_exact(observations.width).zip(values.chunks_exact_mut(width));
    for (row, (observation, action)) in rows.enumerate() {
        if starts.is_some_and(|starts| starts.values[row] != 0.0) {
            policy.reset();
        }
        if let Some(noise) = &noise {
            noise.fill(row as u64, policy.noise_mut());
        }
        policy.infer(observation, action).map_err(|fault| {
            let detail = policy.last_fault().map_or_else(String::new, |text| format!(": {text}"));
            Failure::new(ExitCode::Bundle, format!("observation {row}: {fault}{detail}"))
        })?;
    }
    Ok(Matrix { rows: observations.rows, width, values })
}
