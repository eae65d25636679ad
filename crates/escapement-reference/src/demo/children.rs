//! The demo's processes: this program itself, three times over.

use crate::ReferenceError;
use escapement_ring::clock::{Clock, MonotonicClock, Nanos};
use rustix::process::{Pid, Signal};
use rustix::thread::CpuSet;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

/// One of them; killed when dropped, and by the kernel when the demo dies.
pub(super) struct Process {
    name: &'static str,
    child: std::process::Child,
    ended: Option<ExitStatus>,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// How often a process that is waited for is looked at.
const POLL: Nanos = Nanos::from_millis(2);

impl Process {
    /// Starts `escapement NAME ARGUMENTS...` on the given cores, its output going to files in `directory`.
    pub(super) fn start(
        name: &'static str,
        arguments: &[String],
        cores: Option<CpuSet>,
        directory: &Path,
    ) -> Result<Self, ReferenceError> {
        let failed = |error: std::io::Error| ReferenceError::Temporary(format!("start {name}: {error}"));
        let (stdout, stderr) = (directory.join(format!("{name}.out")), directory.join(format!("{name}.log")));
        let mut command = std::process::Command::new(std::env::current_exe().map_err(failed)?);
        command
            .arg(name)
            .args(arguments)
            // The service manager, where there is one, waits for nothing that the demo starts.
            .env_remove("NOTIFY_SOCKET")
            .env_remove("RUNTIME_DIRECTORY")
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).map_err(failed)?)
            .stderr(File::create(&stderr).map_err(failed)?)
            // A group of its own: Ctrl-C reaches the demo alone, which then ends the three in their order.
            .process_group(0);
        let parent = rustix::process::getpid();
        let prepare = move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            if rustix::process::getppid() != Some(parent) {
                // The demo died before the line above; nobody would end this process.
                return Err(std::io::ErrorKind::NotFound.into());
            }
            if let Some(cores) = &cores {
                rustix::thread::sched_setaffinity(None, cores)?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes three plain system calls; it takes no lock, allocates nothing,
        // and reads only what it owns.
        unsafe { command.pre_exec(prepare) };
        let child = command.spawn().map_err(failed)?;
        Ok(Self { name, child, ended: None, stdout, stderr })
    }

    /// How it ended, if it has.
    pub(super) fn status(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            // It fails only for a process that was waited for already, and then `ended` is set.
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Asks it to stop in its own way.
    pub(super) fn ask_to_stop(&mut self) {
        if self.status().is_none() {
            // It may end at this very moment, which is as well.
            let _ = rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM);
        }
    }

    /// Waits for its end, at most this long.
    pub(super) fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let clock = MonotonicClock;
        let begun = clock.now();
        loop {
            let now = clock.now();
            match self.status() {
                Some(status) => return Some(status),
                None if now.since(begun).to_duration() >= patience => return None,
                None => clock.sleep_until(now.plus(POLL)),
            }
        }
    }

    /// What it has printed.
    pub(super) fn output(&self) -> String {
        std::fs::read_to_string(&self.stdout).unwrap_or_default()
    }

    /// Its failure, with its own last line and its own code; `None` where it ended well or still runs.
    pub(super) fn failure(&mut self) -> Option<ReferenceError> {
        let status = self.status()?;
        if status.success() {
            return None;
        }
        let said = std::fs::read_to_string(&self.stderr).unwrap_or_default();
        // The lines of a failure bear the program's name; what the daemon logs does not.
        let mut lines: Vec<&str> =
            said.lines().filter_map(|line| line.strip_prefix("escapement: ")).collect();
        if lines.is_empty() {
            lines.extend(said.lines().rev().find(|line| !line.trim().is_empty()));
        }
        let said = if lines.is_empty() { status.to_string() } else { lines.join("\n") };
        Some(ReferenceError::Process { code: status.code(), message: format!("{}: {said}", self.name) })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.status().is_none() {
            // It may be gone already; either way it is waited for, so that none is left behind.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The cores this process may use without the engine's, which has its own to itself; `None` where that leaves none.
pub(super) fn cores_without(engine: Option<usize>) -> Option<CpuSet> {
    let mut cores = rustix::thread::sched_getaffinity(None).ok()?;
    cores.unset(engine?);
    (cores.count() > 0).then_some(cores)
}
