//! The files of a bundle. Each is read once, so that the hashed bytes are the bytes that are used.

use super::error::BundleError;
use super::manifest::FileEntry;
use super::names::{GOLDEN, MANIFEST, POLICY, SIGNATURE};
use crate::hex::hex;
use escapement_policy::file::{self, ReadError};
use sha2::{Digest, Sha256};
use std::path::Path;

/// The largest manifest that is read, in bytes: about ten times a manifest with the statistics of 4096
/// features.
const MAX_MANIFEST_BYTES: u64 = 2 << 20;
/// The largest signature that is read, in bytes. A signature has four short lines.
const MAX_SIGNATURE_BYTES: u64 = 4096;

/// Reads the manifest of the bundle at `directory`.
pub(super) fn read_manifest(directory: &Path) -> Result<Vec<u8>, BundleError> {
    let path = directory.join(MANIFEST);
    read(&path, MAX_MANIFEST_BYTES, "at most")?
        .ok_or_else(|| BundleError::refused(&path, "missing: a directory is a bundle only with its manifest"))
}

/// Reads the signature. Returns `None` if there is no such file.
pub(super) fn read_signature(directory: &Path) -> Result<Option<String>, BundleError> {
    let path = directory.join(SIGNATURE);
    let Some(bytes) = read(&path, MAX_SIGNATURE_BYTES, "at most")? else { return Ok(None) };
    String::from_utf8(bytes).map(Some).map_err(|_| BundleError::refused(&path, "not UTF-8 text"))
}

/// Reads a file that the manifest lists. Fails if its size or hash is not the one in the manifest.
pub(super) fn read_listed(directory: &Path, entry: &FileEntry) -> Result<Vec<u8>, BundleError> {
    let path = directory.join(entry.name);
    let bytes = read(&path, entry.bytes, "the manifest says")?
        .ok_or_else(|| BundleError::refused(&path, "missing, though the manifest lists it"))?;
    if bytes.len() as u64 != entry.bytes {
        let reason = format!("{} bytes, the manifest says {}", bytes.len(), entry.bytes);
        return Err(BundleError::refused(&path, reason));
    }
    let found: [u8; 32] = Sha256::digest(&bytes).into();
    if found != entry.sha256 {
        let reason = format!("SHA-256 {}, the manifest says {}", hex(&found), hex(&entry.sha256));
        return Err(BundleError::refused(&path, reason));
    }
    Ok(bytes)
}

/// Refuses a directory with files that do not belong to a bundle.
pub(super) fn refuse_strangers(directory: &Path) -> Result<(), BundleError> {
    let unreadable = |source| BundleError::Unreadable { path: directory.to_owned(), source };
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        if ![MANIFEST, POLICY, GOLDEN, SIGNATURE].iter().any(|known| name == *known) {
            return Err(BundleError::refused(&entry.path(), "not a file of a bundle"));
        }
    }
    Ok(())
}

/// Reads a plain file of at most `limit` bytes. `origin` names the source of the limit in messages. Returns
/// `None` if there is no such file.
fn read(path: &Path, limit: u64, origin: &str) -> Result<Option<Vec<u8>>, BundleError> {
    let reason = match file::read(path, limit) {
        Ok(bytes) => return Ok(Some(bytes)),
        Err(ReadError::System(error)) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(ReadError::TooLarge { bytes, limit }) => format!("{bytes} bytes, {origin} {limit}"),
        Err(other) => other.to_string(),
    };
    Err(BundleError::refused(path, reason))
}
