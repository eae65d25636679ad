//! Writes to disk, off the supervisor's thread. A disk may take seconds for a sync, and the supervisor feeds
//! the service manager's watchdog.
//!
//! Audit lines, status files and the latch that is prepared for a hang are written in order by one thread.
//! The latch of a halt gets a thread of its own: it must not wait behind a line that is stuck.

use super::error::DaemonError;
use crossbeam::channel::{Receiver, Sender, bounded};
use std::time::Duration;

/// Writes that may wait. Refused reloads are folded, so that only a disk that stands still fills this.
const MAX_WAITING: usize = 256;

type Work = Box<dyn FnOnce() + Send>;

/// The thread that writes.
pub(super) struct Disk {
    work: Sender<Work>,
}

impl Disk {
    /// Starts the thread.
    pub(super) fn start() -> Result<Self, DaemonError> {
        let (work, inbox) = bounded::<Work>(MAX_WAITING);
        std::thread::Builder::new()
            .name("disk".to_owned())
            .spawn(move || inbox.into_iter().for_each(|work| work()))
            .map_err(DaemonError::system("start the thread that writes to disk"))?;
        Ok(Self { work })
    }

    /// Queues a write. `what` names it in the log if it is dropped: the disk stands still, and too many wait.
    pub(super) fn write(&self, what: &str, work: impl FnOnce() + Send + 'static) {
        if self.work.try_send(Box::new(work)).is_err() {
            tracing::error!(what, "not written: {MAX_WAITING} writes wait for the disk already");
        }
    }

    /// Waits until everything that was queued is written, for at most `limit`. Returns whether it is.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let (done, all_written) = bounded(1);
        let report: Work = Box::new(move || {
            let _ = done.send(());
        });
        self.work.send_timeout(report, limit).is_ok() && all_written.recv_timeout(limit).is_ok()
    }
}

/// A write whose end somebody waits for.
pub(super) struct Writing {
    done: Receiver<()>,
}

impl Writing {
    /// Starts the write on a thread of its own. Writes on the calling thread if there can be no other.
    pub(super) fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Self {
        let (report, done) = bounded(1);
        let (handed, taken) = bounded::<Work>(1);
        let body: Work = Box::new(move || {
            work();
            let _ = report.send(());
        });
        drop(handed.send(body));
        let inbox = taken.clone();
        let run = move || inbox.try_iter().for_each(|work| work());
        if std::thread::Builder::new().name(name.to_owned()).spawn(run).is_err() {
            taken.try_iter().for_each(|work| work());
        }
        Self { done }
    }

    /// Waits for the end, for at most `limit`. Returns whether it has come.
    pub(super) fn is_done_within(&self, limit: Duration) -> bool {
        self.done.recv_timeout(limit).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latch_does_not_wait_behind_a_stuck_line() {
        let disk = Disk::start().expect("a thread");
        let (release, stuck) = bounded::<()>(0);
        disk.write("a line", move || {
            let _ = stuck.recv();
        });
        assert!(Writing::start("latch", || ()).is_done_within(Duration::from_secs(60)));
        assert!(!disk.flush(Duration::from_millis(1)));
        drop(release);
        assert!(disk.flush(Duration::from_secs(60)));
    }
}
