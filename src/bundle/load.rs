//! Loading a policy: the one place that chooses its backend and its sandbox.
//!
//! libtorch executes code from the policy's file. Where it may run, the calling thread first gives up its
//! access to files. The native engine executes nothing from the file, and needs no sandbox. So where a thread
//! cannot be confined, `auto` means the native engine, and `torch` is refused unless the caller allows it.
//!
//! `auto` takes the native engine where it lowers the policy and agrees with the golden vectors, else
//! libtorch.

use super::Bundle;
use super::candidate::Candidate;
use super::error::BundleError;
use super::golden::Proof;
use super::weigh::{Weighed, weigh};
use crate::os::{SandboxError, forbid_files};
use crate::policy::{Backend, Execution, Policy, PolicyError, PolicyFile, WeightChoice, Weights, Widths};
use escapement_ring::clock::MonotonicClock;

/// Whether the calling thread is confined before libtorch may see the file.
#[derive(Debug, Clone, Copy)]
pub enum Sandbox {
    /// It is not: the thread belongs to the caller and keeps its rights.
    None,
    /// It gives up its access to files, for good.
    Thread {
        /// Whether libtorch may run where the thread cannot be confined.
        allow_unconfined: bool,
        /// Called where the thread cannot be confined and loading goes on, before the file is loaded.
        tell: fn(Unconfined, &SandboxError),
    },
}

/// What happens where the thread cannot be confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unconfined {
    /// libtorch may run with access to files, as the caller allowed.
    Allowed,
    /// `auto` has the native engine left.
    NativeOnly,
}

/// Why a policy is not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// libtorch cannot be confined, and the caller does not allow it to run all the same.
    #[error("backend torch is refused, since it cannot be confined: {0}")]
    Unconfined(SandboxError),
    /// The policy is refused.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// What [`load`] loads: a bundle, or a file that stands alone.
#[derive(Debug, Clone, Copy)]
pub enum Verified<'a> {
    /// A bundle; its golden vectors are run.
    Bundle(&'a Bundle),
    /// A TorchScript file that stands alone.
    Unproven(&'a PolicyFile),
}

impl<'a> From<&'a Candidate> for Verified<'a> {
    fn from(candidate: &'a Candidate) -> Self {
        match candidate {
            Candidate::Bundle(bundle) => Self::Bundle(bundle),
            Candidate::Unproven(file) => Self::Unproven(file),
        }
    }
}

impl<'a> From<&'a Bundle> for Verified<'a> {
    fn from(bundle: &'a Bundle) -> Self {
        Self::Bundle(bundle)
    }
}

/// Loads a policy on the calling thread: confines the thread if necessary, and chooses the backend.
///
/// # Errors
/// Fails if libtorch is asked for and may not run unconfined, and as [`Bundle::load`] and
/// [`PolicyFile::load`].
pub fn load<'a>(
    policy: impl Into<Verified<'a>>,
    execution: Execution,
    widths: Widths,
    sandbox: Sandbox,
) -> Result<Served, LoadError> {
    let execution = match sandbox {
        Sandbox::Thread { allow_unconfined, tell } if needs_sandbox(execution) => {
            permitted(execution.settled(), forbid_files(), allow_unconfined, tell)
                .map_err(LoadError::Unconfined)?
        }
        Sandbox::Thread { .. } | Sandbox::None => execution,
    };
    Ok(match policy.into() {
        Verified::Bundle(bundle) => bundle.load(execution, widths)?,
        Verified::Unproven(file) => load_unproven(file, execution, widths)?,
    })
}

/// Whether libtorch may run, so that [`load`] confines the calling thread. The caller must provide a thread
/// for it.
pub fn needs_sandbox(execution: Execution) -> bool {
    cfg!(feature = "torch") && matches!(execution.settled().backend, Backend::Torch | Backend::Auto)
}

/// Returns what may run after the attempt to confine the thread.
fn permitted(
    execution: Execution,
    confined: Result<(), SandboxError>,
    allow_unconfined: bool,
    tell: fn(Unconfined, &SandboxError),
) -> Result<Execution, SandboxError> {
    match confined {
        Ok(()) => Ok(execution),
        Err(reason) if allow_unconfined => {
            tell(Unconfined::Allowed, &reason);
            Ok(execution)
        }
        Err(reason) if execution.backend == Backend::Auto => {
            tell(Unconfined::NativeOnly, &reason);
            Ok(Execution { backend: Backend::Native, ..execution })
        }
        Err(reason) => Err(reason),
    }
}

/// A policy that may serve.
pub struct Served {
    /// The policy, in its initial state.
    pub policy: Box<dyn Policy>,
    /// The result of its golden vectors on this policy and backend; `None` if there are none.
    pub proof: Option<Proof>,
    /// How the native engine holds the weights, and the measurements that chose it; `None` for another
    /// backend.
    pub weights: Option<WeightChoice>,
    /// The backend that `auto` prefers, if it could not be used, with the reason.
    pub passed_over: Option<PassedOver>,
}

/// A backend that could not be used.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PassedOver {
    /// The backend's name.
    pub backend: &'static str,
    /// The reason.
    pub reason: String,
}

impl std::fmt::Debug for Served {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Served")
            .field("backend", &self.policy.backend())
            .field("proof", &self.proof)
            .field("weights", &self.weights)
            .field("passed_over", &self.passed_over)
            .finish_non_exhaustive()
    }
}

impl Candidate {
    /// Loads the policy with a backend, on a thread that the caller has confined if necessary. Runs a
    /// bundle's golden vectors.
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
    /// Loads the policy with a backend and runs the golden vectors on it. `auto` takes the native engine if
    /// it lowers the graph and agrees with the vectors, else libtorch if it is built in and agrees. Only the
    /// native engine has weights other than in single precision: with those, it agrees or the bundle is
    /// refused. If several kernels may hold the weights, they are measured, which takes some milliseconds.
    ///
    /// # Errors
    /// Fails if the widths are not the manifest's, if the backend cannot run the policy, and if any vector
    /// differs.
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
            Backend::Null => {
                let policy = self.instance(execution)?;
                Ok(Served { policy, proof: None, weights: None, passed_over: None })
            }
            Backend::Native => self.proven_native(execution.weights),
            Backend::Torch => self.proven(execution),
            Backend::Auto => self.proven_native(Weights::F32).or_else(|native| {
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

    fn widths(&self) -> Widths {
        let manifest = self.manifest();
        Widths { observation: Some(manifest.observation.dimension), action: Some(manifest.action.dimension) }
    }

    fn instance(&self, execution: Execution) -> Result<Box<dyn Policy>, PolicyError> {
        self.policy.load(execution, self.widths())
    }

    /// Loads the policy with the native engine, with the fastest weights that the vectors allow.
    fn proven_native(&self, weights: Weights) -> Result<Served, BundleError> {
        let execution = Execution { backend: Backend::Native, weights };
        let weighed = weigh(&self.policy, Some(&self.golden), weights, self.widths(), &MonotonicClock)?;
        let Weighed { policy, proof, choice } = weighed.map_err(|refusal| refusal.at(self.policy.path()))?;
        let proof = proof.transpose().map_err(|reason| self.disagrees(execution, &reason))?;
        Ok(Served { policy: Box::new(policy), proof, weights: Some(choice), passed_over: None })
    }

    fn disagrees(&self, execution: Execution, reason: &str) -> BundleError {
        BundleError::refused(self.policy.path(), format!("backend {execution}: {reason}"))
    }

    /// Loads the policy and runs the vectors on a thread of its own. A backend changes its thread (libtorch's
    /// grad mode, the mode of the floating-point unit), and the caller's thread must not keep those changes.
    fn proven(&self, execution: Execution) -> Result<Served, BundleError> {
        let mut policy = self.instance(execution)?;
        let proof = on_a_thread(|| self.golden.prove(policy.as_mut()));
        let proof = proof.map_err(|reason| self.disagrees(execution, &reason))?;
        Ok(Served { policy, proof: Some(proof), weights: None, passed_over: None })
    }
}

pub(super) fn on_a_thread<T: Send>(work: impl FnOnce() -> Result<T, String> + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("golden".to_owned()).spawn_scoped(scope, work);
        match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(error) => Err(format!("no thread to run golden vectors on: {error}")),
        }
    })
}

/// Loads a file that has no manifest. `auto` takes the native engine, else libtorch for graphs that the
/// native engine does not support. A file that the native reader finds damaged is refused: without a hash,
/// nothing else can detect damage.
fn load_unproven(file: &PolicyFile, execution: Execution, widths: Widths) -> Result<Served, BundleError> {
    let execution = execution.settled();
    execution.check()?;
    let weights = execution.weights;
    if weights.are_rounded() {
        let reason = format!(
            "{} weights are taken where golden vectors show that they are accurate enough, and a file that stands alone \
             has none; allowed: f32, or a bundle",
            weights.name()
        );
        return Err(BundleError::refused(file.path(), reason));
    }
    let native = || {
        let choice = weights.kernels().first().copied().map(WeightChoice::only);
        let policy = file.load(Execution { backend: Backend::Native, weights }, widths)?;
        Ok(Served { policy, proof: None, weights: choice, passed_over: None })
    };
    match execution.backend {
        Backend::Native => Ok(native()?),
        Backend::Torch | Backend::Null => {
            let policy = file.load(execution, widths)?;
            Ok(Served { policy, proof: None, weights: None, passed_over: None })
        }
        Backend::Auto => native().or_else(|error| match error {
            PolicyError::Unsupported { .. } => {
                // If libtorch is not built in, or cannot run it either, the error gives both reasons.
                let policy = file.load(Backend::Auto, widths)?;
                let passed_over =
                    Some(PassedOver { backend: Backend::Native.name(), reason: error.to_string() });
                Ok(Served { policy, proof: None, weights: None, passed_over })
            }
            other => Err(other.into()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unconfined_torch_needs_permission() {
        let backend = |backend: Backend, confined, allow| {
            permitted(backend.into(), confined, allow, |_, _| ()).map(|execution| execution.backend)
        };
        let unavailable = || Err(SandboxError::Unavailable);
        let refused = backend(Backend::Torch, unavailable(), false).map_err(LoadError::Unconfined);
        let text = refused.expect_err("torch is not allowed to run").to_string();
        assert!(text.contains("no Landlock"), "{text}");
        assert_eq!(backend(Backend::Torch, unavailable(), true).ok(), Some(Backend::Torch));
        assert_eq!(backend(Backend::Auto, unavailable(), true).ok(), Some(Backend::Auto));
        assert_eq!(backend(Backend::Auto, unavailable(), false).ok(), Some(Backend::Native));
        assert_eq!(backend(Backend::Torch, Ok(()), false).ok(), Some(Backend::Torch));
    }
}
