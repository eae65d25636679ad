//! The signals that a daemon acts on, and who sent them.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::raw::WithRawSiginfo;
use std::io;

/// What a signal asks of a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Answer what is in the ring, then stop (TERM, INT).
    Drain,
    /// Read the configuration anew (HUP).
    Reload,
    /// Write the status file (USR1).
    Dump,
    /// Halt (USR2). The state word says so by the time that this is told.
    Halt,
}

/// A request and the user it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requested {
    /// What is asked.
    pub request: Request,
    /// The sender's user; `None` for the kernel.
    pub uid: Option<u32>,
}

/// The process's signals, waited for by one thread.
pub struct Signals {
    inner: SignalsInfo<WithRawSiginfo>,
}

impl Signals {
    /// Installs the handlers. The caller installs the kill switch before, so that the state word says halted by the time
    /// that [`Request::Halt`] is delivered.
    ///
    /// # Errors
    /// Fails if one of them cannot be installed.
    pub fn install() -> io::Result<Self> {
        let inner = SignalsInfo::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2])?;
        Ok(Self { inner })
    }

    /// Tells `listener` of every signal, for as long as it wants to hear.
    pub fn listen(mut self, mut listener: impl FnMut(Requested) -> bool) {
        for info in self.inner.forever() {
            let request = match info.si_signo {
                SIGHUP => Request::Reload,
                SIGUSR1 => Request::Dump,
                SIGUSR2 => Request::Halt,
                _ => Request::Drain,
            };
            let sent = matches!(info.si_code, libc::SI_USER | libc::SI_QUEUE | libc::SI_TKILL);
            // SAFETY: for signals that a process sent, by kill, sigqueue or tgkill, the kernel fills in the sender's user.
            let uid = sent.then(|| unsafe { info.si_uid() });
            if !listener(Requested { request, uid }) {
                return;
            }
        }
    }
}
