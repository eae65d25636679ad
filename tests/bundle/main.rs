//! Bundles in the real program. A damaged, incomplete, unsigned or wrong bundle is refused with exit code 65
//! and a line that names the file and the reason. No agent is armed with it.
//!
//! The bundles below `tests/data` are real TorchScript, written by `python/fixtures/bundles.py`.

mod damage;
mod serving;
mod signatures;
mod state;
mod weights;

use escapement_test_support::escapement;
pub(crate) use escapement_test_support::test_data as shipped;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::Output;

pub(crate) const FILES: [&str; 3] = ["bundle.toml", "policy.pt", "golden.safetensors"];

/// A copy of a bundle that a test may damage. It is removed when dropped.
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

    /// Returns the manifest's text without its seal.
    pub(crate) fn manifest(&self) -> String {
        let text = String::from_utf8(self.read("bundle.toml")).expect("UTF-8");
        let at = text.rfind("# sha256 ").expect("a manifest has a seal");
        text[..at].to_owned()
    }

    /// Writes a manifest with a valid seal, so that only its content can be refused.
    pub(crate) fn write_manifest(&self, text: &str) {
        self.write("bundle.toml", format!("{text}# sha256 {}\n", hash(text.as_bytes())).as_bytes());
    }

    /// Replaces a part of the manifest.
    ///
    /// # Panics
    /// Panics if the manifest does not contain `from`.
    pub(crate) fn edit_manifest(&self, from: &str, to: &str) {
        let text = self.manifest();
        assert!(text.contains(from), "{from:?} is not in the manifest");
        self.write_manifest(&text.replacen(from, to, 1));
    }

    /// Writes a listed file and updates its entry in the manifest.
    pub(crate) fn write_listed(&self, name: &str, bytes: &[u8]) {
        let before = self.read(name);
        self.write(name, bytes);
        self.edit_manifest(&hash(&before), &hash(bytes));
        let (from, to) = (format!("bytes = {}\n", before.len()), format!("bytes = {}\n", bytes.len()));
        self.edit_manifest(&from, &to);
    }
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

/// Asserts that a bundle is refused with 65 and one line that contains all of `words`.
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
