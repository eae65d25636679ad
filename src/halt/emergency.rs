//! The last things a dying process does: the state word says `halted` before anything else, so that the gateway stops
//! sending, and the exit code says what it died of.
//!
//! Three deaths are handled: a panic in any thread, SIGBUS from a mapped file that was truncated under us, and a policy that
//! does not return. A killed process (SIGKILL) can do nothing; the gateway notices its heartbeat. The kill switch (SIGUSR2)
//! is pulled here too.

use super::caretaker::end_at_once;
use super::latch::halt_for_good;
use crate::os::say;
use escapement_ring::ring::{HALTED, Header};
use escapement_ring::sync::{AtomicU64, Ordering};
use escapement_ring::wire::{AgentState, Reason};
use std::io;
use std::sync::OnceLock;

// The ring knows this one state by its number; the other numbers are opaque to it.
const _: () = assert!(AgentState::Halted.number() == HALTED);

/// The action ring's header, where both handlers can find it.
static ACTION_HEADER: OnceLock<Header> = OnceLock::new();

/// Exit codes that must be known where no `Drop` and no table can be asked.
#[derive(Debug, Clone, Copy)]
pub struct Emergency {
    /// After a panic.
    pub panic_code: i32,
    /// After SIGBUS.
    pub bus_error_code: i32,
    /// After a policy that did not return.
    pub hung_code: i32,
}

static CODES: OnceLock<Emergency> = OnceLock::new();

impl Emergency {
    /// Installs both handlers for the process.
    ///
    /// # Errors
    /// When the signal handler cannot be installed.
    pub fn install(self) -> io::Result<()> {
        let codes = *CODES.get_or_init(|| self);
        std::panic::set_hook(Box::new(move |info| {
            if let Some(header) = ACTION_HEADER.get() {
                header.halt(Reason::Panic.number().into());
            }
            // What the standard hook says; but that one waits for whoever reads it.
            let thread = std::thread::current();
            let backtrace = std::backtrace::Backtrace::capture();
            say(&format!("thread '{}' {info}\n{backtrace}\n", thread.name().unwrap_or("unnamed")));
            // SAFETY: _exit ends the process at once; nothing of it runs afterwards. Unwinding further would run
            // destructors of a state that is known to be broken.
            unsafe { libc::_exit(codes.panic_code) }
        }));
        install_bus_handler()
    }

    /// Ends the process in which a policy does not return.
    pub fn end_hung() -> ! {
        end_at_once(CODES.get().map_or(libc::EXIT_FAILURE, |codes| codes.hung_code))
    }

    /// Tells the handlers which header to write to. Only the first call of a process counts: it has one agent.
    pub fn watch(header: Header) {
        // A second agent in one process does not exist; a repeated call names the same region.
        let _ = ACTION_HEADER.set(header);
    }
}

/// Who pulled the kill switch, plus one; zero as long as nobody has.
static PULLED_BY: AtomicU64 = AtomicU64::new(0);

/// Makes a signal halt the agent in its very handler: no thread has to be woken for it, and none can be in its way.
pub fn install_kill_switch(signal: libc::c_int) -> io::Result<()> {
    let halt = |info: &libc::siginfo_t| {
        // SAFETY: for a signal that a process sent the kernel fills in the sender's user; for one of its own, zero bytes,
        // which any number is.
        let uid = unsafe { info.si_uid() };
        // Before the halt, whose Release makes it visible to whoever sees the state word.
        PULLED_BY.store(u64::from(uid) + 1, Ordering::Relaxed);
        if let Some(header) = ACTION_HEADER.get() {
            halt_for_good(header, Reason::Operator);
        }
    };
    // SAFETY: the action is async-signal-safe: it looks at a cell that is set once and changes two atomic words.
    unsafe { signal_hook_registry::register_sigaction(signal, halt) }.map(drop)
}

/// The user that pulled the kill switch of this process by a signal.
pub fn kill_switch_pulled_by() -> Option<u32> {
    PULLED_BY.load(Ordering::Relaxed).checked_sub(1).and_then(|uid| u32::try_from(uid).ok())
}

fn install_bus_handler() -> io::Result<()> {
    // SAFETY: an all-zero sigaction is a valid value of the C struct.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_bus_error;
    action.sa_sigaction = handler as usize;
    // Reset: should the handler's own store fault (the header page itself is gone), the default action ends it.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESETHAND | libc::SA_NODEFER;
    // SAFETY: the struct is filled in, and the handler does only what is allowed in one: loads, stores and two
    // async-signal-safe calls.
    let result = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn on_bus_error(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to a handler installed with SA_SIGINFO, and SIGBUS fills in the address.
    let fault = unsafe { (*info).si_addr() }.addr();
    if let Some(header) = ACTION_HEADER.get()
        && !header.covers(fault)
    {
        header.halt(Reason::BusError.number().into());
    }
    let message = b"escapement: SIGBUS: a mapped file was truncated; halted\n";
    // SAFETY: poll, write and _exit are async-signal-safe; the descriptor's entry is a local, the message a live buffer of that
    // length. There is nobody left
    // to tell if the write fails.
    unsafe {
        let mut stderr = libc::pollfd { fd: libc::STDERR_FILENO, events: libc::POLLOUT, revents: 0 };
        // Not for whoever has stopped reading it.
        if libc::poll(&raw mut stderr, 1, 0) > 0 {
            libc::write(libc::STDERR_FILENO, message.as_ptr().cast(), message.len());
        }
        libc::_exit(CODES.get().map_or(libc::EXIT_FAILURE, |codes| codes.bus_error_code))
    }
}
