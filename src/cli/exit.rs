//! The table of exit codes, and the only place where an error becomes one.
//!
//! The numbers follow `sysexits.h` where it has one. `docs/EXIT_CODES.md` has the same table. The systemd
//! unit lists the codes that must not cause a restart.

use crate::agent_files::StateError;
use crate::bundle::BundleError;
use crate::config::ConfigError;
use crate::daemon::DaemonError;
use crate::os::say;
use crate::policy::PolicyError;
use escapement_reference::ReferenceError;
use escapement_reference::feed::RecordingError;
use escapement_ring::directory::DirectoryError;
use escapement_ring::gateway::AttachError;
use escapement_ring::ring::ProtocolViolation;
use escapement_ring::shm::ShmError;

/// How the process ends. Numbers are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// A clean stop.
    Ok = 0,
    /// The answer is no: a service-level objective is missed, or two bundles differ.
    Negative = 1,
    /// The command line is wrong.
    Usage = 64,
    /// A bundle or policy is bad.
    Bundle = 65,
    /// An input file, ring or directory is missing.
    InputMissing = 66,
    /// The ring is owned by another process.
    Owned = 69,
    /// A defect of this program.
    Internal = 70,
    /// Reserved.
    Journal = 74,
    /// Temporary: a restart may help.
    Temporary = 75,
    /// The other side of a ring broke its protocol, or a ring is damaged.
    Protocol = 76,
    /// A permission is missing.
    Permission = 77,
    /// The configuration is wrong.
    Config = 78,
    /// The agent halted, or is halted and was not started.
    Halted = 80,
    /// The policy hung.
    Hung = 81,
    /// A mapped file was truncated.
    BusError = 82,
    /// The agent is halted, and nothing keeps that where its next start looks.
    NotKept = 83,
}

impl ExitCode {
    /// Every code.
    pub const ALL: &[Self] = &[
        Self::Ok,
        Self::Negative,
        Self::Usage,
        Self::Bundle,
        Self::InputMissing,
        Self::Owned,
        Self::Internal,
        Self::Journal,
        Self::Temporary,
        Self::Protocol,
        Self::Permission,
        Self::Config,
        Self::Halted,
        Self::Hung,
        Self::BusError,
        Self::NotKept,
    ];

    /// The code of another `escapement` process; `None` for a number that is not in the table.
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| *code as i32 == number)
    }
}

impl std::process::Termination for ExitCode {
    fn report(self) -> std::process::ExitCode {
        std::process::ExitCode::from(self as u8)
    }
}

/// Why a command failed: one line for each problem, and the exit code.
#[derive(Debug)]
pub struct Failure {
    /// The code.
    pub code: ExitCode,
    /// The lines, without a trailing newline.
    pub message: String,
}

impl Failure {
    /// A failure of this code.
    pub fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Prints the lines to standard error and returns the code.
    pub fn report(self) -> ExitCode {
        for line in self.message.lines() {
            say(&format!("escapement: {line}\n"));
        }
        self.code
    }

    /// A failed read or write of a file named by the user.
    pub fn from_io(path: &std::path::Path, error: &std::io::Error) -> Self {
        let code = match error.kind() {
            // A directory in place of a file counts as a missing file.
            std::io::ErrorKind::NotFound
            | std::io::ErrorKind::NotADirectory
            | std::io::ErrorKind::IsADirectory => ExitCode::InputMissing,
            std::io::ErrorKind::PermissionDenied => ExitCode::Permission,
            _ => ExitCode::Temporary,
        };
        Self::new(code, format!("{}: {error}", path.display()))
    }
}

/// Prints what clap says. Help and version go to standard output and succeed. Everything else is a usage
/// error.
pub(super) fn for_usage(error: &clap::Error) -> ExitCode {
    // If standard output or error is closed, the text cannot be printed anywhere.
    let _ = error.print();
    if error.use_stderr() { ExitCode::Usage } else { ExitCode::Ok }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::Unreadable { path, source } => Self::from_io(&path, &source),
            ConfigError::Refused { .. } => Self::new(ExitCode::Config, error.to_string()),
        }
    }
}

impl From<ShmError> for Failure {
    fn from(error: ShmError) -> Self {
        let code = match &error {
            ShmError::Held { .. } => ExitCode::Owned,
            ShmError::NotAFile { .. } => ExitCode::Protocol,
            _ if error.is_not_found() => ExitCode::InputMissing,
            _ if error.is_permission() => ExitCode::Permission,
            ShmError::System { .. } => ExitCode::Temporary,
        };
        Self::new(code, error.to_string())
    }
}

impl From<DirectoryError> for Failure {
    fn from(error: DirectoryError) -> Self {
        match error {
            DirectoryError::Shm(error) => error.into(),
            DirectoryError::Layout { .. } | DirectoryError::Mismatch { .. } => {
                Self::new(ExitCode::Protocol, error.to_string())
            }
        }
    }
}

impl From<ProtocolViolation> for Failure {
    fn from(error: ProtocolViolation) -> Self {
        Self::new(ExitCode::Protocol, error.to_string())
    }
}

impl From<AttachError> for Failure {
    fn from(error: AttachError) -> Self {
        match error {
            AttachError::Directory(error) => error.into(),
            AttachError::Violation(violation) => violation.into(),
            // The daemon is replacing the rings at this moment: treat them as not there yet.
            AttachError::NotAPair { .. } => Self::new(ExitCode::InputMissing, error.to_string()),
        }
    }
}

impl From<RecordingError> for Failure {
    fn from(error: RecordingError) -> Self {
        match &error {
            RecordingError::Io { path, source } => Self::from_io(path, source),
            RecordingError::Malformed { .. } => Self::new(ExitCode::Usage, error.to_string()),
        }
    }
}

impl From<ReferenceError> for Failure {
    fn from(error: ReferenceError) -> Self {
        let code = match error {
            ReferenceError::File { path, source } => return Self::from_io(&path, &source),
            ReferenceError::Recording(error) => return error.into(),
            ReferenceError::Directory(error) => return error.into(),
            ReferenceError::Attach(error) => return error.into(),
            ReferenceError::Violation(error) => return error.into(),
            ReferenceError::Usage(_) => ExitCode::Usage,
            ReferenceError::Process { code, .. } => {
                code.and_then(ExitCode::from_number).unwrap_or(ExitCode::Internal)
            }
            ReferenceError::Temporary(_) => ExitCode::Temporary,
            ReferenceError::Internal(_) => ExitCode::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl From<PolicyError> for Failure {
    fn from(error: PolicyError) -> Self {
        let code = match &error {
            PolicyError::Unreadable { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                ExitCode::InputMissing
            }
            PolicyError::Unreadable { source, .. }
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                ExitCode::Permission
            }
            PolicyError::Unreadable { .. }
            | PolicyError::Malformed { .. }
            | PolicyError::Shape { .. }
            | PolicyError::Unsupported { .. } => ExitCode::Bundle,
            PolicyError::Backend { .. } => ExitCode::Config,
        };
        Self::new(code, error.to_string())
    }
}

impl From<BundleError> for Failure {
    fn from(error: BundleError) -> Self {
        match error {
            BundleError::Unreadable { path, source } => Self::from_io(&path, &source),
            BundleError::Refused { .. } => Self::new(ExitCode::Bundle, error.to_string()),
            BundleError::Policy(error) => error.into(),
        }
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        Self::new(state_code(&error), error.to_string())
    }
}

fn state_code(error: &StateError) -> ExitCode {
    if error.is_permission() { ExitCode::Permission } else { ExitCode::Temporary }
}

impl From<DaemonError> for Failure {
    fn from(error: DaemonError) -> Self {
        let code = match error {
            DaemonError::Latched { .. } => ExitCode::Halted,
            DaemonError::State(ref source) => state_code(source),
            DaemonError::Directory(error) => return error.into(),
            DaemonError::Policy(error) => return error.into(),
            DaemonError::Bundle(error) => return error.into(),
            DaemonError::NoStatistics { .. } | DaemonError::NoCarriedState | DaemonError::TooSlow { .. } => {
                ExitCode::Config
            }
            DaemonError::Unconfined(_) => ExitCode::Permission,
            DaemonError::LoadHung { .. } => ExitCode::Hung,
            DaemonError::Engine(_) | DaemonError::Rings(_) => ExitCode::Protocol,
            DaemonError::Strict(_) => ExitCode::Permission,
            DaemonError::System { .. } => ExitCode::Temporary,
        };
        Self::new(code, error.to_string())
    }
}
