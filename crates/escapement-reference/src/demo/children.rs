//! The demo's processes: three instances of this program.

use crate::ReferenceError;
use escapement_ring::clock::{Clock, MonotonicClock, Nanos};
use rustix::process::{Pid, Signal};
use rustix::thread::CpuSet;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

/// One of the processes. It is killed when dropped, and by the kernel if the demo dies.
pub(super) struct Process {
    name: &'static str,
    child: std::process::Child,
    ended: Option<ExitStatus>,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// How often the state of an awaited process is checked.
const POLL: Nanos = Nanos::from_millis(2);

impl Process {
    /// Starts `escapement NAME ARGUMENTS...` on the given cores. Its output goes to files in `directory`.
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
            // A service manager must not take these processes for the service.
            .env_remove("NOTIFY_SOCKET")
            .env_remove("RUNTIME_DIRECTORY")
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).map_err(failed)?)
            .stderr(File::create(&stderr).map_err(failed)?)
            // A process group of its own: Ctrl-C reaches only the demo, which then ends the three in order.
            .process_group(0);
        let parent = rustix::process::getpid();
        let prepare = move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            if rustix::process::getppid() != Some(parent) {
                // The demo died before the line above, so the kernel will not end this process.
                return Err(std::io::ErrorKind::NotFound.into());
            }
            if let Some(cores) = &cores {
                rustix::thread::sched_setaffinity(None, cores)?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes three plain system calls; it takes no lock,
        // allocates nothing, and reads only what it owns.
        unsafe { command.pre_exec(prepare) };
        let child = command.spawn().map_err(failed)?;
        Ok(Self { name, child, ended: None, stdout, stderr })
    }

    /// The exit status; `None` while it runs.
    pub(super) fn status(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            // It fails only for a process that was waited for before, and then `ended` is set.
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Sends SIGTERM.
    pub(super) fn ask_to_stop(&mut self) {
        if self.status().is_none() {
            // The process may end at this moment. That is fine too.
            let _ = rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM);
        }
    }

    /// Waits until it has ended, at most for `patience`.
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

    /// Its standard output so far.
    pub(super) fn output(&self) -> String {
        std::fs::read_to_string(&self.stdout).unwrap_or_default()
    }

    /// Its failure, with its own last line and code. `None` if it succeeded or still runs.
    pub(super) fn failure(&mut self) -> Option<ReferenceError> {
        let status = self.status()?;
        if status.success() {
            return None;
        }
        let said = std::fs::read_to_string(&self.stderr).unwrap_or_default();
        // Failure lines begin with the program's name; log lines do not.
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
            // It may have ended already. Waiting for it leaves no zombie.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The cores that this process may use, without the engine's. `None` if that leaves none.
pub(super) fn cores_without(engine: Option<usize>) -> Option<CpuSet> {
    let mut cores = rustix::thread::sched_getaffinity(None).ok()?;
    cores.unset(engine?);
    (cores.count() > 0).then_some(cores)
}
