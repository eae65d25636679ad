//! `daemon.json` in the directory of an agent's rings: the daemon's process, its state directory and its
//! configuration. Commands that are given only an agent's name find these there.

use super::lock_holder::lock_holder;
use super::replace::replace_file;
use super::state::StateDirectory;
use escapement_ring::directory::AgentDirectory;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const NAME: &str = "daemon.json";

/// What a daemon says about itself when it starts. The file stays after the daemon's end: the paths stay
/// true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFile {
    /// The daemon's process.
    pub pid: u32,
    /// When that process started, in clock ticks since the machine did. It tells the process from a later one
    /// with the same number.
    pub started: u64,
    /// Its state directory.
    pub state: PathBuf,
    /// Its configuration.
    pub config: PathBuf,
}

/// A handle of a living daemon. It can never name another process.
#[derive(Debug)]
pub struct LiveDaemon {
    handle: OwnedFd,
}

impl RunFile {
    /// Describes the calling process.
    ///
    /// # Errors
    /// Fails if the kernel does not say when it started.
    pub fn of_this_process(state: PathBuf, config: PathBuf) -> io::Result<Self> {
        let pid = std::process::id();
        let (started, _) = start_of(pid)?;
        Ok(Self { pid, started, state, config })
    }

    /// Writes the file, completely or not at all.
    ///
    /// # Errors
    /// Fails if it cannot be written.
    pub fn write(&self, directory: &AgentDirectory) -> io::Result<()> {
        replace_file(&directory.path().join(NAME), &serde_json::to_vec(self)?)
    }

    /// Reads the file in the directory; `None` if there is none that can be read.
    pub fn read(directory: &AgentDirectory) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(directory.path().join(NAME)).ok()?).ok()
    }

    /// Whether nobody but root and the caller's own user can have written the file in the directory.
    pub fn is_only_ours(directory: &AgentDirectory) -> bool {
        let own = rustix::process::geteuid().as_raw();
        let is_ours = |path: &Path| {
            let found = std::fs::symlink_metadata(path);
            found.is_ok_and(|found| [0, own].contains(&found.uid()) && found.mode() & 0o022 == 0)
        };
        is_ours(directory.path()) && is_ours(&directory.path().join(NAME))
    }

    /// The daemon, if it is alive.
    pub fn daemon(&self) -> Option<LiveDaemon> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Read only after the handle was opened, so that both are about the same process.
        match start_of(self.pid) {
            Ok((started, alive)) if started == self.started && alive => Some(LiveDaemon { handle }),
            _ => None,
        }
    }
}

impl LiveDaemon {
    /// The process that holds the daemon's lock in the state directory, as the kernel says. `None` if none
    /// does, the caller may not look there, or it is no daemon: a re-arm holds the lock as well, and does not
    /// catch the kill switch's signal.
    pub fn holder_of(state: &StateDirectory) -> Option<Self> {
        let holder = lock_holder(state)?;
        let pid = Pid::from_raw(i32::try_from(holder).ok()?)?;
        let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Asked again after the handle was opened, so that both are about the same process.
        let is_same = lock_holder(state) == Some(holder);
        (is_same && catches(holder, Signal::USR2)).then_some(Self { handle })
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// Fails if the caller may not, or the daemon has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.handle, signal)?)
    }
}

/// Whether a process has a handler for a signal. One that has none would die of it.
fn catches(pid: u32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_some_and(|mask| mask >> (signal.as_raw() - 1) & 1 == 1)
}

/// When a process started, and whether it still runs.
fn start_of(pid: u32) -> io::Result<(u64, bool)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the program's name in parentheses, with anything in it.
    let fields = text.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let mut fields = fields.split(' ');
    let alive = fields.next().is_some_and(|state| !matches!(state, "Z" | "X" | "x"));
    // The first of these is the third field of the file; the 22nd is the start.
    let started = fields.nth(18).and_then(|field| field.parse().ok());
    started
        .map(|started| (started, alive))
        .ok_or_else(|| io::Error::other("/proc does not say when the process started"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_recognised_by_its_start() {
        let own = RunFile::of_this_process(PathBuf::new(), PathBuf::new()).expect("/proc is there");
        assert!(own.daemon().is_some());
        assert!(RunFile { started: own.started + 1, ..own }.daemon().is_none());
    }
}
