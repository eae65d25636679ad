//! TorchScript files exported by PyTorch, from `scripts/fixtures.sh` or from the directory in
//! `ESCAPEMENT_FIXTURES`.

use crate::in_repository;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

/// Features of an observation, for every fixture.
pub const OBSERVATION: usize = 32;
/// Elements of an action, for every fixture.
pub const ACTION: usize = 3;

/// An observation for which the `*_sometimes` modules fail.
pub const FAULTY: [f32; OBSERVATION] = [2.0; OBSERVATION];
/// An observation for which the `*_sometimes` modules do not fail.
pub const GOOD: [f32; OBSERVATION] = [0.5; OBSERVATION];

static FIXTURES: LazyLock<PathBuf> = LazyLock::new(|| {
    if let Some(directory) = std::env::var_os("ESCAPEMENT_FIXTURES") {
        return directory.into();
    }
    let script = in_repository("scripts/fixtures.sh");
    let output =
        Command::new(script).stderr(Stdio::inherit()).output().expect("bash runs scripts/fixtures.sh");
    assert!(output.status.success(), "scripts/fixtures.sh failed");
    String::from_utf8(output.stdout).expect("a path in UTF-8").trim_end().into()
});

/// Returns the path of a fixture. The first call makes the fixtures if they are not there yet.
pub fn fixture(name: &str) -> PathBuf {
    FIXTURES.join(name)
}
