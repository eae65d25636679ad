//! The files that a writer needs. A trait, so that tests can make a disk full, slow or broken.

use rustix::fs::{FallocateFlags, FlockOperation, OFlags};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A place for segments.
pub trait Storage {
    /// A segment that is being written.
    type File: StoredFile;

    /// Makes a file of `bytes` bytes, all of them allocated, that begins with `start` and is durable. It has
    /// its name only when all of that is so. An old file of that name is replaced.
    ///
    /// # Errors
    /// Fails as the system does. Nothing has the name then.
    fn create(&mut self, name: &str, bytes: u64, start: &[u8]) -> io::Result<Self::File>;

    /// Returns the segments, in no order. Removes what an interrupted [`Storage::create`] left.
    ///
    /// # Errors
    /// Fails as the system does.
    fn list(&mut self) -> io::Result<Vec<Entry>>;

    /// Reads a whole file.
    ///
    /// # Errors
    /// Fails as the system does.
    fn read(&mut self, name: &str) -> io::Result<Vec<u8>>;

    /// Cuts a file to `bytes` bytes, and makes that durable.
    ///
    /// # Errors
    /// Fails as the system does.
    fn cut(&mut self, name: &str, bytes: u64) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// Fails as the system does.
    fn remove(&mut self, name: &str) -> io::Result<()>;
}

/// A segment that is being written.
pub trait StoredFile {
    /// Writes some of the bytes at this offset, and returns how many.
    ///
    /// # Errors
    /// Fails as the system does.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<usize>;

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// Fails as the system does. What was written since the last success may be lost then.
    fn sync(&mut self) -> io::Result<()>;

    /// Cuts the file to `bytes` bytes.
    ///
    /// # Errors
    /// Fails as the system does.
    fn cut(&mut self, bytes: u64) -> io::Result<()>;
}

/// A file of a storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its size on disk, in bytes.
    pub bytes: u64,
    /// When it was last written, in nanoseconds since the Unix epoch.
    pub modified_ns: u64,
}

/// The name's end of a segment.
const EXTENSION: &str = ".journal";
/// The name's end of a segment that is not complete.
const INCOMPLETE: &str = ".journal.new";
/// A link in a file's place is not followed: it would make the writer change another file.
const NO_LINK: i32 = OFlags::NOFOLLOW.bits() as i32;
const LOCK: &str = "journal.lock";

/// Returns the name of a segment.
pub fn segment_name(segment: u64) -> String {
    format!("{segment:010}{EXTENSION}")
}

/// Returns the number of a segment with this name; `None` if it is not a segment's.
pub fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(EXTENSION)?;
    let number = digits.parse().ok().filter(|_| digits.bytes().all(|digit| digit.is_ascii_digit()))?;
    (segment_name(number) == name).then_some(number)
}

/// Segments in a directory.
#[derive(Debug)]
pub struct DirectoryStorage {
    path: PathBuf,
    /// Locked as long as this writer lives.
    _lock: File,
}

impl DirectoryStorage {
    /// Makes the directory if it is missing, readable by the agent's user and group, and locks it.
    ///
    /// # Errors
    /// Fails if the directory cannot be made, or if another writer has it.
    pub fn create(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o640);
        let lock = options.custom_flags(NO_LINK).open(path.join(LOCK))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
            if error == rustix::io::Errno::WOULDBLOCK {
                io::Error::new(io::ErrorKind::WouldBlock, "another writer has this journal")
            } else {
                error.into()
            }
        })?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

impl Storage for DirectoryStorage {
    type File = File;

    fn create(&mut self, name: &str, bytes: u64, start: &[u8]) -> io::Result<File> {
        let incomplete = self.path.join(format!("{}{INCOMPLETE}", name.trim_end_matches(EXTENSION)));
        let make = || {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o640);
            let file = options.custom_flags(NO_LINK).open(&incomplete)?;
            allocate(&file, bytes)?;
            file.write_all_at(start, 0)?;
            file.sync_all()?;
            std::fs::rename(&incomplete, self.path.join(name))?;
            self.sync_directory()?;
            Ok(file)
        };
        make().inspect_err(|_| {
            let _ = std::fs::remove_file(&incomplete);
        })
    }

    fn list(&mut self) -> io::Result<Vec<Entry>> {
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().ends_with(INCOMPLETE) {
                std::fs::remove_file(entry.path())?;
            }
        }
        list(&self.path)
    }

    fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        std::fs::read(self.path.join(name))
    }

    fn cut(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).custom_flags(NO_LINK).open(self.path.join(name))?;
        file.set_len(bytes)?;
        file.sync_all()
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }
}

/// Returns the segments of a directory, oldest first.
pub fn list(path: &Path) -> io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Retention may remove a segment while this reads the directory.
        let Ok(metadata) = entry.metadata() else { continue };
        if segment_number(&name).is_some() && metadata.is_file() {
            found.push(Entry { name, bytes: metadata.len(), modified_ns: modified_ns(&metadata) });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn modified_ns(metadata: &std::fs::Metadata) -> u64 {
    // A file of before 1970 counts as old.
    (metadata.mtime().max(0) as u64) * 1_000_000_000 + metadata.mtime_nsec() as u64
}

/// Allocates the blocks of the file, so that a full disk is noticed now. A file system that cannot do that
/// gets a sparse file: a full disk then shows at a write.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => file.set_len(bytes),
        Err(error) => Err(error.into()),
    }
}

impl StoredFile for File {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        FileExt::write_at(self, bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }
}
