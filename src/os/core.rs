//! Where and how a thread is scheduled.

use rustix::thread::CpuSet;
use std::io;

/// Why a thread does not run where, or how, it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// There is no such core, or this process may not use it.
    #[error("core {core} is not among those this process may use ({allowed})")]
    NotAllowed {
        /// The requested core.
        core: usize,
        /// The cores that may be used.
        allowed: String,
    },
    /// The request succeeded, but the thread still runs elsewhere.
    #[error("pinning to core {core} had no effect")]
    NotPinned {
        /// The requested core.
        core: usize,
    },
    /// The real-time scheduler was refused.
    #[error("SCHED_FIFO priority {priority}: {source}")]
    Scheduler {
        /// The requested priority.
        priority: u8,
        /// The system's error.
        source: io::Error,
    },
    /// The kernel would take the core away for part of every second.
    #[error(
        "real-time throttling is on (kernel.sched_rt_runtime_us = {runtime_us}): \
         a busy loop under SCHED_FIFO loses the rest of every second; set it to -1"
    )]
    Throttled {
        /// Microseconds of each second that real-time threads may run.
        runtime_us: i64,
    },
}

/// Pins the calling thread to one core and checks that it runs there.
///
/// `core_affinity` lists only the cores that the process may use, and returns only whether the call
/// succeeded. So the list and the thread's actual core are both checked here.
///
/// # Errors
/// Fails if the core may not be used, or the thread is not on it afterwards.
pub fn pin_to(core: usize) -> Result<(), CoreError> {
    let allowed = core_affinity::get_core_ids().unwrap_or_default();
    let Some(id) = allowed.iter().find(|id| id.id == core) else {
        let allowed = allowed.iter().map(|id| id.id.to_string()).collect::<Vec<_>>().join(", ");
        return Err(CoreError::NotAllowed { core, allowed });
    };
    let requested = core_affinity::set_for_current(*id);
    let mask = rustix::thread::sched_getaffinity(None);
    let pinned = mask.is_ok_and(|mask| mask.count() == 1 && mask.is_set(core));
    // The scheduler may move a thread whose mask changed only at its next decision; yielding is one.
    std::thread::yield_now();
    if requested && pinned && rustix::thread::sched_getcpu() == core {
        Ok(())
    } else {
        Err(CoreError::NotPinned { core })
    }
}

/// Keeps the calling thread, and the threads that it starts, off one core, if it may use another. Work beside
/// a busy loop must not share the loop's core.
pub fn keep_off(core: usize) {
    let Ok(mut mask) = rustix::thread::sched_getaffinity(None) else { return };
    if mask.count() > 1 && mask.is_set(core) {
        mask.unset(core);
        // If this is refused, the scheduler may still place the thread elsewhere.
        let _ = rustix::thread::sched_setaffinity(None, &mask);
    }
}

/// Runs `start` with the calling thread pinned to its current core. `start` is given the thread's usual
/// cores, if known.
///
/// A task that `start` starts begins on this core. Otherwise it could be placed behind a thread that spins.
pub fn on_this_core(start: impl FnOnce(Option<&CpuSet>)) {
    let Ok(before) = rustix::thread::sched_getaffinity(None) else { return start(None) };
    let mut here = CpuSet::new();
    here.set(rustix::thread::sched_getcpu());
    // If this is refused, the new task may have to wait for a core.
    let _ = rustix::thread::sched_setaffinity(None, &here);
    start(Some(&before));
    let _ = rustix::thread::sched_setaffinity(None, &before);
}

/// Puts the calling thread under `SCHED_FIFO`.
///
/// # Errors
/// Fails if the permission is missing, or the kernel throttles real-time threads. Nothing is changed then. A
/// throttled thread would do worse than one under the ordinary scheduler.
pub fn use_fifo_scheduler(priority: u8) -> Result<(), CoreError> {
    let runtime_us = std::fs::read_to_string("/proc/sys/kernel/sched_rt_runtime_us")
        .ok()
        .and_then(|text| text.trim().parse::<i64>().ok())
        .unwrap_or(-1);
    if runtime_us >= 0 {
        return Err(CoreError::Throttled { runtime_us });
    }
    let parameter = libc::sched_param { sched_priority: priority.into() };
    // SAFETY: the parameter is a live struct of the type that the call reads. Zero names the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameter) };
    if result == 0 {
        Ok(())
    } else {
        Err(CoreError::Scheduler { priority, source: io::Error::last_os_error() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_to_an_allowed_core_and_refuses_another() {
        let core = core_affinity::get_core_ids().unwrap()[0].id;
        std::thread::spawn(move || {
            pin_to(core).unwrap();
            assert_eq!(rustix::thread::sched_getcpu(), core);
            match pin_to(100_000) {
                Err(CoreError::NotAllowed { core: 100_000, allowed }) => {
                    assert!(allowed.contains(&core.to_string()));
                }
                other => panic!("expected NotAllowed, got {other:?}"),
            }
        })
        .join()
        .unwrap();
    }
}
