//! Bundles and the real program: what is damaged, missing, foreign or wrong is refused with exit code 65, the file and
//! the reason, and nothing is armed.
//!
//! The bundles below tests/data are real TorchScript, written by python/fixtures/bundles.py.

#[path = "../support/mod.rs"]
mod support;

mod damage;
mod serving;
mod signatures;
mod state;
mod weights;

use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::Output;
use support::escapement;

pub(crate) const FILES: [&str; 3] = ["bundle.toml", "policy.pt", "golden.safetensors"];

/// A copy of a bundle that a test may spoil; it vanishes with it.
pub(crate) struct Copy {
    _root: tempfile::TempDir,
    pub(crate) path: PathBuf,
}

impl Copy {
    pub(crate) fn of(name: &str) -> Self {
        let root = tempfile::tempdir().expect("a temporary directory");
        let path = root.path().join("a.bundle");
        std::fs::create_dir(&path).expect("a new directory");
        let copy = Self { _root: root, path };
        for file in FILES {
            std::fs::copy(shipped(name).join(file), copy.file(file)).expect(file);
        }
        copy
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.file(name)).expect(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.file(name), bytes).expect(name);
    }

    /// The manifest's text without its seal.
    pub(crate) fn manifest(&self) -> String {
        let text = String::from_utf8(self.read("bundle.toml")).expect("UTF-8");
        let at = text.rfind("# sha256 ").expect("a manifest has a seal");
        text[..at].to_owned()
    }

    /// Writes a manifest with a seal of its own: what is wrong with it then is what it says.
    pub(crate) fn write_manifest(&self, text: &str) {
        self.write("bundle.toml", format!("{text}# sha256 {}\n", hash(text.as_bytes())).as_bytes());
    }

    /// Replaces a part of the manifest, which must be there.
    pub(crate) fn edit_manifest(&self, from: &str, to: &str) {
        let text = self.manifest();
        assert!(text.contains(from), "{from:?} is not in the manifest");
        self.write_manifest(&text.replacen(from, to, 1));
    }

    /// Writes a listed file and lists it as it is now.
    pub(crate) fn write_listed(&self, name: &str, bytes: &[u8]) {
        let before = self.read(name);
        self.write(name, bytes);
        self.edit_manifest(&hash(&before), &hash(bytes));
        let (from, to) = (format!("bytes = {}\n", before.len()), format!("bytes = {}\n", bytes.len()));
        self.edit_manifest(&from, &to);
    }
}

pub(crate) fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

pub(crate) fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `escapement bundle COMMAND PATH ARGUMENTS`
pub(crate) fn bundle(command: &str, path: &Path, arguments: &[&str]) -> Output {
    escapement().args(["bundle", command]).arg(path).args(arguments).output().expect("the program runs")
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Holds that a bundle is refused with 65 and one line that names the file and says all of `words`.
pub(crate) fn is_refused(path: &Path, arguments: &[&str], words: &[&str]) {
    let output = bundle("verify", path, arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(65), "{words:?}: {stderr}{}", stdout(&output));
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(output.stdout.is_empty());
    for word in words {
        assert!(stderr.contains(word), "{stderr} does not say {word:?}");
    }
}

/// Whether the long runs are asked for.
pub(crate) fn long() -> bool {
    std::env::var_os("ESCAPEMENT_LONG").is_some()
}
