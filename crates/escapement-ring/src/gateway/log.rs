//! The log of actions: one line of CSV for each, written before the action leaves the ring.
//!
//! A line reaches the kernel before its action is released, so a killed gateway loses nothing. At worst its
//! successor finds the same action in the ring and logs it again. Both lines name the same position in the
//! action ring. [`check_log`] uses that to tell a repeated line from an action that the agent committed
//! twice.

use super::{Ledger, Received};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

const COLUMNS: &str = "generation,ring_position,position,sequence,epoch,outcome,reason,flags,ts_event_ns,\
                       ts_publish_ns,ts_commit_ns,queue_ns,inference_ns,condition,sent";
/// The number of columns that come from the frame. The others are the gateway's own and may differ when a
/// frame is read again.
const FRAME_COLUMNS: usize = 13;
/// Stands for outcome and reason if the frame is torn.
const TORN: &str = "torn";

/// Appends actions to a file.
#[derive(Debug)]
pub struct ActionLog {
    file: File,
    line: String,
}

impl ActionLog {
    /// Opens the file for appending, and creates it if it is missing. Removes an incomplete last line, whose
    /// writer died: its action was not released, so it comes again.
    ///
    /// # Errors
    /// Fails if the file cannot be opened or written.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::options().read(true).append(true).create(true).open(path)?;
        let whole = whole_lines(&mut file)?;
        file.set_len(whole)?;
        if whole == 0 {
            writeln!(file, "{COLUMNS}")?;
        }
        Ok(Self { file, line: String::new() })
    }

    /// Appends one line and passes it to the kernel.
    ///
    /// # Errors
    /// Fails if the line cannot be written. The action must not be released then.
    pub fn append(&mut self, received: &Received<'_>) -> io::Result<()> {
        let header = &received.header;
        let (outcome, reason) =
            received.verdict.map_or((TORN, TORN), |(outcome, reason)| (outcome.name(), reason.name()));
        self.line.clear();
        // Writing to a string cannot fail.
        let _ = writeln!(
            self.line,
            "{},{},{},{},{},{outcome},{reason},{},{},{},{},{},{},{},{}",
            received.generation,
            received.ring_position,
            header.position,
            header.sequence,
            header.epoch,
            header.flags,
            header.ts_event_ns,
            header.ts_publish_ns,
            header.ts_commit_ns,
            header.queue_ns,
            header.inference_ns,
            received.present.condition.name(),
            u8::from(received.may_be_sent()),
        );
        self.file.write_all(self.line.as_bytes())
    }
}

/// The length of the file up to and including its last line break, in bytes.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    const BLOCK: u64 = 4096;
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut block = Vec::new();
    while end > 0 {
        let begin = end.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(begin))?;
        block.clear();
        file.take(end - begin).read_to_end(&mut block)?;
        if let Some(at) = block.iter().rposition(|byte| *byte == b'\n') {
            return Ok(begin + at as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
}

/// The result of checking a log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogSummary {
    /// The ledger of each generation of the ring, in order. The log does not contain the observation ring's
    /// positions; the caller adds them.
    pub ledgers: Vec<(u64, Ledger)>,
    /// Actions that were logged again, because the gateway died before it released them.
    pub read_again: u64,
    /// Positions of the action ring that are missing between the first and the last line.
    pub lost: u64,
    /// Lines that name the ring position of an earlier line, but another action.
    pub contradictions: u64,
}

/// Why a log cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A line is not one of an action log.
    #[error("line {line}: {what}")]
    Malformed {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
}

/// Reads a log and accounts for every line.
///
/// # Errors
/// Fails if the file cannot be read or is not an action log.
pub fn check_log(path: &Path) -> Result<LogSummary, LogError> {
    let mut summary = LogSummary::default();
    // The line before: generation, position in the action ring, and what it says of the frame.
    let mut before: Option<(u64, u64, String)> = None;
    for (index, line) in BufReader::new(File::open(path)?).lines().enumerate() {
        let line = line?;
        let malformed = |what: &str| LogError::Malformed { line: index + 1, what: what.to_owned() };
        if index == 0 {
            if line != COLUMNS {
                return Err(malformed("not the head of an action log"));
            }
            continue;
        }
        let fields: Vec<&str> = line.split(',').collect();
        if fields.len() != COLUMNS.split(',').count() {
            return Err(malformed("another number of columns than the head"));
        }
        let number = |column: usize| {
            fields[column]
                .parse::<u64>()
                .map_err(|_| malformed(&format!("{:?} is not a number", fields[column])))
        };
        let (generation, ring_position, position) = (number(0)?, number(1)?, number(2)?);
        let frame = fields[..FRAME_COLUMNS].join(",");
        if let Some((last_generation, last_position, last_frame)) = &before
            && *last_generation == generation
            && ring_position <= *last_position
        {
            if *last_frame == frame {
                summary.read_again += 1;
            } else {
                summary.contradictions += 1;
            }
            continue;
        }
        match &before {
            Some((last, last_position, _)) if *last == generation => {
                summary.lost += ring_position - last_position - 1;
            }
            _ => {
                let ledger = match ring_position {
                    0 => Ledger::from_the_start(),
                    _ => Ledger::from_the_first_action(),
                };
                summary.ledgers.push((generation, ledger));
            }
        }
        if let Some((_, ledger)) = summary.ledgers.last_mut() {
            match fields[5] {
                TORN => ledger.note_torn(),
                _ => ledger.note(position),
            }
        }
        before = Some((generation, ring_position, frame));
    }
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use super::super::{Condition, Present};
    use super::*;
    use crate::clock::Nanos;
    use crate::wire::{ActionHeader, Outcome, Reason};

    const PRESENT: Present = Present {
        condition: Condition::Armed,
        generation: 9,
        epoch: 0,
        now: Nanos(0),
        max_action_age: Nanos(0),
    };

    fn received(ring_position: u64, position: u64) -> Received<'static> {
        Received {
            generation: 9,
            ring_position,
            header: ActionHeader { position, sequence: position + 1, ..ActionHeader::default() },
            payload: &[],
            verdict: Some((Outcome::Policy, Reason::None)),
            present: PRESENT,
        }
    }

    fn logged(entries: &[Received<'_>]) -> LogSummary {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("actions.csv");
        for chunk in entries.chunks(2) {
            let mut log = ActionLog::open(&path).unwrap();
            for entry in chunk {
                log.append(entry).unwrap();
            }
        }
        check_log(&path).unwrap()
    }

    #[test]
    fn an_honest_log_with_a_frame_read_again_is_whole() {
        let silent = Present { condition: Condition::Silent { age: Nanos(1) }, ..PRESENT };
        let again = Received { present: silent, ..received(1, 3) };
        let summary = logged(&[received(0, 2), received(1, 3), again, received(2, 5)]);
        assert_eq!((summary.read_again, summary.lost, summary.contradictions), (1, 0, 0));
        let [(9, ledger)] = summary.ledgers[..] else { panic!("{summary:?}") };
        let account = ledger.account(6, 6);
        assert_eq!((account.actions, account.skipped), (3, 3));
        assert!(account.holds());
    }

    #[test]
    fn losses_duplicates_and_contradictions_are_found() {
        assert_eq!(logged(&[received(0, 0), received(2, 2)]).lost, 1);
        let twice = logged(&[received(0, 0), received(1, 0), received(2, 1)]);
        assert_eq!(twice.ledgers[0].1.account(2, 2).duplicates, 1);
        assert_eq!(logged(&[received(0, 0), received(1, 1), received(1, 2)]).contradictions, 1);
        let torn = Received { verdict: None, ..received(1, 1) };
        assert_eq!(logged(&[received(0, 0), torn]).ledgers[0].1.account(2, 2).torn, 1);
    }

    #[test]
    fn a_line_cut_off_by_a_kill_is_taken_away() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("actions.csv");
        let mut log = ActionLog::open(&path).unwrap();
        log.append(&received(0, 0)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        log.append(&received(1, 1)).unwrap();
        let both = std::fs::read(&path).unwrap();
        // Whatever the length of the piece that was written, also none and the head's own.
        for length in (0..both.len()).rev() {
            std::fs::write(&path, &both[..length]).unwrap();
            let mut log = ActionLog::open(&path).unwrap();
            log.append(&received(if length >= whole.len() { 1 } else { 0 }, 0)).unwrap();
            let summary = check_log(&path).unwrap();
            assert_eq!((summary.lost, summary.contradictions), (0, 0), "cut at {length}");
        }
    }

    #[test]
    fn another_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("other.csv");
        std::fs::write(&path, "a,b\n1,2\n").unwrap();
        assert!(matches!(check_log(&path), Err(LogError::Malformed { line: 1, .. })));
        std::fs::write(&path, format!("{COLUMNS}\n1,2\n")).unwrap();
        assert!(matches!(check_log(&path), Err(LogError::Malformed { line: 2, .. })));
    }
}
