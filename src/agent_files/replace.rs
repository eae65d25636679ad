//! Replacing a file as a whole, in a directory that others may write.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Everybody who can enter the directory may read.
const MODE: u32 = 0o644;

/// Replaces the file at `path`, completely or not at all.
///
/// The new content is written under a random name that did not exist, so a link that somebody has put there
/// is never followed. A link at `path` is replaced itself.
///
/// # Errors
/// Fails if the directory cannot be written. The old file is unchanged then.
pub fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut options = tempfile::Builder::new();
    options.prefix(".new").permissions(Permissions::from_mode(MODE));
    let mut file = options.tempfile_in(directory)?;
    file.write_all(content)?;
    file.persist(path).map_err(|failed| failed.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_in_the_way_are_not_followed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (path, other) = (directory.path().join("status.json"), directory.path().join("other"));
        std::fs::write(&other, "precious").expect("it can be written");
        for name in ["status.json", "status.json.new"] {
            std::os::unix::fs::symlink(&other, directory.path().join(name)).expect("it can be made");
        }
        replace_file(&path, b"new").expect("the directory can be written");
        assert_eq!(std::fs::read(&path).expect("it is there"), b"new");
        assert!(std::fs::symlink_metadata(&path).expect("it is there").is_file());
        assert_eq!(std::fs::read(&other).expect("it is there"), b"precious");
    }
}
