//! Reads a file of a user: a regular file of at most a given size, without waiting.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be opened or read.
    #[error(transparent)]
    System(#[from] io::Error),
    /// It is a directory, a pipe, a socket or a device.
    #[error("not a plain file")]
    NotAFile,
    /// It is too large.
    #[error("{bytes} bytes, at most {limit} are read")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The most that is read.
        limit: u64,
    },
    /// It grew while it was read.
    #[error("it grew beyond {limit} bytes while it was read")]
    Grew {
        /// The most that is read.
        limit: u64,
    },
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::System(source) => source,
            // The only kind for a path that is there and names no file to read.
            refused @ ReadError::NotAFile => Self::new(io::ErrorKind::IsADirectory, refused),
            other => Self::new(io::ErrorKind::InvalidInput, other),
        }
    }
}

/// Reads a regular file of at most `limit` bytes.
///
/// It is opened without waiting, so that a pipe without a writer is refused. Type and size are those of the
/// open file, and are checked before a byte is read.
///
/// # Errors
/// See [`ReadError`].
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, ReadError> {
    let file = open(path)?;
    let bytes = file.metadata()?.len();
    if bytes > limit {
        return Err(ReadError::TooLarge { bytes, limit });
    }
    let mut content = Vec::new();
    content.try_reserve_exact(bytes as usize).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    file.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(ReadError::Grew { limit });
    }
    Ok(content)
}

/// Opens a regular file for reading, without waiting.
///
/// # Errors
/// Fails if it cannot be opened, and if it is not a regular file.
pub fn open(path: &Path) -> Result<File, ReadError> {
    // O_NOCTTY: a terminal in the file's place must not become the terminal of this process.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(ReadError::NotAFile);
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::{ReadError, read};
    use std::io::ErrorKind;
    use std::path::Path;

    #[test]
    fn only_regular_files_within_the_limit_are_read() {
        let folder = std::env::temp_dir().join(format!("escapement-file-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the test");
        let path = folder.join("plain");
        std::fs::write(&path, b"0123456789").expect("written");
        assert_eq!(read(&path, 10).expect("fits"), b"0123456789");
        assert!(matches!(read(&path, 9), Err(ReadError::TooLarge { bytes: 10, limit: 9 })));
        assert!(matches!(read(&folder, 10), Err(ReadError::NotAFile)));
        for device in ["/dev/zero", "/dev/null"] {
            assert!(matches!(read(Path::new(device), u64::MAX - 1), Err(ReadError::NotAFile)), "{device}");
        }
        // A pipe that nobody writes. A blocking open would wait for ever.
        let pipe = folder.join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs");
        assert!(made.success());
        assert!(matches!(read(&pipe, 10), Err(ReadError::NotAFile)));
        let missing = read(&folder.join("missing"), 10);
        assert!(matches!(missing, Err(ReadError::System(error)) if error.kind() == ErrorKind::NotFound));
        std::fs::remove_dir_all(&folder).expect("removed");
    }
}
