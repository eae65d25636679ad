//! Output into a pipe that nobody reads, any more or for the time being.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// What a pipe takes without waiting once it says that it takes something: `PIPE_BUF` on Linux.
pub const PIECE: usize = 4096;
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

/// Writes a piece of at most [`PIECE`] bytes, if it can be written without waiting. Gives how much was written.
pub fn write_at_once(file: BorrowedFd<'_>, piece: &[u8]) -> usize {
    debug_assert!(piece.len() <= PIECE);
    write_within(file, piece, 0)
}

/// Says something on standard error before the process ends. Where nobody reads that, the process ends all the same.
pub fn say(text: &str) {
    let stderr = io::stderr();
    for piece in text.as_bytes().chunks(PIECE) {
        if write_within(stderr.as_fd(), piece, PATIENCE_S) < piece.len() {
            return;
        }
    }
}

fn write_within(file: BorrowedFd<'_>, piece: &[u8], seconds: i64) -> usize {
    let mut asked = [PollFd::new(&file, PollFlags::OUT)];
    let patience = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let takes_something = rustix::io::retry_on_intr(|| poll(&mut asked, Some(&patience)));
    if takes_something.is_ok_and(|ready| ready > 0) {
        rustix::io::retry_on_intr(|| rustix::io::write(file, piece)).unwrap_or(0)
    } else {
        0
    }
}
