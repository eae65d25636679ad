//! The latch: a halt that outlives the process, the restart and the reboot.
//!
//! The *presence* of the file `halted` in the state directory is the halt; its content only explains it. So a
//! halt takes one system call at any moment, and a torn or empty file halts like a whole one. If the
//! directory cannot be read, the agent counts as halted.

use super::user::User;
use crate::agent_files::{StateDirectory, StateError};
use escapement_ring::clock::{Clock, MonotonicClock, Nanos};
use rustix::fs::{FlockOperation, OFlags, RenameFlags, Timespec, Timestamps, UTIME_NOW};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

const NAME: &str = "halted";
/// A latch that is prepared beside its place, for a halt that may come soon.
const PREPARED: &str = "halted.new";
/// Sets both times of a file to the kernel's current time.
const NOW: Timestamps = Timestamps {
    last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
    last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
};
/// How long to wait before an expected latch is looked for again.
const LOOK_AGAIN_AFTER: Nanos = Nanos::from_millis(2);
/// Longer than any explanation. Of a longer file, which is damaged, only this much is read.
const MAX_BYTES: u64 = 64 * 1024;

/// Why an agent is halted, as the latch explains it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halt {
    /// The reason's name.
    pub reason: String,
    /// What a person said about it.
    pub text: Option<String>,
    /// When, as RFC 3339.
    pub at: String,
    /// The same in nanoseconds since 1970.
    pub at_ns: u64,
    /// The last sequence number that was answered, if one is known.
    pub sequence: Option<u64>,
    /// The epoch that was halted; `None` if there were no rings.
    pub epoch: Option<u64>,
    /// SHA-256 of the policy that was answering.
    pub bundle_sha256: Option<String>,
    /// Who halted it; `None` for a rule.
    pub user: Option<User>,
    /// The process that wrote this.
    pub pid: u32,
}

/// What the latch says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "LatchJson", from = "LatchJson")]
pub enum LatchState {
    /// The agent is not halted.
    Open,
    /// Halted, and this is why.
    Halted(Box<Halt>),
    /// Halted, and the reason cannot be read: the file is torn, empty or unreadable, or the directory cannot
    /// be read.
    Unexplained(String),
}

impl LatchState {
    /// Why the agent is halted, in one line; `None` if it is not.
    pub fn summary(&self) -> Option<String> {
        match self {
            Self::Open => None,
            Self::Halted(halt) => Some(halt.summary()),
            Self::Unexplained(why) => Some(why.clone()),
        }
    }

    /// As JSON: `null`, the halt, or `{"unexplained": …}`.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!(self)
    }
}

/// The JSON form of a [`LatchState`].
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum LatchJson {
    Open,
    Halted(Box<Halt>),
    Unexplained { unexplained: String },
}

impl From<LatchState> for LatchJson {
    fn from(latch: LatchState) -> Self {
        match latch {
            LatchState::Open => Self::Open,
            LatchState::Halted(halt) => Self::Halted(halt),
            LatchState::Unexplained(unexplained) => Self::Unexplained { unexplained },
        }
    }
}

impl From<LatchJson> for LatchState {
    fn from(json: LatchJson) -> Self {
        match json {
            LatchJson::Open => Self::Open,
            LatchJson::Halted(halt) => Self::Halted(halt),
            LatchJson::Unexplained { unexplained } => Self::Unexplained(unexplained),
        }
    }
}

/// The latch of one agent.
#[derive(Debug, Clone)]
pub struct Latch {
    directory: StateDirectory,
}

/// The latch's file, newly made and still empty.
#[derive(Debug)]
pub struct Engaged {
    file: File,
}

impl Latch {
    /// The latch in an agent's state directory.
    pub fn of(directory: &StateDirectory) -> Self {
        Self { directory: directory.clone() }
    }

    /// The path of its file.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join(NAME)
    }

    /// Whether the agent must not be armed: true unless the file is known to be absent. Makes one system
    /// call.
    pub fn is_engaged(&self) -> bool {
        let found = std::fs::symlink_metadata(self.path());
        !found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    /// Waits for another process to write the explained latch, and makes it survive a crash of the machine.
    /// Returns whether it is there.
    pub fn is_explained_within(&self, patience: Nanos) -> bool {
        let begun = MonotonicClock.now();
        loop {
            if matches!(self.read(), LatchState::Halted(_)) {
                return self.keep().is_ok();
            }
            if MonotonicClock.now().since(begun) >= patience {
                return false;
            }
            MonotonicClock.sleep_until(MonotonicClock.now().plus(LOOK_AGAIN_AFTER));
        }
    }

    /// Reads what it says.
    pub fn read(&self) -> LatchState {
        let path = self.path();
        let text = match std::fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return LatchState::Open,
            Err(error) => Err(error),
            Ok(found) if !found.is_file() => Err(io::Error::other("not a regular file")),
            Ok(_) => File::open(&path).and_then(|file| {
                let mut text = String::new();
                file.take(MAX_BYTES).read_to_string(&mut text)?;
                Ok(text)
            }),
        };
        let unexplained = |why: &str| LatchState::Unexplained(format!("{}: {why}", path.display()));
        match text {
            Err(error) => unexplained(&error.to_string()),
            Ok(text) if text.trim().is_empty() => {
                unexplained("empty: the process that halted it was killed before it could say why")
            }
            Ok(text) => match serde_json::from_str(&text) {
                Ok(halt) => LatchState::Halted(Box::new(halt)),
                Err(error) => unexplained(&format!("torn or not a latch ({error})")),
            },
        }
    }

    /// Halts: makes the empty file. Returns `None` if it is there already; the first halt's reason stands
    /// then.
    ///
    /// # Errors
    /// Fails if the file is not there and cannot be made.
    pub fn engage(&self) -> Result<Option<Engaged>, StateError> {
        match self.directory.open(NAME, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL) {
            Ok(file) => {
                // The lock says that a living process is about to explain the latch. On a file system without
                // locks the halt stands all the same.
                let _ = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
                Ok(Some(Engaged { file }))
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            // The file was made, and a later step failed (its owner could not be changed).
            Err(_) if std::fs::symlink_metadata(self.path()).is_ok() => Ok(None),
            Err(error) => Err(StateError::new(&self.path(), "write the latch")(error)),
        }
    }

    /// Takes over an empty latch whose maker is gone. Returns `None` for any other latch.
    pub fn adopt(&self) -> Option<Engaged> {
        let file = self.directory.open(NAME, OFlags::WRONLY).ok()?;
        let is_empty = || file.metadata().is_ok_and(|found| found.is_file() && found.len() == 0);
        let is_orphaned = || rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        // Its maker explains it before releasing the lock, so its length is read again under the lock.
        (is_empty() && is_orphaned() && is_empty()).then_some(Engaged { file })
    }

    /// Explains a halt that was just made, and makes it survive a crash of the machine.
    ///
    /// # Errors
    /// Fails if it cannot be written or synced. The halt stands all the same, as long as the file is there.
    pub fn explain(&self, engaged: Engaged, halt: &Halt) -> Result<(), StateError> {
        engaged
            .file
            // Another process may have adopted the latch before its maker locked it, and have written to it.
            .set_len(0)
            .and_then(|()| engaged.file.write_all_at(&halt.to_line(), 0))
            .and_then(|()| engaged.file.sync_all())
            .map_err(StateError::new(&self.path(), "write the latch"))?;
        self.directory.sync()
    }

    /// Makes a halt that was found survive a crash of the machine, since its maker may have been killed
    /// before syncing.
    ///
    /// # Errors
    /// Fails if it cannot be synced.
    pub fn keep(&self) -> Result<(), StateError> {
        // A latch that cannot be opened is not a plain file; its entry is synced with the directory.
        if let Ok(file) = File::open(self.path()) {
            file.sync_all().map_err(StateError::new(&self.path(), "sync the latch"))?;
        }
        self.directory.sync()
    }

    /// Writes and syncs the latch's content beside its place. This is half the work of a halt;
    /// [`Latch::engage_prepared`] does the rest. It does not halt the agent.
    ///
    /// # Errors
    /// Fails if it cannot be written or synced.
    pub fn prepare(&self, halt: &Halt) -> Result<(), StateError> {
        self.directory
            .open(PREPARED, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)
            .and_then(|file| {
                file.write_all_at(&halt.to_line(), 0)?;
                file.sync_all()
            })
            .map_err(StateError::new(&self.prepared_path(), "prepare the latch"))
    }

    /// Halts with the prepared latch. Returns false if there is a latch already; its reason stands then.
    ///
    /// # Errors
    /// Fails if nothing was prepared, the file system cannot rename without replacing, or the directory
    /// cannot be synced. In the last case the halt stands all the same.
    pub fn engage_prepared(&self) -> Result<bool, StateError> {
        let (from, to) = (self.prepared_path(), self.path());
        let at = rustix::fs::CWD;
        match rustix::fs::renameat_with(at, &from, at, &to, RenameFlags::NOREPLACE) {
            Ok(()) => self.directory.sync().map(|()| true),
            Err(rustix::io::Errno::EXIST) => Ok(false),
            Err(error) => Err(StateError::new(&to, "move the latch to its place")(error.into())),
        }
    }

    /// Syncs the prepared latch again without changing its content: a disk that has just been used is faster.
    pub fn touch_prepared(&self) {
        let touched = File::options().write(true).open(self.prepared_path()).and_then(|file| {
            rustix::fs::futimens(&file, &NOW)?;
            file.sync_all()
        });
        // After a failure, the prepared latch is what it was.
        drop(touched);
    }

    /// Removes the prepared latch, if there is one.
    pub fn discard_prepared(&self) {
        // A file that cannot be removed does no harm: it is never read.
        let _ = std::fs::remove_file(self.prepared_path());
    }

    fn prepared_path(&self) -> PathBuf {
        self.directory.path().join(PREPARED)
    }

    /// Lifts the halt. The caller must act for a person, hold the locks of the state directory, and have
    /// written the audit line.
    ///
    /// # Errors
    /// Fails if the file cannot be removed; the agent stays halted then.
    pub fn release(&self) -> Result<(), StateError> {
        std::fs::remove_file(self.path()).map_err(StateError::new(&self.path(), "remove the latch"))?;
        self.directory.sync()
    }
}

impl Halt {
    fn to_line(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec(self).expect("a halt has only strings and numbers");
        text.push(b'\n');
        text
    }

    /// In one line: since when, why, and by whom.
    pub fn summary(&self) -> String {
        let text = self.text.as_ref().map_or_else(String::new, |text| format!(": {text}"));
        let user = self.user.as_ref().map_or_else(String::new, |user| format!(", by {user}"));
        format!("since {}, {}{text}{user}", self.at, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn halt() -> Halt {
        Halt {
            reason: "operator".to_owned(),
            text: Some("venue is down".to_owned()),
            at: "2026-11-25T14:02:11.120114402Z".to_owned(),
            at_ns: 1_795_615_331_120_114_402,
            sequence: Some(7),
            epoch: Some(3),
            bundle_sha256: None,
            user: Some(User { uid: 1000, name: Some("trader".to_owned()), sudo_uid: None }),
            pid: 4711,
        }
    }

    /// However much of the explanation reached the disk, the agent is halted, and no wrong reason is given.
    #[test]
    fn a_latch_torn_anywhere_halts() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let state = StateDirectory::at(directory.path().to_owned());
        let latch = Latch::of(&state);
        assert_eq!((latch.is_engaged(), latch.read()), (false, LatchState::Open));
        let engaged =
            latch.engage().expect("the directory can be written").expect("it was not halted before");
        assert!(latch.is_engaged(), "the halt is there before its explanation");
        latch.explain(engaged, &halt()).expect("the directory can be written");
        assert_eq!(latch.read(), LatchState::Halted(Box::new(halt())));
        assert!(latch.engage().expect("it is there").is_none(), "the first reason stands");

        let whole = std::fs::read(latch.path()).expect("it is there");
        for length in 0..whole.len() - 1 {
            std::fs::write(latch.path(), &whole[..length]).expect("the directory can be written");
            assert!(latch.is_engaged());
            assert!(matches!(latch.read(), LatchState::Unexplained(_)), "{length} bytes");
        }
        latch.release().expect("it is there");
        assert!(!latch.is_engaged());
    }

    #[test]
    fn what_was_prepared_halts_once_and_replaces_nothing() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let latch = Latch::of(&StateDirectory::at(directory.path().to_owned()));
        assert!(latch.engage_prepared().is_err(), "nothing was prepared");
        let longer = Halt { text: Some("x".repeat(1000)), ..halt() };
        latch.prepare(&longer).expect("the directory can be written");
        latch.prepare(&halt()).expect("the directory can be written");
        assert!(!latch.is_engaged(), "a prepared latch halts nothing");
        assert!(latch.engage_prepared().expect("it was prepared"));
        assert_eq!(latch.read(), LatchState::Halted(Box::new(halt())));
        latch.prepare(&longer).expect("the directory can be written");
        assert!(!latch.engage_prepared().expect("it was prepared"), "the first reason stands");
        latch.discard_prepared();
        assert_eq!(latch.read(), LatchState::Halted(Box::new(halt())));
        assert_eq!(std::fs::read_dir(directory.path()).expect("it is there").count(), 1);
    }

    /// An empty latch whose maker is gone can be adopted. A latch with any content, and one whose maker
    /// lives, cannot.
    #[test]
    fn only_an_orphan_is_adopted() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let latch = Latch::of(&StateDirectory::at(directory.path().to_owned()));
        assert!(latch.adopt().is_none(), "there is none");
        let engaged =
            latch.engage().expect("the directory can be written").expect("it was not halted before");
        assert!(latch.adopt().is_none(), "its maker lives");
        drop(engaged);
        let adopted = latch.adopt().expect("its maker is gone");
        latch.explain(adopted, &halt()).expect("the directory can be written");
        assert_eq!(latch.read(), LatchState::Halted(Box::new(halt())));
        assert!(latch.adopt().is_none(), "it is explained");
    }
}
