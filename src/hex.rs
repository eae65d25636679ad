//! A SHA-256 as text, as it stands in logs, in JSON and in files.

/// The hash in lower-case hexadecimal.
pub fn hex(hash: &[u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
