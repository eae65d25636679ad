//! Choosing a backend and loading a policy with it.

use super::{Dimensions, Null, Policy, PolicyError, Precision, Signature, WeightKernel, Weights};
use escapement_native::{self as native, Native, Refusal};
use escapement_policy::file::{self, ReadError};
use escapement_policy::words;
use escapement_policy::words::Words;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// What runs a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backend {
    /// The native engine.
    Native,
    /// libtorch.
    Torch,
    /// Native if the policy lowers, else torch if it is built in.
    Auto,
    /// Answers zeros at once.
    Null,
}

words!(Backend { Auto = "auto", Native = "native", Torch = "torch", Null = "null" });

impl std::str::FromStr for Backend {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::from_word(name).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|backend| backend.name()).collect();
            format!("no such backend; there are {}", names.join(", "))
        })
    }
}

/// What runs a policy, and how it holds the weights. A [`Backend`] alone means single precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Execution {
    /// What runs it.
    pub backend: Backend,
    /// How it holds the weights. Only the native engine has a choice. It takes bfloat16 only if golden
    /// vectors show that it is accurate enough.
    pub weights: Weights,
}

impl From<Backend> for Execution {
    fn from(backend: Backend) -> Self {
        Self { backend, weights: Weights::F32 }
    }
}

impl Execution {
    /// Replaces `auto` by a backend if the weights leave only one.
    pub fn settled(self) -> Self {
        match self {
            Self { weights: Weights::F32, .. } => self,
            Self { backend: Backend::Auto, .. } => Self { backend: Backend::Native, ..self },
            other => other,
        }
    }

    /// Checks that the backend can hold weights that way.
    ///
    /// # Errors
    /// Fails with [`PolicyError::Backend`] if it cannot.
    pub fn check(self) -> Result<(), PolicyError> {
        match self {
            Self { weights: Weights::F32, .. } => Ok(()),
            Self { backend: Backend::Torch | Backend::Null, weights } => Err(PolicyError::Backend {
                backend: self.backend.name(),
                reason: format!("it has no {} weights, only native has; allowed: f32", weights.name()),
            }),
            Self { backend: Backend::Native | Backend::Auto, .. } => Ok(()),
        }
    }
}

impl std::fmt::Display for Execution {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.backend.name())?;
        match self.weights {
            Weights::F32 => Ok(()),
            weights => write!(out, " with {} weights", weights.name()),
        }
    }
}

/// The widths a policy is asked to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Widths {
    /// Elements of one observation; `None` takes the width in the file, if it has one.
    pub observation: Option<usize>,
    /// Elements of one action; `None` takes the policy's width.
    pub action: Option<usize>,
}

/// A policy's file, read once, so that the hashed bytes are the bytes that run.
#[derive(Debug, Clone)]
pub struct PolicyFile {
    path: PathBuf,
    bytes: Vec<u8>,
    sha256: [u8; 32],
    /// The signature of `forward` in the manifest; `None` for a file without one.
    signature: Option<Signature>,
}

/// The largest policy file that is read.
pub(super) const MAX_FILE_BYTES: u64 = 1 << 30;

impl PolicyFile {
    /// Reads a TorchScript file that has no bundle. Nothing verifies it; see `bundle` for policies with
    /// proof.
    ///
    /// # Errors
    /// Fails if it cannot be read, is not a plain file, or is larger than 1 GiB.
    pub fn read(path: &Path) -> Result<Self, PolicyError> {
        let path = path.to_owned();
        let unreadable = |source| PolicyError::Unreadable { path: path.clone(), source };
        let bytes = file::read(&path, MAX_FILE_BYTES).map_err(|error| match error {
            ReadError::System(source) => unreadable(source),
            refused => PolicyError::Malformed { path: path.clone(), reason: refused.to_string() },
        })?;
        let sha256 = Sha256::digest(&bytes).into();
        Ok(Self { path, bytes, sha256, signature: None })
    }

    /// Makes the file from bytes that a verifier has read and hashed. These bytes run.
    pub fn from_verified(path: PathBuf, bytes: Vec<u8>, sha256: [u8; 32], signature: Signature) -> Self {
        Self { path, bytes, sha256, signature: Some(signature) }
    }

    /// Returns the path that it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the hash of the bytes.
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    /// Loads the policy with a backend. For [`Weights::Bf16`], it takes the first kernel with such weights:
    /// golden vectors and a measurement are needed to choose, and a file alone has none.
    ///
    /// # Errors
    /// Fails if the file is damaged, has other widths, or cannot run on the backend, and if the backend is
    /// not part of this build.
    pub fn load(
        &self,
        execution: impl Into<Execution>,
        widths: Widths,
    ) -> Result<Box<dyn Policy>, PolicyError> {
        let execution = execution.into().settled();
        execution.check()?;
        match execution.backend {
            Backend::Null => {
                let observation = self.needed(widths.observation)?;
                Ok(Box::new(Null::new(Dimensions { observation, action: widths.action.unwrap_or(1) })))
            }
            Backend::Native => self.load_boxed(execution.weights, widths),
            Backend::Torch => self.load_torch(widths),
            Backend::Auto => match self.load_boxed(execution.weights, widths) {
                Err(PolicyError::Unsupported { path, reason }) => {
                    self.load_torch(widths).map_err(|torch| match torch {
                        PolicyError::Backend { reason: torch, .. } => PolicyError::Unsupported {
                            path,
                            reason: format!("{reason}; the backend torch may run it, but is {torch}"),
                        },
                        other => other,
                    })
                }
                loaded => loaded,
            },
        }
    }

    fn load_boxed(&self, weights: Weights, widths: Widths) -> Result<Box<dyn Policy>, PolicyError> {
        let rounded = |kernel: &WeightKernel| kernel.precision() == Precision::Bf16;
        let kernels = weights.kernels();
        let kernel = kernels.iter().copied().find(|kernel| !weights.are_rounded() || rounded(kernel));
        let kernel = kernel.expect("every word leaves a kernel of its precision");
        let mut policies = self.lower_each(&[kernel], widths)?.map_err(|refusal| refusal.at(&self.path))?;
        Ok(Box::new(policies.pop().expect("there is a policy for each kernel")))
    }

    /// Loads the policy with the native engine, once for each of `kernels` and in their order. Returns the
    /// engines themselves, whose plans can be inspected, or what stopped the lowering, and where. Only golden
    /// vectors show whether bfloat16 weights are accurate enough.
    ///
    /// # Errors
    /// Fails with [`PolicyError::Backend`] if the native engine itself fails, or if this processor does not
    /// have a kernel.
    pub fn lower_each(
        &self,
        kernels: &[WeightKernel],
        widths: Widths,
    ) -> Result<Result<Vec<Native>, Refusal>, PolicyError> {
        let Signature { noise, states } = self.signature.clone().unwrap_or_default();
        let options = native::Options {
            observation: widths.observation,
            noise,
            states: states.clone(),
            ..native::Options::default()
        };
        let lowered = Native::lower_each(&self.bytes, &options, kernels)?;
        Ok(lowered.and_then(|policies| {
            let Some(policy) = policies.first() else { return Ok(policies) };
            let found = policy.state_shapes();
            if self.signature.is_some() && found != states {
                let reason = format!("expected carried states of shapes {states:?}, found {found:?}");
                return Err(Refusal::shape(reason));
            }
            let found = policy.dimensions().action;
            match widths.action {
                Some(expected) if expected != found => {
                    Err(Refusal::shape(format!("expected an action of {expected} elements, found {found}")))
                }
                _ => Ok(policies),
            }
        }))
    }

    /// Returns the observation's width, which the file does not contain.
    fn needed(&self, observation: Option<usize>) -> Result<usize, PolicyError> {
        observation.ok_or_else(|| PolicyError::Shape {
            path: self.path.clone(),
            reason: "the width of an observation does not follow from the file and has to be given"
                .to_owned(),
        })
    }

    #[cfg(feature = "torch")]
    fn load_torch(&self, widths: Widths) -> Result<Box<dyn Policy>, PolicyError> {
        let policy = super::Torch::from_archive(
            &self.bytes,
            &self.path,
            self.needed(widths.observation)?,
            widths.action,
            &self.signature.clone().unwrap_or_default(),
        )?;
        Ok(Box::new(policy))
    }

    #[cfg(not(feature = "torch"))]
    fn load_torch(&self, _widths: Widths) -> Result<Box<dyn Policy>, PolicyError> {
        Err(PolicyError::Backend {
            backend: Backend::Torch.name(),
            reason: "not part of this build; run scripts/libtorch.sh, then build with --features torch"
                .to_owned(),
        })
    }
}
