//! The names of a bundle's files, and hashes as text.

/// The manifest's name in the bundle.
pub const MANIFEST: &str = "bundle.toml";
/// The policy's name in the bundle.
pub const POLICY: &str = "policy.pt";
/// The golden vectors' name in the bundle.
pub const GOLDEN: &str = "golden.safetensors";
/// The signature's name in the bundle.
pub const SIGNATURE: &str = "bundle.toml.minisig";

/// Returns a hash as lower-case hexadecimal text.
pub fn hex(hash: &[u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
