//! The TorchScript fixtures: from `scripts/fixtures.sh`, or from the directory that ESCAPEMENT_FIXTURES names.

// Each test program uses its own part of this.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

/// Widths of every fixture.
pub const OBSERVATION: usize = 32;
/// Widths of every fixture.
pub const ACTION: usize = 3;

/// An observation for which the `*_sometimes` modules fail, and one for which they do not.
pub const FAULTY: [f32; OBSERVATION] = [2.0; OBSERVATION];
/// See [`FAULTY`].
pub const GOOD: [f32; OBSERVATION] = [0.5; OBSERVATION];

pub static FIXTURES: LazyLock<PathBuf> = LazyLock::new(|| {
    if let Some(directory) = std::env::var_os("ESCAPEMENT_FIXTURES") {
        return directory.into();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/fixtures.sh");
    let output =
        Command::new(script).stderr(Stdio::inherit()).output().expect("bash runs scripts/fixtures.sh");
    assert!(output.status.success(), "scripts/fixtures.sh failed");
    String::from_utf8(output.stdout).expect("a path in UTF-8").trim_end().into()
});

/// The path of one fixture.
pub fn fixture(name: &str) -> PathBuf {
    FIXTURES.join(name)
}
