//! What outlives a restart and a reboot: the agent's state directory, with the latch and the audit file in it.
//!
//! The rings lie in memory and vanish with the machine's power. A halt must not, so that it is kept here, on disk.

use escapement_ring::clock::{Clock, MonotonicClock, Nanos};
use escapement_ring::shm::{RoleLock, ShmError};
use rustix::fs::FlockOperation;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Where state directories are for agents that run as root.
const SYSTEM_ROOT: &str = "/var/lib/escapement";
/// The same, below the home directory of another user.
const USER_ROOT: &str = ".local/state/escapement";
/// For the agent's user alone to write, and for its group to read.
const DIRECTORY_MODE: u32 = 0o750;
const FILE_MODE: u32 = 0o640;
const REARM_LOCK: &str = "rearm.lock";
/// How often a lock that somebody holds is tried again.
const LOOK_AGAIN: Nanos = Nanos::from_millis(1);

/// No re-arm is under way, or it is the caller's. The file stays, so that all find the same one.
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
    /// The state directory of the agent `name` below `root`. Without a root it is the one that systemd made for this
    /// instance of the service, or else the agent's below `/var/lib/escapement` for root and below the user's own
    /// directory for state (XDG) for everybody else.
    pub fn new(root: Option<&Path>, name: &str) -> Self {
        let path = match (root, std::env::var_os("STATE_DIRECTORY")) {
            (Some(root), _) => root.join(name),
            (None, Some(directory)) => PathBuf::from(directory),
            (None, None) => Self::default_root().join(name),
        };
        Self { path }
    }

    /// The directory at `path`, as a running daemon names it.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where the system's agents keep theirs, whoever asks.
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

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the directory where it is missing, and shows that a halt could be kept in it.
    ///
    /// # Errors
    /// When it cannot be made or written: an agent without a place for its latch must not start.
    pub fn create(&self) -> Result<(), StateError> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(DIRECTORY_MODE);
        builder.create(&self.path).map_err(StateError::new(&self.path, "create the state directory"))?;
        let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        rustix::fs::access(&self.path, access)
            .map_err(|error| StateError::new(&self.path, "write to the state directory")(error.into()))
    }

    /// Takes the state directory for the calling process, without waiting: the daemon while it runs, `rearm` while it
    /// works. It is a lock of its own beside the one on the rings, because the rings' directory does not outlive a
    /// reboot, and because no two agents may share a latch.
    ///
    /// # Errors
    /// [`ShmError::Held`] when another process has it.
    pub fn acquire(&self) -> Result<RoleLock, ShmError> {
        // Made here where it is missing, so that it belongs to whoever the directory belongs to.
        drop(self.open("daemon.lock", OpenOptions::new().append(true).create(true)));
        RoleLock::acquire(&self.path, "daemon")
    }

    /// Keeps re-arms out, or is the re-arm: `rearm` holds this lock from its first look at the latch to the latch's removal,
    /// `halt` takes it before it says that it halted. Somebody who may only read the directory may take it too.
    ///
    /// # Errors
    /// When the lock's file cannot be had, or another process holds it for longer than `patience`.
    pub fn lock_rearm(&self, patience: Nanos) -> Result<RearmLock, StateError> {
        let path = self.path.join(REARM_LOCK);
        let error = |action| StateError::new(&path, action);
        let file = self
            .open(REARM_LOCK, OpenOptions::new().append(true).create(true))
            .or_else(|_| self.open(REARM_LOCK, OpenOptions::new().read(true)))
            .map_err(error("open the lock"))?;
        let begun = MonotonicClock.now();
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(RearmLock { _file: file }),
                Err(rustix::io::Errno::WOULDBLOCK) if MonotonicClock.now().since(begun) < patience => {
                    MonotonicClock.sleep_until(MonotonicClock.now().plus(LOOK_AGAIN));
                }
                Err(failed) => return Err(error("wait for a re-arm or a halt under way")(failed.into())),
            }
        }
    }

    /// Opens a file in the directory. What root makes in a directory of the agent's user is the agent's: root may press
    /// the kill switch, and the daemon must be able to go on with the same files.
    pub(crate) fn open(&self, name: &str, options: &mut OpenOptions) -> io::Result<File> {
        let flags = libc::O_NOFOLLOW;
        let file = options.mode(FILE_MODE).custom_flags(flags).open(self.path.join(name))?;
        if rustix::process::geteuid().is_root() {
            let directory = std::fs::metadata(&self.path)?;
            let own = file.metadata()?;
            if (own.uid(), own.gid()) != (directory.uid(), directory.gid()) {
                std::os::unix::fs::fchown(&file, Some(directory.uid()), Some(directory.gid()))?;
            }
        }
        Ok(file)
    }

    /// Makes what was created, renamed or removed in the directory survive a crash of the machine.
    pub(crate) fn sync(&self) -> Result<(), StateError> {
        File::open(&self.path)
            .and_then(|directory| directory.sync_all())
            .map_err(StateError::new(&self.path, "sync the state directory"))
    }
}
