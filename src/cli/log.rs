//! The daemon's log. It goes to standard error, which the service manager keeps, and it never waits.
//!
//! The reader of a pipe may stop reading. A supervisor that waits for it in a log line would neither reload
//! nor feed the watchdog. So each line is written only if it fits now. Lines that do not fit are counted, and
//! the count is logged as soon as there is room.

use super::exit::{ExitCode, Failure};
use crate::os::{open_nonblocking, write_without_blocking};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use tracing_subscriber::fmt::MakeWriter;

/// Starts logging to standard error.
///
/// # Errors
/// Fails if the filter is not valid, or if standard error cannot be opened.
pub(super) fn start(filter: &str) -> Result<(), Failure> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .map_err(|error| Failure::new(ExitCode::Config, format!("agent.log = {filter:?}: {error}")))?;
    let stderr = stderr()
        .map_err(|error| Failure::new(ExitCode::Temporary, format!("open standard error: {error}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Log::new(stderr))
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .with_target(false)
        .init();
    Ok(())
}

fn stderr() -> io::Result<OwnedFd> {
    let stderr = io::stderr();
    // A socket takes what it reports, and a file takes everything.
    open_nonblocking(stderr.as_fd()).map_or_else(|| stderr.as_fd().try_clone_to_owned(), Ok)
}

/// A log into a file that may not have room for a line.
struct Log<F> {
    file: F,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Lines dropped since the last one that was written.
    lost: u64,
    /// Whether the last line was written only in part.
    torn: bool,
}

/// The writer of one line.
struct LineWriter<'a, F>(&'a Log<F>);

impl<F: AsFd> Log<F> {
    fn new(file: F) -> Self {
        Self { file, state: Mutex::default() }
    }

    fn line(&self, line: &[u8]) {
        // One line at a time, so that no other thread takes the room. The lock is never held while waiting.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.lost > 0 {
            let end = if state.torn { "\n" } else { "" };
            let lost = format!("{end}{}\n", dropped(state.lost));
            let written = write_without_blocking(self.file.as_fd(), lost.as_bytes());
            if written < lost.len() {
                state.lost += 1;
                state.torn |= written > 0;
                return;
            }
            *state = State::default();
        }
        let written = write_without_blocking(self.file.as_fd(), line);
        if written < line.len() {
            *state = State { lost: 1, torn: written > 0 };
        }
    }
}

fn dropped(lines: u64) -> String {
    format!("dropped {lines} log {}: reader too slow", if lines == 1 { "line" } else { "lines" })
}

impl<'a, F: AsFd + 'a> MakeWriter<'a> for Log<F> {
    type Writer = LineWriter<'a, F>;

    fn make_writer(&'a self) -> Self::Writer {
        LineWriter(self)
    }
}

/// `tracing` writes each line with one call.
impl<F: AsFd> Write for LineWriter<'_, F> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// A writer that waits would wait for ever here: only this test reads the pipe.
    #[test]
    fn a_pipe_without_a_reader_costs_lines_and_no_time() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let log = Log::new(writer);
        let line = |number: u32| format!("{number:05} {}\n", "x".repeat(1_000)).into_bytes();
        for number in 0..1_000 {
            log.make_writer().write_all(&line(number)).expect("it never fails");
        }
        let mut read = vec![0; 1 << 20];
        let length = reader.read(&mut read).expect("it has something");
        let text = String::from_utf8(read[..length].to_vec()).expect("text");
        let whole = text.lines().count();
        assert!(whole < 1_000 && text.ends_with('\n'), "{whole} lines");
        assert!(text.lines().enumerate().all(|(at, line)| line.starts_with(&format!("{at:05} "))));

        log.make_writer().write_all(b"after\n").expect("it never fails");
        let length = reader.read(&mut read).expect("it has something");
        let lost = 1_000 - whole;
        let expected = format!("dropped {lost} log lines: reader too slow\nafter\n");
        assert_eq!(String::from_utf8_lossy(&read[..length]), expected);
    }

    #[test]
    fn a_line_that_is_longer_than_there_is_room_is_torn_once() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let log = Log::new(writer);
        log.line(&vec![b'y'; 1 << 20]);
        let mut read = vec![0; 1 << 20];
        let length = reader.read(&mut read).expect("it has something");
        assert!(length >= 4096 && read[..length].iter().all(|byte| *byte == b'y'));
        log.line(b"after\n");
        let length = reader.read(&mut read).expect("it has something");
        let expected = "\ndropped 1 log line: reader too slow\nafter\n";
        assert_eq!(String::from_utf8_lossy(&read[..length]), expected);
    }
}
