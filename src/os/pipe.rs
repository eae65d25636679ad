//! Output into a pipe that nobody reads, any more or for the time being.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// What a pipe takes without waiting once it says that it takes something: `PIPE_BUF` on Linux.
const PIECE: usize = 4096;
/// How long a last word may wait for its reader, in seconds.
const PATIENCE_S: i64 = 1;

/// Lets a write to a closed pipe end the process quietly, as it ends other command-line programs: `check | head -1` is
/// no defect. Rust ignores the signal by default, and printing would panic. Not for the daemon, which must never be
/// ended by whoever reads its log.
pub fn end_quietly_on_closed_pipe() {
    // SAFETY: the default action is installed for one signal, before any thread is started; there is no handler whose
    // code could run.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// A way to write to what is behind `file` that never waits, where there is one: a pipe or a terminal opened anew, so that
/// nobody else's way to it changes. A terminal says that it takes something as soon as there is room for a byte.
pub fn unwaiting(file: BorrowedFd<'_>) -> Option<OwnedFd> {
    let kind = FileType::from_raw_mode(fstat(file).ok()?.st_mode);
    if !matches!(kind, FileType::Fifo | FileType::CharacterDevice) {
        return None;
    }
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    open(path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// Writes as much as there is room for, to a pipe, a socket or what [`unwaiting`] gave. Gives how much that was.
pub fn write_at_once(file: BorrowedFd<'_>, bytes: &[u8]) -> usize {
    write_within(file, bytes, 0)
}

/// Says something on standard error before the process ends. Where nobody reads that, the process ends all the same.
pub fn say(text: &str) {
    let stderr = io::stderr();
    let own = unwaiting(stderr.as_fd());
    write_within(own.as_ref().map_or(stderr.as_fd(), AsFd::as_fd), text.as_bytes(), PATIENCE_S);
}

/// Writes as long as there is room within so many seconds.
fn write_within(file: BorrowedFd<'_>, bytes: &[u8], seconds: i64) -> usize {
    let patience = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let mut rest = bytes;
    while !rest.is_empty() {
        let mut asked = [PollFd::new(&file, PollFlags::OUT)];
        if !rustix::io::retry_on_intr(|| poll(&mut asked, Some(&patience))).is_ok_and(|ready| ready > 0) {
            break;
        }
        let piece = &rest[..rest.len().min(PIECE)];
        match rustix::io::retry_on_intr(|| rustix::io::write(file, piece)) {
            Ok(written @ 1..) => rest = &rest[written..],
            _ => break,
        }
    }
    bytes.len() - rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A terminal with little room takes a part and says so; one that is opened as usual would wait for the rest.
    #[test]
    fn a_terminal_that_nobody_reads_takes_what_it_can() {
        let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
        let Ok(screen) = rustix::pty::openpt(flags) else {
            println!("skipped: no terminals here");
            return;
        };
        rustix::pty::grantpt(&screen).and_then(|()| rustix::pty::unlockpt(&screen)).expect("a terminal");
        let name = rustix::pty::ptsname(&screen, Vec::new()).expect("it has a name");
        let terminal = open(name, OFlags::WRONLY | OFlags::NOCTTY, Mode::empty()).expect("it is there");
        let own = unwaiting(terminal.as_fd()).expect("a terminal can be opened anew");
        let line = [b'x'; 300];
        let written: usize = (0..10_000).map(|_| write_at_once(own.as_fd(), &line)).sum();
        assert!(written > 0 && written < 10_000 * line.len(), "{written}");
    }
}
