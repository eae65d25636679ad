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
use super::exit::{ExitCode, Failure};
use crate::denormals::FlushDenormals;
use crate::policy::{Backend, Policy, PolicyFile, Widths};
use npyz::WriterBuilder;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
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
    /// What runs the policy: auto, native, torch or null
    #[arg(long, default_value = "auto")]
    backend: Backend,
}

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    let observations = Matrix::read(&arguments.observations)?;
    let file = PolicyFile::read(&arguments.policy)?;
    let mut policy =
        file.load(arguments.backend, Widths { observation: observations.width, action: None })?;
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

/// A float32 matrix, row by row.
struct Matrix {
    rows: usize,
    width: usize,
    values: Vec<f32>,
}

impl Matrix {
    fn read(path: &Path) -> Result<Self, Failure> {
        let bad = |reason: String| Failure::new(ExitCode::Usage, format!("{}: {reason}", path.display()));
        let file = File::open(path).map_err(|error| Failure::from_io(path, &error))?;
        let array = npyz::NpyFile::new(BufReader::new(file))
            .map_err(|error| bad(format!("not a .npy file: {error}")))?;
        let (rows, width) = match array.shape() {
            [rows, width] if *width > 0 => (*rows, *width),
            shape => return Err(bad(format!("shape {shape:?}; allowed: [n, observation]"))),
        };
        let in_memory =
            |count: u64| usize::try_from(count).map_err(|_| bad(format!("{count} elements are too many")));
        let (rows, width) = (in_memory(rows)?, in_memory(width)?);
        if array.order() != npyz::Order::C {
            return Err(bad("Fortran order; allowed: C order".to_owned()));
        }
        let descriptor = array.dtype().descr();
        let values = array
            .into_vec::<f32>()
            .map_err(|error| bad(format!("dtype {descriptor}: {error}; allowed: float32 ('<f4')")))?;
        Ok(Self { rows, width, values })
    }

    /// Writes beside the target and renames, so that a full disk leaves no half of a file.
    fn write(&self, path: &Path) -> Result<(), Failure> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        let temporary = PathBuf::from(temporary);
        self.write_to(&temporary)
            .and_then(|()| std::fs::rename(&temporary, path))
            .map_err(|error| Failure::from_io(path, &error))
    }

    fn write_to(&self, path: &Path) -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        let mut writer = npyz::WriteOptions::new()
            .default_dtype()
            .shape(&[self.rows as u64, self.width as u64])
            .writer(&mut file)
            .begin_nd()?;
        writer.extend(self.values.iter().copied())?;
        writer.finish()?;
        file.flush()
    }
}
