//! Makes memory resident before it is needed: no page fault may fall into a tick.

use std::io;

/// Locks all present and future pages of the process in memory.
///
/// # Errors
/// Fails if the permission (`CAP_IPC_LOCK`, or a large enough `RLIMIT_MEMLOCK`) is missing.
pub fn lock_all_memory() -> io::Result<()> {
    // SAFETY: the call takes only flags. It changes when pages are resident, not what they hold.
    let result = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How much of its stack a thread touches in advance: more than the deepest call of a tick, libtorch's
/// included.
const STACK_BYTES: usize = 256 * 1024;

/// Touches the calling thread's stack, so that its pages are resident.
#[inline(never)]
pub fn prefault_stack() {
    let mut stack = [0u8; STACK_BYTES];
    for page in stack.iter_mut().step_by(4096) {
        // A write that the compiler cannot remove.
        *std::hint::black_box(page) = 1;
    }
    std::hint::black_box(&stack);
}
