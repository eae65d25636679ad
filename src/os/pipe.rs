//! Output into a pipe whose reader has closed it, or does not read at the moment.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Bytes that a pipe takes without blocking once it is writable: `PIPE_BUF` on Linux.
const PIECE: usize = 4096;
/// How long the last message of a process may wait for its reader, in seconds.
const PATIENCE_S: i64 = 1;

/// Lets a write to a closed pipe end the process quietly, as it ends other command-line programs:
/// `check | head -1` is not a defect. Rust ignores the signal by default, and printing would panic. The
/// daemon must not call this: the reader of its log must not be able to end it.
pub fn end_quietly_on_closed_pipe() {
    // SAFETY: the default action is installed for one signal, before any thread is started. No handler's code
    // can run.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Opens the pipe or terminal behind `file` again, so that writes to it never block. Returns `None` for other
/// kinds of file, or if that fails.
///
/// The existing descriptor stays blocking, so other users of the file notice nothing. A terminal counts as
/// writable as soon as there is room for one byte.
pub fn open_nonblocking(file: BorrowedFd<'_>) -> Option<OwnedFd> {
    let kind = FileType::from_raw_mode(fstat(file).ok()?.st_mode);
    if !matches!(kind, FileType::Fifo | FileType::CharacterDevice) {
        return None;
    }
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    open(path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// Writes as much as there is room for, and returns how many bytes that was. `file` must be a pipe, a socket,
/// or the result of [`open_nonblocking`].
pub fn write_without_blocking(file: BorrowedFd<'_>, bytes: &[u8]) -> usize {
    write_within(file, bytes, 0)
}

/// Writes a message to standard error before the process ends. If it is not read, the process ends all the
/// same.
pub fn say(text: &str) {
    let stderr = io::stderr();
    let own = open_nonblocking(stderr.as_fd());
    write_within(own.as_ref().map_or(stderr.as_fd(), AsFd::as_fd), text.as_bytes(), PATIENCE_S);
}

/// Writes as long as there is room within `seconds`. Returns how many bytes were written.
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

    /// A terminal with little room takes a part. A descriptor that was opened as usual would block for the
    /// rest.
    #[test]
    fn a_terminal_that_is_not_read_takes_what_it_can() {
        let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
        let Ok(screen) = rustix::pty::openpt(flags) else {
            println!("skipped: no terminals here");
            return;
        };
        rustix::pty::grantpt(&screen).and_then(|()| rustix::pty::unlockpt(&screen)).expect("a terminal");
        let name = rustix::pty::ptsname(&screen, Vec::new()).expect("it has a name");
        let terminal = open(name, OFlags::WRONLY | OFlags::NOCTTY, Mode::empty()).expect("it is there");
        let own = open_nonblocking(terminal.as_fd()).expect("a terminal can be opened anew");
        let line = [b'x'; 300];
        let written: usize = (0..10_000).map(|_| write_without_blocking(own.as_fd(), &line)).sum();
        assert!(written > 0 && written < 10_000 * line.len(), "{written}");
    }
}
