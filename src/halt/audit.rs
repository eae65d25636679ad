//! The audit file: one line for every start, stop, halt, re-arm and reload, refused reloads included. Lines
//! are only appended. Each says who did it and why.

use super::latch::Halt;
use super::user::User;
use crate::agent_files::{StateDirectory, StateError};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

const NAME: &str = "audit.jsonl";
/// How much of the file's end is searched for a halt. A halt's line is among the last ones: the process ends
/// after it. An audit file that has grown for years is not read as a whole.
const SEARCHED_BYTES: u64 = 1 << 20;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditLine {
    /// When, as RFC 3339.
    pub at: String,
    /// The same in nanoseconds since 1970.
    pub at_ns: u64,
    /// `start`, `stop`, `halt`, `rearm`, `reload` or `reload_refused`.
    pub what: String,
    /// The reason's name, for a halt.
    pub reason: Option<String>,
    /// What a person said about it.
    pub text: Option<String>,
    /// Who did it; `None` for a rule.
    pub user: Option<User>,
    /// The process that wrote the line.
    pub pid: u32,
    /// The epoch.
    pub epoch: Option<u64>,
    /// The last sequence number that was answered.
    pub sequence: Option<u64>,
    /// SHA-256 of the policy.
    pub bundle_sha256: Option<String>,
}

impl AuditLine {
    /// The line about a halt, with the same content as the latch.
    pub fn of_halt(halt: &Halt) -> Self {
        let Halt { reason, text, at, at_ns, sequence, epoch, bundle_sha256, user, pid } = halt.clone();
        let (what, reason) = ("halt".to_owned(), Some(reason));
        Self { at, at_ns, what, reason, text, user, pid, epoch, sequence, bundle_sha256 }
    }
}

/// The audit file of one agent.
#[derive(Debug, Clone)]
pub struct Audit {
    directory: StateDirectory,
}

impl Audit {
    /// The audit file in an agent's state directory.
    pub fn of(directory: &StateDirectory) -> Self {
        Self { directory: directory.clone() }
    }

    /// The length of the file; zero if there is none. Later lines come after this many bytes.
    pub fn length(&self) -> u64 {
        std::fs::metadata(self.directory.path().join(NAME)).map_or(0, |found| found.len())
    }

    /// The last halt in the file after its first `length` bytes.
    ///
    /// # Errors
    /// Fails if the file cannot be read.
    pub fn halt_since(&self, length: u64) -> Result<Option<AuditLine>, StateError> {
        Ok(self.halts_since(length)?.pop())
    }

    /// Adds the line about a halt that a latch explains, if it is missing: the process was killed, or the
    /// machine crashed, before the line was on disk. The caller must hold the lock that keeps out other halts
    /// and re-arms.
    ///
    /// # Errors
    /// Fails if the file cannot be read, written or synced.
    pub fn complete(&self, halt: &Halt) -> Result<(), StateError> {
        let is_known = self.halts_since(0)?.iter().any(|line| line.at_ns == halt.at_ns);
        if is_known { Ok(()) } else { self.append(&AuditLine::of_halt(halt)) }
    }

    /// The halts in the file after its first `length` bytes, and within its last [`SEARCHED_BYTES`]. Lines
    /// that cannot be read are left out.
    fn halts_since(&self, length: u64) -> Result<Vec<AuditLine>, StateError> {
        let path = self.directory.path().join(NAME);
        let mut text = Vec::new();
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            file => file
                .and_then(|mut file| {
                    let searched = file.metadata()?.len().saturating_sub(SEARCHED_BYTES);
                    file.seek(SeekFrom::Start(searched.max(length)))?;
                    file.take(SEARCHED_BYTES).read_to_end(&mut text)
                })
                .map_err(StateError::new(&path, "read the audit file"))?,
        };
        let lines = text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        Ok(lines.filter(|line: &AuditLine| line.what == "halt").collect())
    }

    /// Adds a line and makes it survive a crash of the machine.
    ///
    /// # Errors
    /// Fails if it cannot be written or synced.
    pub fn append(&self, line: &AuditLine) -> Result<(), StateError> {
        let (file, is_new) = self.write(std::slice::from_ref(line))?;
        file.sync_all().map_err(StateError::new(&self.directory.path().join(NAME), "sync the audit file"))?;
        if is_new { self.directory.sync() } else { Ok(()) }
    }

    /// Adds lines without syncing them. They survive the process, but not a crash of the machine within the
    /// next seconds. For a process that has no time to sync.
    ///
    /// # Errors
    /// Fails if they cannot be written.
    pub fn append_in_haste(&self, lines: &[AuditLine]) -> Result<(), StateError> {
        self.write(lines).map(drop)
    }

    /// Writes all lines in one write. Returns the file, and whether it is new.
    ///
    /// The torn last line of a killed process is closed first, so that only that line cannot be read.
    fn write(&self, lines: &[AuditLine]) -> Result<(File, bool), StateError> {
        let path = self.directory.path().join(NAME);
        let error = |action| StateError::new(&path, action);
        let mut file = self
            .directory
            .open(NAME, OFlags::RDWR | OFlags::APPEND | OFlags::CREATE)
            .map_err(error("open the audit file"))?;
        let length = file.metadata().map_err(error("look up its size"))?.len();
        let mut last = [b'\n'];
        if length > 0 {
            file.read_exact_at(&mut last, length - 1).map_err(error("read its last byte"))?;
        }
        let mut bytes = Vec::new();
        if last != *b"\n" {
            bytes.push(b'\n');
        }
        for line in lines {
            serde_json::to_writer(&mut bytes, line).expect("a line has only strings and numbers");
            bytes.push(b'\n');
        }
        file.write_all(&bytes).map_err(error("write to the audit file"))?;
        Ok((file, length == 0))
    }
}
