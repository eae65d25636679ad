//! The kill switch: a signal that halts the agent inside its own handler. No thread has to be woken for it.

use super::crash::watched_header;
use super::state_word::halt_for_good;
use escapement_ring::sync::{AtomicU64, Ordering};
use escapement_ring::wire::Reason;
use std::io;

/// The user that pulled the kill switch, plus one; zero before it is pulled.
static PULLED_BY: AtomicU64 = AtomicU64::new(0);

/// Makes `signal` halt the agent in its handler.
///
/// # Errors
/// Fails if the handler cannot be installed.
pub fn install_kill_switch(signal: libc::c_int) -> io::Result<()> {
    let halt = |info: &libc::siginfo_t| {
        // SAFETY: for a signal that a process sent, the kernel fills in the sender's user. For a signal of
        // its own it fills in zero bytes, which any integer type allows.
        let uid = unsafe { info.si_uid() };
        // Stored before the halt: the Release of the state word makes it visible to every reader of the halt.
        PULLED_BY.store(u64::from(uid) + 1, Ordering::Relaxed);
        if let Some(header) = watched_header() {
            halt_for_good(header, Reason::Operator);
        }
    };
    // SAFETY: the action is async-signal-safe: it reads a cell that is set once and changes two atomic words.
    unsafe { signal_hook_registry::register_sigaction(signal, halt) }.map(drop)
}

/// The user that pulled the kill switch of this process by a signal.
pub(super) fn kill_switch_pulled_by() -> Option<u32> {
    PULLED_BY.load(Ordering::Relaxed).checked_sub(1).and_then(|uid| u32::try_from(uid).ok())
}
