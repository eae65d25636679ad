//! Which bundles are trusted: minisign signatures over the manifest's bytes.
//!
//! The manifest holds the hashes of everything else, so a signature over it covers the whole bundle.

use super::error::BundleError;
use super::names::SIGNATURE;
use escapement_policy::escape::escaped;
use minisign_verify::{PublicKey, Signature};
use std::path::Path;

/// Which signatures are required and accepted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trust {
    /// Whether a bundle without a good signature is refused. Then a TorchScript file without a bundle is
    /// refused as well.
    pub require_signature: bool,
    /// The keys whose signatures are good: the second line of minisign's `.pub` file each.
    pub public_keys: Vec<String>,
}

/// The state of a bundle's signature. A bundle with a bad signature is refused before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignatureState {
    /// There is no signature, and none is required.
    Absent,
    /// There is a signature, and no key is configured to check it.
    Unchecked,
    /// The signature is good.
    Good {
        /// The configured key that verifies it.
        public_key: String,
        /// The comment that the signature covers.
        trusted_comment: String,
    },
}

impl SignatureState {
    /// Returns the name in reports and JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Unchecked => "unchecked",
            Self::Good { .. } => "good",
        }
    }
}

/// Whether a text is a minisign public key.
pub fn is_public_key(text: &str) -> bool {
    PublicKey::from_base64(text).is_ok()
}

impl Trust {
    /// Checks the signature over `manifest`. If keys are configured, a signature that exists must be good
    /// even if none is required, because the keys are there to check it.
    pub(super) fn judge(
        &self,
        directory: &Path,
        manifest: &[u8],
        signature: Option<&str>,
    ) -> Result<SignatureState, BundleError> {
        let path = directory.join(SIGNATURE);
        let refused = |reason: &str| BundleError::refused(&path, reason);
        let Some(signature) = signature else {
            if self.require_signature {
                return Err(refused("missing, and a signature is required"));
            }
            return Ok(SignatureState::Absent);
        };
        if self.public_keys.is_empty() && !self.require_signature {
            return Ok(SignatureState::Unchecked);
        }
        let decoded = Signature::decode(signature)
            .map_err(|error| refused(&format!("not a minisign signature: {error}")))?;
        for key in &self.public_keys {
            let Ok(public_key) = PublicKey::from_base64(key) else {
                return Err(refused(&format!("public key {key:?}: not a minisign key")));
            };
            // Refuses signatures over the bytes themselves, which minisign made before version 0.10.
            if public_key.verify(manifest, &decoded, false).is_ok() {
                let trusted_comment = escaped(decoded.trusted_comment());
                return Ok(SignatureState::Good { public_key: key.clone(), trusted_comment });
            }
        }
        Err(refused("the signature is not one of a trusted key over these bytes"))
    }
}
