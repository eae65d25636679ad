//! From a path to a policy that is ready to serve, and what is known about it.

use super::error::BundleError;
use super::golden::Proof;
use super::trust::{SignatureState, Trust};
use super::{Bundle, Manifest};
use crate::policy::{Backend, Execution, Policy, PolicyError, PolicyFile, Precision, Widths};
use std::path::Path;

/// What a path led to: a bundle, verified, or a TorchScript file for which nothing vouches.
#[derive(Debug, Clone)]
pub enum Candidate {
    /// A bundle.
    Bundle(Box<Bundle>),
    /// A file that stands alone: no manifest, no golden vectors. It runs, and reports call it unproven.
    Unproven(PolicyFile),
}

/// A policy that may serve.
pub struct Served {
    /// The policy, in its initial state.
    pub policy: Box<dyn Policy>,
    /// What its golden vectors have shown on this very policy; `None` where there are none.
    pub proof: Option<Proof>,
    /// The backend that `auto` would rather have taken, and why it did not.
    pub passed_over: Option<PassedOver>,
}

/// A backend that was not taken.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PassedOver {
    /// Its name.
    pub backend: &'static str,
    /// Why.
    pub reason: String,
}

impl std::fmt::Debug for Served {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Served")
            .field("backend", &self.policy.backend())
            .field("proof", &self.proof)
            .field("passed_over", &self.passed_over)
            .finish_non_exhaustive()
    }
}

impl Candidate {
    /// Reads what is at `path`: a directory is a bundle, anything else a TorchScript file.
    ///
    /// # Errors
    /// As [`Bundle::open`]; a file that stands alone is refused where `trust` requires a signature.
    pub fn read(path: &Path, trust: &Trust) -> Result<Self, BundleError> {
        let unreadable = |source| BundleError::Unreadable { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(unreadable)?.is_dir() {
            return Bundle::open(path, trust).map(|bundle| Self::Bundle(Box::new(bundle)));
        }
        if trust.require_signature {
            let reason = "a signature is required, and only a bundle can have one";
            return Err(BundleError::refused(path, reason));
        }
        Ok(Self::Unproven(PolicyFile::read(path)?))
    }

    /// The hash that identifies it: of a bundle's manifest, of a file that stands alone.
    pub fn sha256(&self) -> [u8; 32] {
        match self {
            Self::Bundle(bundle) => bundle.sha256(),
            Self::Unproven(file) => file.sha256(),
        }
    }

    /// The TorchScript file, read and not loaded.
    pub fn policy_file(&self) -> &PolicyFile {
        match self {
            Self::Bundle(bundle) => bundle.policy_file(),
            Self::Unproven(file) => file,
        }
    }

    /// The manifest, where there is one.
    pub fn manifest(&self) -> Option<&Manifest> {
        match self {
            Self::Bundle(bundle) => Some(bundle.manifest()),
            Self::Unproven(_) => None,
        }
    }

    /// What is known about its signature.
    pub fn signature(&self) -> &SignatureState {
        match self {
            Self::Bundle(bundle) => bundle.signature(),
            Self::Unproven(_) => &SignatureState::Absent,
        }
    }

    /// Loads the policy with a backend; a bundle's golden vectors are run on it.
    ///
    /// # Errors
    /// As [`Bundle::load`] and [`PolicyFile::load`].
    pub fn load(&self, execution: impl Into<Execution>, widths: Widths) -> Result<Served, BundleError> {
        let execution = execution.into();
        match self {
            Self::Bundle(bundle) => bundle.load(execution, widths),
            Self::Unproven(file) => load_unproven(file, execution, widths),
        }
    }
}

impl Bundle {
    /// Loads the policy with a backend and runs the golden vectors on it. `auto` takes the native engine where it
    /// lowers the graph and agrees with the vectors, else libtorch where it is built in and agrees. Weights other than
    /// in single precision leave it no choice: they agree on the native engine, or the bundle is refused.
    ///
    /// # Errors
    /// When the widths are not the manifest's, when the backend cannot run the policy, and when any vector differs.
    pub fn load(&self, execution: impl Into<Execution>, widths: Widths) -> Result<Served, BundleError> {
        let execution = execution.into().settled();
        execution.check()?;
        let asked = [
            ("observation", widths.observation, self.manifest().observation.dimension),
            ("action", widths.action, self.manifest().action.dimension),
        ];
        for (what, asked, found) in asked {
            if let Some(asked) = asked.filter(|asked| *asked != found) {
                let reason = format!("its {what} has {found} elements; {asked} are asked for");
                return Err(BundleError::refused(&self.path.join(super::MANIFEST), reason));
            }
        }
        match execution.backend {
            Backend::Null => Ok(Served { policy: self.instance(execution)?, proof: None, passed_over: None }),
            Backend::Native | Backend::Torch => self.proven(execution),
            Backend::Auto => self.proven(Backend::Native.into()).or_else(|native| {
                let mut served = self.proven(Backend::Torch.into()).map_err(|torch| {
                    let reason = format!("no backend runs it; native: {native}; torch: {torch}");
                    BundleError::refused(self.policy.path(), reason)
                })?;
                let backend = Backend::Native.name();
                served.passed_over = Some(PassedOver { backend, reason: native.to_string() });
                Ok(served)
            }),
        }
    }

    fn instance(&self, execution: Execution) -> Result<Box<dyn Policy>, PolicyError> {
        let manifest = self.manifest();
        let widths = Widths {
            observation: Some(manifest.observation.dimension),
            action: Some(manifest.action.dimension),
        };
        self.policy.load(execution, widths)
    }

    /// Loads the policy and runs the vectors, on a thread of its own: what a backend does to its thread (libtorch's
    /// grad mode, the mode of the floating-point unit) must not stay behind on the caller's.
    fn proven(&self, execution: Execution) -> Result<Served, BundleError> {
        let mut policy = self.instance(execution)?;
        let proof = on_a_thread(|| self.golden.prove(policy.as_mut()));
        let proof = proof.map_err(|reason| {
            BundleError::refused(self.policy.path(), format!("backend {execution}: {reason}"))
        })?;
        Ok(Served { policy, proof: Some(proof), passed_over: None })
    }
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> Result<T, String> + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("golden".to_owned()).spawn_scoped(scope, work);
        match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(error) => Err(format!("no thread to run golden vectors on: {error}")),
        }
    })
}

/// `auto` for a file that stands alone: the native engine, else libtorch for graphs that the native one does not know.
/// A file that the native reader calls damaged goes no further: without a hash, that is all there is to go by.
fn load_unproven(file: &PolicyFile, execution: Execution, widths: Widths) -> Result<Served, BundleError> {
    execution.check()?;
    if execution.weights != Precision::F32 {
        let reason = format!(
            "{} weights are taken where golden vectors show that they are accurate enough, and a file that stands alone \
             has none; allowed: f32, or a bundle",
            execution.weights.name()
        );
        return Err(BundleError::refused(file.path(), reason));
    }
    let served = |policy, passed_over| Served { policy, proof: None, passed_over };
    if execution.backend != Backend::Auto {
        return Ok(served(file.load(execution, widths)?, None));
    }
    match file.load(Backend::Native, widths) {
        Ok(policy) => Ok(served(policy, None)),
        Err(error @ PolicyError::Unsupported { .. }) => {
            // Says both reasons where libtorch is not there, or cannot run it either.
            let policy = file.load(Backend::Auto, widths)?;
            let passed_over = PassedOver { backend: Backend::Native.name(), reason: error.to_string() };
            Ok(served(policy, Some(passed_over)))
        }
        Err(error) => Err(error.into()),
    }
}
