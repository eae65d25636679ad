//! L2. Policy bundles: directories with a policy, its manifest, and golden vectors. The vectors prove, on the
//! machine and backend that will serve, that the policy computes what the trained model computed.
//!
//! The order of checks is that of `docs/BUNDLE.md`: manifest, signature, every size and hash, shapes, golden
//! vectors. Each file is read once, so that the hashed bytes are the bytes that run. The first problem ends
//! the loading with the file and the reason. Then no part of the bundle stays in use.
//!
//! | module | holds |
//! |---|---|
//! | `names` | the names of the files |
//! | `files` | reading under limits, sizes, hashes |
//! | `trust` | signatures |
//! | `manifest` | `bundle.toml` |
//! | `safetensors`, `golden` | the vectors, and running them |
//! | `agreement` | comparing the answers of two policies |
//! | `candidate` | what was read at a path, verified and not loaded |
//! | `load` | the choice of backend and sandbox, and a policy that may serve |

mod agreement;
mod candidate;
mod error;
mod files;
mod golden;
mod load;
mod manifest;
mod names;
mod safetensors;
mod trust;
mod weigh;

pub use crate::hex::hex;
pub use agreement::{Agreement, AgreementError, Rows, agreement};
pub use candidate::Candidate;
pub use error::BundleError;
pub use golden::{Golden, Proof, Tolerance};
pub use load::{LoadError, PassedOver, Sandbox, Served, Unconfined, Verified, load, needs_sandbox};
pub use manifest::{
    ActionKind, ActionSpace, FileEntry, MAX_BURN_IN, Manifest, Noise, NoiseKind, ObservationSpace, Recurrent,
    Segment, SegmentKind, Slo, Stack, State, StateRule, Statistics, Versions,
};
pub use names::{GOLDEN, MANIFEST, POLICY, SIGNATURE};
pub use trust::{SignatureState, Trust, is_public_key};
pub use weigh::{Weighed, weigh};

use crate::policy::PolicyFile;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// A bundle whose files are what its manifest says. None of its code has run.
///
/// ```no_run
/// use escapement::bundle::{Bundle, Trust};
/// use escapement::policy::{Backend, Widths};
/// use std::path::Path;
///
/// // Reads the manifest and checks every size and hash. `Trust` can require a signature.
/// let bundle = Bundle::open(Path::new("config/example.bundle"), &Trust::default())?;
/// println!("{}: {} features", bundle.manifest().name, bundle.manifest().observation.dimension);
///
/// // Loads the policy, and runs the golden vectors on it.
/// let served = bundle.load(Backend::Native, Widths { observation: None, action: None })?;
/// println!("backend {}, {:?}", served.policy.backend(), served.proof);
/// # Ok::<(), escapement::bundle::BundleError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Bundle {
    path: PathBuf,
    manifest: Manifest,
    sha256: [u8; 32],
    signature: SignatureState,
    policy: PolicyFile,
    golden: Golden,
}

impl Bundle {
    /// Reads and verifies the bundle in a directory.
    ///
    /// # Errors
    /// Fails with [`BundleError::Unreadable`] if there is no directory, and with [`BundleError::Refused`] for
    /// the first file that is wrong.
    pub fn open(path: &Path, trust: &Trust) -> Result<Self, BundleError> {
        let unreadable = |source| BundleError::Unreadable { path: path.to_owned(), source };
        if !std::fs::metadata(path).map_err(unreadable)?.is_dir() {
            return Err(BundleError::refused(path, "not a directory, and so not a bundle"));
        }
        files::refuse_strangers(path)?;
        let manifest_bytes = files::read_manifest(path)?;
        // Before the manifest is parsed: with a required signature, unsigned bytes never reach the parser.
        let signature = files::read_signature(path)?;
        let signature = trust.judge(path, &manifest_bytes, signature.as_deref())?;
        let refused = |name: &str, reason: String| BundleError::refused(&path.join(name), reason);
        let manifest = Manifest::parse(&manifest_bytes).map_err(|reason| refused(MANIFEST, reason))?;
        let policy = files::read_listed(path, &manifest.policy)?;
        let golden = files::read_listed(path, &manifest.golden)?;
        let golden = Golden::read(&golden, &manifest).map_err(|reason| refused(GOLDEN, reason))?;
        let policy = PolicyFile::from_verified(
            path.join(POLICY),
            policy,
            manifest.policy.sha256,
            manifest.signature(),
        );
        let sha256 = Sha256::digest(&manifest_bytes).into();
        Ok(Self { path: path.to_owned(), manifest, sha256, signature, policy, golden })
    }

    /// Returns the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the hash of the manifest's bytes, which identifies the whole bundle.
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    /// Returns the state of its signature.
    pub fn signature(&self) -> &SignatureState {
        &self.signature
    }

    /// Returns the policy's file, which is verified and not loaded.
    pub fn policy_file(&self) -> &PolicyFile {
        &self.policy
    }

    /// Returns the golden vectors.
    pub fn golden(&self) -> &Golden {
        &self.golden
    }
}
