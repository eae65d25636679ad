//! The program under test, and a child process that is killed when dropped.

use crate::wait_for;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

/// Returns the path of the `escapement` program that Cargo built for this run.
///
/// Cargo passes that path to the tests and benchmarks of the package `escapement` only, while it compiles
/// them (`CARGO_BIN_EXE_escapement`), and not to this crate. So it is derived: Cargo puts a test or benchmark
/// into `PROFILE/deps`, and the program into `PROFILE`. Cargo builds the program before it runs any test or
/// benchmark of that package, with the same profile and features.
///
/// # Panics
/// Panics if the program is not there, as in a test of another package.
pub fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let program = test.ancestors().nth(2).expect("a test is in PROFILE/deps").join("escapement");
    assert!(
        program.is_file(),
        "{} is missing: only tests of the package escapement build it",
        program.display()
    );
    program
}

/// Returns a command for [`program`] without the variables that systemd would set, and with an empty standard
/// input.
pub fn escapement() -> Command {
    let mut command = Command::new(program());
    command
        .env_remove("RUNTIME_DIRECTORY")
        .env_remove("STATE_DIRECTORY")
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null());
    command
}

/// A child process; killed when dropped.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts the command with its standard output and standard error captured.
    pub fn spawn(mut command: Command) -> Self {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self { child }
    }

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Limits the pipe of standard error to two pages. Nothing reads it before [`Process::wait`].
    pub fn narrow_stderr(&self) {
        let stderr = self.child.stderr.as_ref().unwrap();
        rustix::pipe::fcntl_setpipe_size(stderr, 8192).unwrap();
    }

    /// Sends SIGKILL and waits for the end.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Returns the exit status, or `None` while the process runs.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for the end and returns the exit status and the text on standard error.
    pub fn wait(mut self) -> (ExitStatus, String) {
        let status = wait_for("the process to end", || self.child.try_wait().unwrap());
        (status, self.read_stderr())
    }

    /// Reads standard error to its end.
    pub(crate) fn read_stderr(&mut self) -> String {
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        stderr
    }

    /// Sends SIGTERM and waits for the end, as [`Process::wait`] does.
    pub fn stop(self) -> (ExitStatus, String) {
        self.signal(rustix::process::Signal::TERM);
        self.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail if the test has already waited for the end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
