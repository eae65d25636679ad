//! The agent's state directory, which outlives a restart and a reboot. It holds the latch and the audit file.
//!
//! The rings lie in memory and are lost when the machine stops. A halt must not be lost, so it is kept here,
//! on disk.

use escapement_ring::clock::{Clock, MonotonicClock, Nanos};
use escapement_ring::shm::{RoleLock, ShmError};
use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Where state directories are for agents that run as root.
const SYSTEM_ROOT: &str = "/var/lib/escapement";
/// The same for agents of another user, below that user's home directory.
const USER_ROOT: &str = ".local/state/escapement";
/// The agent's user may write, and its group may read.
const DIRECTORY_MODE: u32 = 0o750;
const FILE_MODE: u32 = 0o640;
/// Directories above are shared by agents of several users, so everybody may pass through them.
const PARENT_MODE: u32 = 0o755;
const REARM_LOCK: &str = "rearm.lock";
/// How long to wait before a held lock is tried again.
const RETRY_AFTER: Nanos = Nanos::from_millis(1);

/// The lock that halts and re-arms exclude each other by. Its file is never removed, so that all lock the
/// same one.
#[derive(Debug)]
pub struct RearmLock {
    _file: File,
}

/// A system call on something in the state directory failed.
#[derive(Debug, thiserror::Error)]
#[error("{}: {action}: {source}", path.display())]
pub struct StateError {
    path: PathBuf,
    action: &'static str,
    #[source]
    source: io::Error,
}

impl StateError {
    pub(crate) fn new(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { path, action, source }
    }

    /// Whether the cause is a missing permission.
    pub fn is_permission(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
    }
}

/// An agent's state directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDirectory {
    path: PathBuf,
}

impl StateDirectory {
    /// The state directory of the agent `name` below `root`.
    ///
    /// Without a root it is the directory that systemd made for this instance of the service. Without that
    /// either, it lies below `/var/lib/escapement` for root, and below the user's own state directory (XDG)
    /// for other users.
    pub fn new(root: Option<&Path>, name: &str) -> Self {
        let path = match (root, std::env::var_os("STATE_DIRECTORY")) {
            (Some(root), _) => root.join(name),
            (None, Some(directory)) => PathBuf::from(directory),
            (None, None) => Self::default_root().join(name),
        };
        Self { path }
    }

    /// The directory at `path`, as a daemon's run file names it.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// The state directory of the system's agent `name`, whatever the environment says.
    pub fn of_the_system(name: &str) -> Self {
        Self { path: Path::new(SYSTEM_ROOT).join(name) }
    }

    fn default_root() -> PathBuf {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        if rustix::process::geteuid().is_root() {
            return PathBuf::from(SYSTEM_ROOT);
        }
        match (absolute("XDG_STATE_HOME"), absolute("HOME")) {
            (Some(state), _) => state.join("escapement"),
            (None, Some(home)) => home.join(USER_ROOT),
            (None, None) => PathBuf::from(SYSTEM_ROOT),
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the directory if it is missing, and those above it.
    ///
    /// # Errors
    /// Fails if it cannot be made.
    pub fn create(&self) -> Result<(), StateError> {
        let error = |action| StateError::new(&self.path, action);
        if let Some(parent) = self.path.parent() {
            let mut above = DirBuilder::new();
            above.recursive(true).mode(PARENT_MODE);
            above.create(parent).map_err(error("create the directories above the state directory"))?;
        }
        match DirBuilder::new().mode(DIRECTORY_MODE).create(&self.path) {
            Ok(()) => Ok(()),
            Err(_) if self.path.is_dir() => Ok(()),
            Err(failed) => Err(error("create the state directory")(failed)),
        }
    }

    /// Shows that a halt could be kept, by writing, syncing and removing a file beside the latch's place.
    ///
    /// # Errors
    /// Fails if that cannot be done, for whatever reason: a missing permission, a full disk, no inode left.
    /// An agent whose latch could not be written must not be armed.
    pub fn prove_writable(&self) -> Result<(), StateError> {
        let error = StateError::new(&self.path, "write a file there, as a halt would");
        let probe = || {
            let mut file = tempfile::Builder::new().prefix(".probe").tempfile_in(&self.path)?;
            file.write_all(b"a halt could be kept here\n")?;
            file.as_file().sync_all()?;
            file.close()
        };
        probe().map_err(error)?;
        self.sync()
    }

    /// Locks the state directory for the calling process, without waiting. The daemon holds this lock while
    /// it runs, and `rearm` while it works.
    ///
    /// It is separate from the lock on the rings: their directory does not outlive a reboot, and no two
    /// agents may share a latch.
    ///
    /// # Errors
    /// Fails with [`ShmError::Held`] if another process holds it.
    pub fn acquire(&self) -> Result<RoleLock, ShmError> {
        // Made here if it is missing, so that the lock's file gets the directory's owner.
        drop(self.open("daemon.lock", OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE));
        RoleLock::acquire(&self.path, "daemon")
    }

    /// Locks out re-arms and halts. `rearm` holds this lock from reading the latch to removing it; `halt`
    /// takes it before it reports success. A caller that may only read the directory can take it as well.
    ///
    /// # Errors
    /// Fails if the lock's file cannot be opened, or another process holds the lock for longer than
    /// `patience`.
    pub fn lock_rearm(&self, patience: Nanos) -> Result<RearmLock, StateError> {
        let path = self.path.join(REARM_LOCK);
        let error = |action| StateError::new(&path, action);
        let file = self
            .open(REARM_LOCK, OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE)
            .or_else(|_| self.open(REARM_LOCK, OFlags::RDONLY))
            .map_err(error("open the lock"))?;
        let started = MonotonicClock.now();
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(RearmLock { _file: file }),
                Err(rustix::io::Errno::WOULDBLOCK) if MonotonicClock.now().since(started) < patience => {
                    MonotonicClock.sleep_until(MonotonicClock.now().plus(RETRY_AFTER));
                }
                Err(failed) => return Err(error("wait for a re-arm or a halt under way")(failed.into())),
            }
        }
    }

    /// Opens a file in the directory, and gives it the directory's owner if the caller is root. Root may pull
    /// the kill switch, and the daemon of another user must be able to use the same files afterwards.
    ///
    /// The directory is opened once. File and owner come from that descriptor, so nobody can exchange the
    /// path between two steps.
    ///
    /// # Errors
    /// Fails if the path does not lead to a directory of its own, or the file is a symlink, has a second
    /// name, or is no regular file.
    pub(crate) fn open(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let directory = self.open_itself()?;
        // A FIFO in the file's place must not be waited for.
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::openat(&directory, name, flags, Mode::from_raw_mode(FILE_MODE))?;
        let found = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("not a regular file"));
        }
        // A second name would make it somebody else's file as well.
        if found.st_nlink > 1 {
            return Err(io::Error::other("the file has a second name"));
        }
        if rustix::process::geteuid().is_root() {
            let above = rustix::fs::fstat(&directory)?;
            if (found.st_uid, found.st_gid) != (above.st_uid, above.st_gid) {
                let (user, group) = (above.st_uid, above.st_gid);
                std::os::unix::fs::fchown(&file, Some(user), Some(group))?;
            }
        }
        Ok(File::from(file))
    }

    /// Opens the directory itself, for the names in it only.
    fn open_itself(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(&self.path, flags, Mode::empty())
    }

    /// Makes files that were created, renamed or removed in the directory survive a crash of the machine.
    pub(crate) fn sync(&self) -> Result<(), StateError> {
        File::open(&self.path)
            .and_then(|directory| directory.sync_all())
            .map_err(StateError::new(&self.path, "sync the state directory"))
    }
}
