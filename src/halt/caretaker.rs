//! The end of a process that leaves a thread behind.
//!
//! An orderly end destroys libtorch's globals. A thread that is still inside a policy would fail by that, and
//! act once more. So such a process ends by one system call, without running destructors.
//!
//! That alone is not fast. The kernel tells the parent only when the last page is unmapped, which takes about
//! 0.1 ms for each megabyte, and most of a policy's process is its policy. The kernel need not unmap the
//! memory at once if another process has it as well. That process is the *caretaker*. It shares only its
//! memory with this one. It closes its copies of all files at once, so that no lock and no pipe lives longer
//! because of it; a caretaker that cannot do that is not used. It waits until this process is gone, and ends.
//! The kernel unmaps the memory then, and no process waits for it.

use crate::os::on_this_core;
use escapement_ring::clock::{Clock, MonotonicClock, Nanos};
use escapement_ring::sync::{AtomicU64, Ordering};
use memmap2::MmapMut;
use rustix::thread::CpuSet;
use std::sync::OnceLock;

/// Enough for a function that makes a few system calls.
const STACK_BYTES: usize = 16 << 10;
/// How long the caretaker may take to close its copies of this process's files. It runs on the caller's core,
/// at once.
const PATIENCE: Nanos = Nanos::from_millis(2);
/// How often the caretaker checks whether the process is gone, in nanoseconds.
const CHECK_EVERY_NS: libc::c_long = 10_000_000;

/// Ends the process without running destructors, so that other threads keep everything that they use until
/// the end. No log line is lost, since logs go to standard error unbuffered.
pub fn end_at_once(code: i32) -> ! {
    prepare_to_end();
    // SAFETY: _exit ends the process at once; none of its code runs afterwards.
    unsafe { libc::_exit(code) }
}

/// Makes the caretaker now, so that a later [`end_at_once`] takes less time. Has no other effect.
pub fn prepare_to_end() {
    with_caretaker(|caretaker| {
        if is_gone(caretaker, libc::WNOHANG) {
            on_this_core(make_caretaker);
        }
    });
}

/// Ends a caretaker that is not needed after all.
pub fn dismiss_caretaker() {
    with_caretaker(dismiss);
}

fn dismiss(caretaker: libc::pid_t) {
    if caretaker != 0 {
        // SAFETY: the caretaker is a child of this process and has not been waited for, so the number is
        // still its own.
        unsafe { libc::kill(caretaker, libc::SIGKILL) };
        is_gone(caretaker, 0);
    }
}

/// The top of the caretaker's stack. It is not on the heap, since the abandoned thread may be inside the
/// allocator.
static STACK: OnceLock<Option<usize>> = OnceLock::new();
/// One while a thread makes a caretaker or ends one. A second thread that ends the process meanwhile waits
/// for it, at most for [`PATIENCE`].
static BUSY: AtomicU64 = AtomicU64::new(0);
/// The caretaker's process number, or zero if there is none. Its stack counts as in use until it was waited
/// for.
static CARETAKER: AtomicU64 = AtomicU64::new(0);
/// Whether the caretaker has closed its copies of all files.
static HAS_LET_GO: AtomicU64 = AtomicU64::new(NOT_YET);
const NOT_YET: u64 = 0;
const DONE: u64 = 1;
/// The kernel is too old, or a sandbox forbids it.
const CANNOT: u64 = 2;

fn with_caretaker(act: impl FnOnce(libc::pid_t)) {
    // SYNC POINT `BUSY`, Acquire: partner is the Release below.
    if yield_until(|| BUSY.swap(1, Ordering::Acquire) == 0) {
        act(CARETAKER.load(Ordering::Relaxed) as libc::pid_t);
        // SYNC POINT `BUSY`, Release: partner is the Acquire above. The next holder sees what this one did.
        BUSY.store(0, Ordering::Release);
    }
}

/// Yields until `is_so` returns true. Returns false if that takes longer than [`PATIENCE`].
fn yield_until(mut is_so: impl FnMut() -> bool) -> bool {
    let started = MonotonicClock.now();
    while !is_so() {
        if MonotonicClock.now().since(started) > PATIENCE {
            return false;
        }
        rustix::thread::sched_yield();
    }
    true
}

/// Whether the caretaker has ended, or there is none. Its stack is free then.
fn is_gone(caretaker: libc::pid_t, how: libc::c_int) -> bool {
    // The caretaker sends no signal when it ends, so the wait needs __WALL.
    // SAFETY: the null pointer tells the kernel to store no status.
    let gone =
        caretaker == 0 || unsafe { libc::waitpid(caretaker, std::ptr::null_mut(), libc::__WALL | how) } != 0;
    if gone {
        CARETAKER.store(0, Ordering::Relaxed);
    }
    gone
}

/// The end of the stack's pages, which stay mapped for the life of the process.
fn top_of_stack() -> Option<*mut libc::c_void> {
    let map = || {
        let mut pages = MmapMut::map_anon(STACK_BYTES).ok()?;
        let top = pages.as_mut_ptr_range().end.expose_provenance();
        std::mem::forget(pages);
        Some(top)
    };
    STACK.get_or_init(map).map(std::ptr::with_exposed_provenance_mut)
}

/// Makes the caretaker. Without one, the process ends as usual, which takes longer.
fn make_caretaker(cores: Option<&CpuSet>) {
    let Some(top) = top_of_stack() else { return };
    HAS_LET_GO.store(NOT_YET, Ordering::Relaxed);
    let parent = std::ptr::without_provenance_mut::<libc::c_void>(std::process::id() as usize);
    // SAFETY: the masks are locals; sigfillset fills in the one, pthread_sigmask the other. The caretaker
    // inherits the full mask, so it runs no signal handler of this process. The stack is mapped for the life
    // of the process, page-aligned, and not in use (see `CARETAKER`). `caretaker` has the required signature
    // and never returns. Without CLONE_VFORK this thread goes on. Without CLONE_SIGHAND, CLONE_FILES and
    // CLONE_THREAD only memory is shared.
    let made = unsafe {
        let mut every: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut every);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const every, &raw mut before);
        let made = libc::clone(caretaker, top, libc::CLONE_VM, parent);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        made
    };
    let Ok(number @ 1..) = u64::try_from(made) else { return };
    CARETAKER.store(number, Ordering::Relaxed);
    // SYNC POINT `LET_GO`, Acquire: partner is the Release in `caretaker`. From then on, the end of this
    // process frees its locks.
    let mut has_let_go = NOT_YET;
    yield_until(|| {
        has_let_go = HAS_LET_GO.load(Ordering::Acquire);
        has_let_go != NOT_YET
    });
    if has_let_go != DONE {
        // It would outlive this process and hold a lock.
        return dismiss(made);
    }
    if let Some(cores) = cores {
        // It was started on this core only to run at once; it may run on the others from now on.
        let _ = rustix::thread::sched_setaffinity(rustix::process::Pid::from_raw(made), cores);
    }
}

/// The caretaker's code. `parent` is the number of the process that it waits for.
///
/// It runs in another process, in this one's memory, with the thread-local storage of the thread that made
/// it. So it makes only plain system calls. (The C library's `nanosleep`, for example, writes there that a
/// thread may be cancelled.)
extern "C" fn caretaker(parent: *mut libc::c_void) -> libc::c_int {
    // SAFETY: plain system calls, which take numbers, locals and a static. A failed call writes one word of
    // thread-local storage, errno. The thread that owns it does not read errno before this process has closed
    // its files or was ended.
    unsafe {
        if libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) != 0 {
            // SYNC POINT `LET_GO`, Release: partner is the Acquire in `make_caretaker`.
            HAS_LET_GO.store(CANNOT, Ordering::Release);
            libc::_exit(1);
        }
        // SYNC POINT `LET_GO`, Release: partner is the Acquire in `make_caretaker`.
        HAS_LET_GO.store(DONE, Ordering::Release);
        libc::syscall(libc::SYS_prctl, libc::PR_SET_NAME, c"caretaker".as_ptr());
        let pause = libc::timespec { tv_sec: 0, tv_nsec: CHECK_EVERY_NS };
        while libc::syscall(libc::SYS_getppid) as usize == parent.addr() {
            libc::syscall(libc::SYS_nanosleep, &raw const pause, std::ptr::null_mut::<libc::timespec>());
        }
        libc::_exit(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that was prepared to end, and did not, keeps its files and its cores; and it can be prepared
    /// again.
    #[test]
    fn a_process_that_does_not_end_keeps_what_it_has() {
        let file = tempfile::tempfile().expect("a temporary file");
        let mask = rustix::thread::sched_getaffinity(None).expect("a mask");
        let number = || CARETAKER.load(Ordering::Relaxed);
        // On a busy machine, a caretaker may not close its files in time.
        let prepared = || {
            let made = (0..1_000).map(|_| {
                prepare_to_end();
                number()
            });
            made.into_iter().find(|number| *number != 0).expect("a caretaker")
        };
        let first = prepared();
        prepare_to_end();
        assert_eq!(number(), first, "one is enough");
        assert!(file.metadata().is_ok());
        assert_eq!(rustix::thread::sched_getaffinity(None).expect("a mask"), mask);
        dismiss_caretaker();
        assert_eq!(number(), 0);
        let children = std::fs::read_to_string("/proc/thread-self/children").expect("this kernel says");
        assert!(!children.split(' ').any(|child| child == first.to_string()), "it was not waited for");
        assert_ne!(prepared(), first, "another one");
        dismiss_caretaker();
    }
}
