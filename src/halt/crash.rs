//! The last actions of a dying process. The state word says `halted` before anything else happens, so that
//! the gateway stops sending; the exit code says what the process died of.
//!
//! Three deaths are handled: a panic in any thread, a SIGBUS from a mapped file that was truncated, and a
//! policy that does not return. A process that is killed (SIGKILL) can do nothing; the gateway notices that
//! its heartbeat stops.

use super::caretaker::end_at_once;
use super::state_word::halt_for_now;
use crate::os::say;
use escapement_policy::READER_THREAD;
use escapement_policy::escape::escaped;
use escapement_ring::ring::Header;
use escapement_ring::wire::Reason;
use std::io;
use std::sync::OnceLock;

/// The action ring's header, where signal handlers and the panic hook can find it.
static ACTION_HEADER: OnceLock<Header> = OnceLock::new();
static CODES: OnceLock<CrashCodes> = OnceLock::new();

/// The exit code of each death. They are set once at the start, since no table can be consulted while dying.
#[derive(Debug, Clone, Copy)]
pub struct CrashCodes {
    /// After a panic.
    pub panic_code: i32,
    /// After SIGBUS.
    pub bus_error_code: i32,
    /// After a policy that did not return.
    pub hung_code: i32,
}

impl CrashCodes {
    /// Installs the panic hook and the SIGBUS handler for the whole process.
    ///
    /// # Errors
    /// Fails if the signal handler cannot be installed.
    pub fn install(self) -> io::Result<()> {
        let codes = *CODES.get_or_init(|| self);
        std::panic::set_hook(Box::new(move |info| {
            // A defect of the reader of policy files refuses the file and must not end a running agent.
            if std::thread::current().name() == Some(READER_THREAD) {
                return say(&format!("{}\n", escaped(&format!("the reader of policy files failed: {info}"))));
            }
            if let Some(header) = watched_header() {
                halt_for_now(header, Reason::Panic);
            }
            // The same text as the standard hook. That one would block on a standard error that is not read.
            let thread = std::thread::current();
            let backtrace = std::backtrace::Backtrace::capture();
            say(&format!("thread '{}' {info}\n{backtrace}\n", thread.name().unwrap_or("unnamed")));
            // SAFETY: _exit ends the process at once; none of its code runs afterwards. Unwinding further
            // would run destructors on a state that is known to be broken.
            unsafe { libc::_exit(codes.panic_code) }
        }));
        install_bus_handler()
    }
}

/// Ends a process whose policy does not return.
pub fn end_hung() -> ! {
    end_at_once(CODES.get().map_or(libc::EXIT_FAILURE, |codes| codes.hung_code))
}

/// Tells the kill switch and both crash handlers which state word to set. Only the first call in a process
/// has an effect, since a process has one agent.
pub fn watch_state_word(header: Header) {
    // A repeated call would name the same region.
    let _ = ACTION_HEADER.set(header);
}

/// The header that [`watch_state_word`] was given.
pub(super) fn watched_header() -> Option<&'static Header> {
    ACTION_HEADER.get()
}

fn install_bus_handler() -> io::Result<()> {
    // SAFETY: an all-zero sigaction is a valid value of the C struct.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_bus_error;
    action.sa_sigaction = handler as usize;
    // SA_RESETHAND: if the handler's own store faults (the header page itself is gone), the default action
    // ends the process.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESETHAND | libc::SA_NODEFER;
    // SAFETY: the struct is filled in, and the handler does only what is allowed in one: loads, stores and
    // async-signal-safe calls.
    let result = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn on_bus_error(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to a handler installed with SA_SIGINFO, and SIGBUS fills in
    // the address.
    let fault = unsafe { (*info).si_addr() }.addr();
    if let Some(header) = watched_header()
        && !header.covers(fault)
    {
        halt_for_now(header, Reason::BusError);
    }
    let message = b"escapement: SIGBUS: a mapped file was truncated; halted\n";
    // SAFETY: poll, write and _exit are async-signal-safe. The poll entry is a local, and the message is a
    // live buffer of the given length. A failed write has nowhere to be reported.
    unsafe {
        let mut stderr = libc::pollfd { fd: libc::STDERR_FILENO, events: libc::POLLOUT, revents: 0 };
        // Writes only if the write would not block: a reader that has stopped reading must not delay the end.
        if libc::poll(&raw mut stderr, 1, 0) > 0 {
            libc::write(libc::STDERR_FILENO, message.as_ptr().cast(), message.len());
        }
        libc::_exit(CODES.get().map_or(libc::EXIT_FAILURE, |codes| codes.bus_error_code))
    }
}
