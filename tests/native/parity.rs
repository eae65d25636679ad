//! Parity: the native backend against PyTorch, on every instruction set of this machine.
//!
//! `python/parity_cases` exports policies and networks with PyTorch and records PyTorch's answers.
//! `scripts/parity.sh` runs it once and keeps the result in the cache. `ESCAPEMENT_PARITY` names that
//! directory. Without it there is nothing to compare, and the test says so. Continuous integration sets
//! `ESCAPEMENT_PARITY_REQUIRED=1`, which makes that a failure.
//!
//! A case is `NAME.pt`, `NAME.observations.npy` (`[rows, observation]`), `NAME.actions.npy` (`[rows,
//! action]`) and `NAME.trusted.npy` (`[rows]`). In rows with `trusted = 0`, PyTorch's own single and double
//! precision disagree (a value beside a step of `round`, two logits almost equal), so no answer is right.
//! Rows run in order, and state is carried from row to row. The weights of a case named `bf16-...` are exact
//! in bfloat16, so bfloat16 weights must give the same answers.

use std::fs;
use std::path::{Path, PathBuf};

use escapement::denormals::FlushDenormals;
use escapement::policy::Policy;
use escapement::policy::native::kernels::{Isa, Precision};
use escapement::policy::native::{Native, Options};

/// Absolute or relative.
const TOLERANCE: f32 = 1e-5;

#[test]
fn native_equals_pytorch() {
    let Some(directory) = std::env::var_os("ESCAPEMENT_PARITY").map(PathBuf::from) else {
        assert!(
            std::env::var_os("ESCAPEMENT_PARITY_REQUIRED").is_none(),
            "ESCAPEMENT_PARITY names no directory: run scripts/parity.sh"
        );
        eprintln!(
            "not compared with PyTorch: ESCAPEMENT_PARITY is not set (scripts/parity.sh prints what to set)"
        );
        return;
    };
    let mut cases: Vec<PathBuf> = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.expect("a directory entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "pt"))
        .collect();
    cases.sort();
    assert!(!cases.is_empty(), "{} holds no cases", directory.display());
    let _flush = FlushDenormals::enter();
    let mut report = Report::default();
    for case in &cases {
        compare(case, &mut report);
    }
    eprintln!(
        "{} networks, {} rows on each of {} instruction sets, largest difference {:.1e}; \
         {} of the networks also with bf16 weights, largest difference {:.1e}",
        cases.len(),
        report.rows,
        Isa::available().len(),
        report.worst[0],
        report.rounded,
        report.worst[1],
    );
    assert!(report.rounded > 0, "{} holds no case with weights for bf16", directory.display());
    assert!(report.failures.is_empty(), "{} failures\n{}", report.failures.len(), report.shown());
}

#[derive(Default)]
struct Report {
    rows: usize,
    /// Networks that also ran with bf16 weights.
    rounded: usize,
    /// With weights in single precision and in bfloat16.
    worst: [f32; 2],
    failures: Vec<String>,
}

impl Report {
    fn shown(&self) -> String {
        self.failures.iter().take(60).cloned().collect::<Vec<_>>().join("\n")
    }
}

fn compare(path: &Path, report: &mut Report) {
    let observations = Array::read(&path.with_extension("observations.npy"));
    let expected = Array::read(&path.with_extension("actions.npy"));
    let trusted = Array::read(&path.with_extension("trusted.npy"));
    assert_eq!(observations.rows(), expected.rows());
    assert_eq!(observations.rows(), trusted.rows());
    report.rows += observations.rows();
    let rounded = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("bf16-"));
    report.rounded += usize::from(rounded);
    let isas = |precision| Isa::available_for(precision).into_iter().map(move |isa| (isa, precision));
    let both = isas(Precision::F32).chain(isas(Precision::Bf16).filter(|_| rounded));
    for (isa, precision) in both {
        let options = Options {
            observation: Some(observations.width()),
            isa: Some(isa),
            precision,
            ..Options::default()
        };
        let mut native = match Native::load(path, &options) {
            Ok(native) => native,
            Err(error) => {
                report.failures.push(error.to_string());
                return;
            }
        };
        let mut action = vec![0.0; native.dimensions().action];
        if action.len() != expected.width() {
            report.failures.push(format!(
                "{}: {} actions for {}",
                path.display(),
                action.len(),
                expected.width()
            ));
            return;
        }
        for row in 0..observations.rows() {
            if let Err(fault) = native.infer(observations.row(row), &mut action) {
                report.failures.push(format!("{} ({}) row {row}: {fault}", path.display(), isa.name()));
                break;
            }
            let (at, difference) = largest_difference(&action, expected.row(row));
            if trusted.row(row)[0] == 0.0 {
                continue;
            }
            let worst = &mut report.worst[usize::from(precision == Precision::Bf16)];
            *worst = worst.max(difference);
            if difference.is_nan() || difference > TOLERANCE {
                report.failures.push(format!(
                    "{} ({}) row {row}, element {at}: {} for {}",
                    path.display(),
                    isa.name(),
                    action[at],
                    expected.row(row)[at]
                ));
                break;
            }
        }
    }
}

/// Returns the element that differs most, and the difference: absolute or relative, whichever is smaller.
fn largest_difference(actual: &[f32], expected: &[f32]) -> (usize, f32) {
    let mut worst = (0, 0.0f32);
    for (at, (&a, &b)) in actual.iter().zip(expected).enumerate() {
        let same = a.to_bits() == b.to_bits() || a == b || (a.is_nan() && b.is_nan());
        let difference = if same { 0.0 } else { (a - b).abs() / b.abs().max(1.0) };
        if difference.is_nan() || difference > worst.1 {
            worst = (at, difference);
        }
        if difference.is_nan() {
            break;
        }
    }
    worst
}

/// Reads a two-dimensional array of little-endian `f32` in NumPy's format, version 1.
struct Array {
    values: Vec<f32>,
    shape: [usize; 2],
}

impl Array {
    fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(bytes.starts_with(b"\x93NUMPY\x01\x00"), "{}: not npy version 1", path.display());
        let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        let text = std::str::from_utf8(&bytes[10..10 + header]).expect("an ASCII header");
        assert!(
            text.contains("'<f4'") && text.contains("'fortran_order': False"),
            "{}: {text}",
            path.display()
        );
        let sizes = text.split_once('(').and_then(|(_, rest)| rest.split_once(')')).expect("a shape").0;
        let sizes: Vec<usize> = sizes.split(',').filter_map(|size| size.trim().parse().ok()).collect();
        let shape = [sizes[0], sizes.get(1).copied().unwrap_or(1)];
        let values: Vec<f32> =
            bytes[10 + header..].as_chunks().0.iter().map(|&chunk| f32::from_le_bytes(chunk)).collect();
        assert_eq!(values.len(), shape[0] * shape[1]);
        Self { values, shape }
    }

    fn rows(&self) -> usize {
        self.shape[0]
    }

    fn width(&self) -> usize {
        self.shape[1]
    }

    fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.shape[1]..][..self.shape[1]]
    }
}
