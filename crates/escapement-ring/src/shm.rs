//! Named regions of shared memory, and the locks of the roles. This module does not know what lies in a
//! region.
//!
//! A region is a file in the agent's directory, normally on a tmpfs. It is built under a temporary name and
//! renamed when it is complete, so no process can map an incomplete one. Its blocks are allocated at
//! creation: a sparse file on a full tmpfs would end the process with SIGBUS at a later write.

use crate::backing::Backing;
use core::ptr::NonNull;
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Why a region or a lock is not available.
#[derive(Debug, thiserror::Error)]
pub enum ShmError {
    /// A system call failed.
    #[error("{}: {action}: {source}", path.display())]
    System {
        /// The file or directory.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Another process holds the lock.
    #[error("{}: owned by another process{}", path.display(), in_brackets(*holder))]
    Held {
        /// The lock's file.
        path: PathBuf,
        /// The holder's process id, if the file names one. For messages only.
        holder: Option<u32>,
    },
    /// The name leads to something that is not a plain file, or to an empty one.
    #[error("{}: not a regular file, or an empty one", path.display())]
    NotAFile {
        /// What was found there.
        path: PathBuf,
    },
}

fn in_brackets(holder: Option<u32>) -> String {
    holder.map_or_else(String::new, |pid| format!(" (pid {pid})"))
}

impl ShmError {
    fn system(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::System { path, action, source }
    }

    /// Whether the cause is a missing file or directory.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::System { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether the cause is a missing permission.
    pub fn is_permission(&self) -> bool {
        matches!(self, Self::System { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// A shared, writable mapping of a whole file. Unmapped when dropped; the file stays.
#[derive(Debug)]
pub struct MappedFile {
    map: MmapRaw,
    /// Device and inode, from the descriptor that was mapped.
    identity: (u64, u64),
}

// SAFETY: MmapRaw keeps the mapping, page-aligned and writable, at one address until it is dropped, and hands
// out only raw pointers. (If another process truncates the file, the SIGBUS handler ends the process.)
unsafe impl Backing for MappedFile {
    fn base(&self) -> NonNull<u8> {
        NonNull::new(self.map.as_mut_ptr()).expect("a mapping is never at address zero")
    }

    fn len(&self) -> usize {
        self.map.len()
    }

    fn file_identity(&self) -> Option<(u64, u64)> {
        Some(self.identity)
    }
}

/// Rings belong to the agent's user and group: feed and gateway may run as other users of the group.
const REGION_MODE: Mode = Mode::from_raw_mode(0o660);

impl MappedFile {
    /// Creates a file of `len` zeroed, allocated bytes, calls `initialise` on the mapping, and then renames
    /// the file to `path`. Replaces an existing file of that name.
    ///
    /// # Errors
    /// Fails if the file cannot be created, allocated, mapped or renamed, or if `initialise` fails. `path` is
    /// unchanged then.
    pub fn create<E: From<ShmError>, T>(
        path: &Path,
        len: usize,
        initialise: impl FnOnce(Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let temporary = path.with_extension(format!("new-{}", std::process::id()));
        let built = Self::allocate(&temporary, len).map_err(E::from).and_then(initialise);
        let built = built.and_then(|value| {
            std::fs::rename(&temporary, path).map_err(ShmError::system(path, "rename into place"))?;
            Ok(value)
        });
        if built.is_err() {
            // The failure being reported matters more than a failed clean-up.
            let _ = std::fs::remove_file(&temporary);
        }
        built
    }

    fn allocate(path: &Path, len: usize) -> Result<Self, ShmError> {
        // The name contains this process's id, so an existing file was left by a dead process. It is removed
        // rather than truncated, because another process may still map it.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(ShmError::system(path, "remove a leftover")(error));
            }
            _ => {}
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(path, flags, REGION_MODE)
            .map_err(|error| ShmError::system(path, "create")(error.into()))?;
        // The umask must not decide who may attach.
        rustix::fs::fchmod(&file, REGION_MODE)
            .map_err(|error| ShmError::system(path, "set permissions")(error.into()))?;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len as u64)
            .map_err(|error| ShmError::system(path, "allocate its blocks")(error.into()))?;
        Self::map(path, &File::from(file), MmapOptions::new().populate())
    }

    /// Maps an existing file as a whole and makes it resident.
    ///
    /// # Errors
    /// Fails if the file is missing, is not a regular file, or cannot be mapped.
    pub fn open(path: &Path) -> Result<Self, ShmError> {
        Self::open_with(path, MmapOptions::new().populate())
    }

    /// Maps an existing file as a whole. A page becomes resident when it is accessed.
    ///
    /// # Errors
    /// As for [`MappedFile::open`].
    pub fn open_lazily(path: &Path) -> Result<Self, ShmError> {
        Self::open_with(path, &MmapOptions::new())
    }

    /// Maps an existing file of exactly `len` bytes and makes it resident. The size is compared before
    /// anything is mapped, because a sparse file can be larger than the memory.
    ///
    /// # Errors
    /// As for [`MappedFile::open`], and if the file has another size.
    pub fn open_exactly(path: &Path, len: usize) -> Result<Self, ShmError> {
        let file = Self::open_file(path)?;
        let found = file.metadata().map_err(ShmError::system(path, "look up its size"))?.size();
        if found != len as u64 {
            let problem = io::Error::other(format!("{found} bytes, {len} are expected"));
            return Err(ShmError::system(path, "attach to it")(problem));
        }
        Self::map(path, &file, MmapOptions::new().populate())
    }

    fn open_with(path: &Path, options: &MmapOptions) -> Result<Self, ShmError> {
        Self::map(path, &Self::open_file(path)?, options)
    }

    fn open_file(path: &Path) -> Result<File, ShmError> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| ShmError::system(path, "open")(error.into()))?;
        Ok(File::from(file))
    }

    fn map(path: &Path, file: &File, options: &MmapOptions) -> Result<Self, ShmError> {
        let metadata = file.metadata().map_err(ShmError::system(path, "look up its size"))?;
        if !metadata.is_file() || metadata.size() == 0 {
            return Err(ShmError::NotAFile { path: path.to_owned() });
        }
        let map = options.map_raw(file).map_err(ShmError::system(path, "map"))?;
        Ok(Self { map, identity: (metadata.dev(), metadata.ino()) })
    }
}

/// An exclusive lock on a role of an agent (`daemon`, `feed`, `tap`), held while the value lives. The kernel
/// releases it when the process ends, however it ends.
#[derive(Debug)]
pub struct RoleLock {
    _file: File,
}

impl RoleLock {
    /// Takes `ROLE.lock` in `directory`, without waiting.
    ///
    /// # Errors
    /// [`ShmError::Held`] if another process has it.
    pub fn acquire(directory: &Path, role: &str) -> Result<Self, ShmError> {
        let path = directory.join(format!("{role}.lock"));
        for _ in 0..MAX_LOCK_ATTEMPTS {
            let mut file = Self::open_lock(&path)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(ShmError::Held { holder: read_holder(&mut file), path });
                }
                Err(error) => return Err(ShmError::system(&path, "lock")(error.into())),
            }
            // If another process removed the file between the open and the lock, this lock is on a file that
            // no other process can find. Try again.
            if is_still_at(&file, &path)? {
                file.set_len(0).map_err(ShmError::system(&path, "write the lock"))?;
                writeln!(file, "{}", std::process::id())
                    .map_err(ShmError::system(&path, "write the lock"))?;
                return Ok(Self { _file: file });
            }
        }
        Err(ShmError::Held { path, holder: None })
    }

    fn open_lock(path: &Path) -> Result<File, ShmError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = rustix::fs::open(path, flags, REGION_MODE)
            .map_err(|error| ShmError::system(path, "open the lock")(error.into()))?;
        // As for regions, the umask must not decide who may take the role. Only the file's owner can set the
        // mode.
        let _ = rustix::fs::fchmod(&file, REGION_MODE);
        Ok(File::from(file))
    }
}

/// How often a lock's file may vanish under [`RoleLock::acquire`] before it gives up.
const MAX_LOCK_ATTEMPTS: usize = 16;

/// Returns whether `path` still names the opened file.
fn is_still_at(file: &File, path: &Path) -> Result<bool, ShmError> {
    let opened = file.metadata().map_err(ShmError::system(path, "look at the lock"))?;
    match std::fs::symlink_metadata(path) {
        Ok(named) => Ok(named.ino() == opened.ino() && named.dev() == opened.dev()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(ShmError::system(path, "look at the lock")(error)),
    }
}

/// The process id in a lock's file. For messages only.
fn read_holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_created_region_is_zeroed_and_shared() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("region");
        let written = MappedFile::create(&path, 8192, |map| {
            // SAFETY: the mapping is 8192 bytes long and private to this test.
            unsafe { map.base().as_ptr().add(5000).write_volatile(7) };
            Ok::<_, ShmError>(map)
        })
        .unwrap();
        let read = MappedFile::open(&path).unwrap();
        assert_eq!((written.len(), read.len()), (8192, 8192));
        // SAFETY: the mapping is 8192 bytes long and private to this test.
        let bytes = unsafe {
            [read.base().as_ptr().add(4999).read_volatile(), read.base().as_ptr().add(5000).read_volatile()]
        };
        assert_eq!(bytes, [0, 7]);
    }

    #[test]
    fn a_failed_creation_leaves_no_trace() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("region");
        let failed =
            MappedFile::create(&path, 4096, |_| Err::<(), _>(ShmError::NotAFile { path: path.clone() }));
        assert!(failed.is_err());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_link_is_not_followed_and_a_directory_is_no_region() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("target");
        std::fs::write(&target, [0; 4096]).unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(MappedFile::open(&link).is_err());
        assert!(MappedFile::open(directory.path()).is_err());
        assert!(MappedFile::open(&directory.path().join("missing")).unwrap_err().is_not_found());
    }

    #[test]
    fn a_leftover_of_a_dead_process_is_replaced_and_not_shared() {
        let directory = tempfile::tempdir().unwrap();
        let leftover = directory.path().join(format!("region.new-{}", std::process::id()));
        std::fs::write(&leftover, [9; 4096]).unwrap();
        let old = MappedFile::open(&leftover).unwrap();
        let new = MappedFile::create(&directory.path().join("region.ring"), 4096, Ok::<_, ShmError>).unwrap();
        // SAFETY: both mappings are 4096 bytes long and private to this test.
        let bytes = unsafe { [old.base().as_ptr().read_volatile(), new.base().as_ptr().read_volatile()] };
        assert_eq!(bytes, [9, 0]);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_empty_file_is_no_region() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("region");
        std::fs::write(&path, []).unwrap();
        assert!(matches!(MappedFile::open(&path), Err(ShmError::NotAFile { .. })));
    }

    #[test]
    fn a_lock_that_was_deleted_does_not_count() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("daemon.lock");
        let stale = RoleLock::open_lock(&path).unwrap();
        assert!(is_still_at(&stale, &path).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(!is_still_at(&stale, &path).unwrap());
        let _lock = RoleLock::acquire(directory.path(), "daemon").unwrap();
        assert!(!is_still_at(&stale, &path).unwrap());
        assert!(matches!(RoleLock::acquire(directory.path(), "daemon"), Err(ShmError::Held { .. })));
    }

    #[test]
    fn a_role_has_one_owner() {
        let directory = tempfile::tempdir().unwrap();
        let first = RoleLock::acquire(directory.path(), "daemon").unwrap();
        match RoleLock::acquire(directory.path(), "daemon") {
            Err(ShmError::Held { holder, .. }) => assert_eq!(holder, Some(std::process::id())),
            other => panic!("expected Held, got {other:?}"),
        }
        RoleLock::acquire(directory.path(), "feed").unwrap();
        drop(first);
        RoleLock::acquire(directory.path(), "daemon").unwrap();
    }

    #[test]
    fn a_file_of_another_size_is_refused_before_it_is_mapped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sparse");
        // Far more than the memory of any machine that runs this: populating it would fail or never end.
        File::create(&path).unwrap().set_len(1 << 42).unwrap();
        assert!(MappedFile::open_exactly(&path, 4096).unwrap_err().to_string().contains("4096 are expected"));
        File::create(&path).unwrap().set_len(4096).unwrap();
        assert!(MappedFile::open_exactly(&path, 4096).is_ok());
    }
}
