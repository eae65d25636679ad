//! The files that the daemon has open, compared with what their names lead to. A ring that was removed or
//! replaced is one that no new peer can find.

use crate::agent_files::{RunFile, StateDirectory};
use escapement_ring::clock::Nanos;
use escapement_ring::directory::{AgentDirectory, RingFile};
use escapement_ring::ring::Region;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// How often the files are compared.
const EVERY: Nanos = Nanos::from_millis(1_000);

/// Device and inode.
type Identity = (u64, u64);

/// A file or directory that the agent uses.
struct OwnFile {
    what: &'static str,
    path: PathBuf,
    is_directory: bool,
    /// Of what was opened.
    identity: Identity,
    loss: Option<&'static str>,
}

impl OwnFile {
    /// Device and inode of what the path leads to now. systemd may make the state directory a link. In a
    /// file's place a link is a replacement, since peers do not follow it.
    fn identity_now(&self) -> Option<Identity> {
        let found = if self.is_directory {
            std::fs::metadata(&self.path)
        } else {
            std::fs::symlink_metadata(&self.path)
        };
        found.ok().map(|found| (found.dev(), found.ino()))
    }
}

/// What is compared, and what was found.
pub(super) struct OwnFiles {
    files: Vec<OwnFile>,
    run_file: RunFile,
    directory: AgentDirectory,
    due: Nanos,
    lost: u64,
    run_file_rewritten: u64,
}

/// What a comparison has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Whether a file was lost that was there before.
    pub(super) newly_lost: bool,
    /// Whether the run file has to be written again.
    pub(super) run_file_gone: bool,
}

impl OwnFiles {
    /// The files of this daemon. A directory that cannot be looked up is not watched.
    pub(super) fn new(
        directory: &AgentDirectory,
        state: &StateDirectory,
        rings: [(RingFile, &Region); 2],
        run_file: RunFile,
    ) -> Self {
        let rings = rings.into_iter().filter_map(|(ring, region)| {
            let (what, path) = (ring.name(), directory.path().join(ring.name()));
            Some(OwnFile { what, path, is_directory: false, identity: region.file_identity()?, loss: None })
        });
        let by_name = [
            ("the directory of the rings", directory.path().to_owned(), true),
            ("daemon.lock", directory.path().join("daemon.lock"), false),
            ("the state directory", state.path().to_owned(), true),
        ];
        let by_name = by_name.into_iter().filter_map(|(what, path, is_directory)| {
            let file = OwnFile { what, path, is_directory, identity: (0, 0), loss: None };
            Some(OwnFile { identity: file.identity_now()?, ..file })
        });
        let files = by_name.chain(rings).collect();
        let directory = directory.clone();
        Self { files, run_file, directory, due: Nanos(0), lost: 0, run_file_rewritten: 0 }
    }

    /// Compares the files, at most once a second.
    pub(super) fn check(&mut self, now: Nanos) -> Found {
        if now < self.due {
            return Found::default();
        }
        self.due = now.plus(EVERY);
        let mut found = Found::default();
        for file in &mut self.files {
            let loss = match file.identity_now() {
                Some(identity) if identity == file.identity => None,
                Some(_) => Some("replaced"),
                None => Some("removed"),
            };
            if loss == file.loss {
                continue;
            }
            let path = file.path.display();
            match loss {
                Some(loss) => {
                    tracing::error!(what = file.what, %path, loss, "a file of the running agent was lost");
                    found.newly_lost |= file.loss.is_none();
                    self.lost += u64::from(file.loss.is_none());
                }
                None => tracing::warn!(what = file.what, %path, "a lost file of the running agent is back"),
            }
            file.loss = loss;
        }
        // Without the directory there is no place for the run file.
        found.run_file_gone = self.directory.path().is_dir()
            && RunFile::read(&self.directory).is_none_or(|read| read != self.run_file);
        if found.run_file_gone {
            self.run_file_rewritten += 1;
            tracing::warn!("daemon.json was removed or replaced; it is written again");
        }
        found
    }

    /// What this daemon says about itself.
    pub(super) fn run_file(&self) -> &RunFile {
        &self.run_file
    }

    /// The losses that last, in words.
    pub(super) fn losses(&self) -> Vec<String> {
        let lost = |file: &OwnFile| Some(format!("{}: {}", file.path.display(), file.loss?));
        self.files.iter().filter_map(lost).collect()
    }

    /// How often a file was lost.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// How often the run file was written again.
    pub(super) fn run_file_rewritten(&self) -> u64 {
        self.run_file_rewritten
    }
}
