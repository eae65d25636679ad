//! Output into a pipe that nobody reads any more.

/// Lets a write to a closed pipe end the process quietly, as it ends other command-line programs: `check | head -1` is
/// no defect. Rust ignores the signal by default, and printing would panic. Not for the daemon, which must never be
/// ended by whoever reads its log.
pub fn end_quietly_on_closed_pipe() {
    // SAFETY: the default action is installed for one signal, before any thread is started; there is no handler whose
    // code could run.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}
