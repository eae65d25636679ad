//! The signals that a daemon acts on, and the users who sent them.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::raw::WithRawSiginfo;
use std::io;

/// What a signal asks of a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Answer the observations in the ring, then stop (TERM, INT).
    Drain,
    /// Read the configuration anew (HUP).
    Reload,
    /// Write the status file (USR1).
    Dump,
    /// Halt (USR2). The state word already says halted when this is delivered.
    Halt,
}

/// A request and the user who sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requested {
    /// The request.
    pub request: Request,
    /// The sender; `None` for the kernel.
    pub uid: Option<u32>,
}

/// The process's signals. One thread waits for them.
pub struct Signals {
    inner: SignalsInfo<WithRawSiginfo>,
}

impl Signals {
    /// Installs the handlers. The caller must have installed the kill switch, so that the state word says
    /// halted before [`Request::Halt`] is delivered.
    ///
    /// # Errors
    /// Fails if one of them cannot be installed.
    pub fn install() -> io::Result<Self> {
        let inner = SignalsInfo::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2])?;
        Ok(Self { inner })
    }

    /// Passes every signal to `listener` until that returns false.
    pub fn listen(mut self, mut listener: impl FnMut(Requested) -> bool) {
        for info in self.inner.forever() {
            let request = match info.si_signo {
                SIGHUP => Request::Reload,
                SIGUSR1 => Request::Dump,
                SIGUSR2 => Request::Halt,
                _ => Request::Drain,
            };
            let sent = matches!(info.si_code, libc::SI_USER | libc::SI_QUEUE | libc::SI_TKILL);
            // SAFETY: for a signal that a process sent, by kill, sigqueue or tgkill, the kernel fills in the
            // sender.
            let uid = sent.then(|| unsafe { info.si_uid() });
            if !listener(Requested { request, uid }) {
                return;
            }
        }
    }
}
