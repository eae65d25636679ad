//! The names of a bundle's files.

/// The manifest's name in the bundle.
pub const MANIFEST: &str = "bundle.toml";
/// The policy's name in the bundle.
pub const POLICY: &str = "policy.pt";
/// The golden vectors' name in the bundle.
pub const GOLDEN: &str = "golden.safetensors";
/// The signature's name in the bundle.
pub const SIGNATURE: &str = "bundle.toml.minisig";
