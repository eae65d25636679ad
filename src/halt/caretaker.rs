//! The end of a process that leaves a thread behind.
//!
//! What an orderly end destroys (libtorch's globals) would make a thread that is still inside a policy fail, and it would
//! act once more. So such a process ends by one system call. That alone is not fast: the kernel tells the parent only once
//! the last page is unmapped, which takes about 0.1 ms for each megabyte, and most of a policy's process is its policy. It
//! does not have to wait for that where somebody else has the memory as well: a *caretaker*, a process that shares nothing
//! with this one but its memory, that closes its copies of all files at once (no lock and no pipe lives longer by it; one that
//! cannot do so is not used), waits until this one is gone, and ends. The kernel takes the memory down then, and nobody waits.

use crate::os::on_this_core;
use escapement_ring::clock::{Clock, MonotonicClock, Nanos};
use escapement_ring::sync::{AtomicU64, Ordering};
use memmap2::MmapMut;
use rustix::thread::CpuSet;
use std::sync::OnceLock;

/// Enough for a function that makes a few system calls.
const STACK_BYTES: usize = 16 << 10;
/// How long the caretaker may take to close its copies of this process's files. It runs on the caller's core, at once.
const PATIENCE: Nanos = Nanos::from_millis(2);
/// How often the caretaker looks whether the process is gone, in nanoseconds.
const LOOK_AGAIN_NS: libc::c_long = 10_000_000;

/// Ends the process without taking anything down first: no destructor runs, and what other threads are in stays untouched.
/// Logs go to standard error unbuffered, so that nothing of them is lost.
pub fn end_at_once(code: i32) -> ! {
    prepare_to_end();
    // SAFETY: _exit ends the process at once; nothing of it runs afterwards.
    unsafe { libc::_exit(code) }
}

/// Makes the caretaker now, so that an [`end_at_once`] that may come takes less time. Nothing else changes.
pub fn prepare_to_end() {
    with_caretaker(|caretaker| {
        if is_gone(caretaker, libc::WNOHANG) {
            on_this_core(make_caretaker);
        }
    });
}

/// Does away with a caretaker that is not needed after all.
pub fn dismiss_caretaker() {
    with_caretaker(dismiss);
}

fn dismiss(caretaker: libc::pid_t) {
    if caretaker != 0 {
        // SAFETY: a child of this process that nobody has waited for: the number is still its own.
        unsafe { libc::kill(caretaker, libc::SIGKILL) };
        is_gone(caretaker, 0);
    }
}

/// Where the caretaker's stack is. Not from the heap: the thread that is left behind may be inside the allocator.
static STACK: OnceLock<Option<usize>> = OnceLock::new();
/// Whether a thread is making a caretaker or doing away with one. Another one that ends the process meanwhile waits for it a
/// little.
static BUSY: AtomicU64 = AtomicU64::new(0);
/// The caretaker's process number, zero where there is none. Until it was waited for, its stack counts as in use.
static CARETAKER: AtomicU64 = AtomicU64::new(0);
/// Whether it has closed its copies of all files.
static HAS_LET_GO: AtomicU64 = AtomicU64::new(NOT_YET);
const NOT_YET: u64 = 0;
const DONE: u64 = 1;
/// An old kernel, or a sandbox that forbids it.
const CANNOT: u64 = 2;

fn with_caretaker(act: impl FnOnce(libc::pid_t)) {
    // SYNC POINT `BUSY`, Acquire: partner is the Release below.
    if yield_until(|| BUSY.swap(1, Ordering::Acquire) == 0) {
        act(CARETAKER.load(Ordering::Relaxed) as libc::pid_t);
        // SYNC POINT `BUSY`, Release: partner is the Acquire above. Whoever comes next sees what this one did.
        BUSY.store(0, Ordering::Release);
    }
}

/// Whether it came to be so in time.
fn yield_until(mut is_so: impl FnMut() -> bool) -> bool {
    let begun = MonotonicClock.now();
    while !is_so() {
        if MonotonicClock.now().since(begun) > PATIENCE {
            return false;
        }
        rustix::thread::sched_yield();
    }
    true
}

/// Whether the caretaker has ended, or there is none; then its stack is free.
fn is_gone(caretaker: libc::pid_t, how: libc::c_int) -> bool {
    // Its end is told by no signal, hence __WALL.
    // SAFETY: where its status would go is nowhere.
    let gone =
        caretaker == 0 || unsafe { libc::waitpid(caretaker, std::ptr::null_mut(), libc::__WALL | how) } != 0;
    if gone {
        CARETAKER.store(0, Ordering::Relaxed);
    }
    gone
}

/// The end of the stack's pages, which stay mapped.
fn top_of_stack() -> Option<*mut libc::c_void> {
    let map = || {
        let mut pages = MmapMut::map_anon(STACK_BYTES).ok()?;
        let top = pages.as_mut_ptr_range().end.expose_provenance();
        std::mem::forget(pages);
        Some(top)
    };
    STACK.get_or_init(map).map(std::ptr::with_exposed_provenance_mut)
}

/// Where it cannot be had, the process ends as one without.
fn make_caretaker(cores: Option<&CpuSet>) {
    let Some(top) = top_of_stack() else { return };
    HAS_LET_GO.store(NOT_YET, Ordering::Relaxed);
    let parent = std::ptr::without_provenance_mut::<libc::c_void>(std::process::id() as usize);
    // SAFETY: the masks are locals; sigfillset fills the one in, pthread_sigmask the other. The caretaker inherits that every
    // signal is blocked: it must run no handler of this process.
    // The stack is mapped for the life of the process, page-aligned, and in nobody's use (see `CARETAKER`); `caretaker` has the
    // signature that is asked for and never returns. Without CLONE_VFORK this thread goes on; without CLONE_SIGHAND, CLONE_FILES and CLONE_THREAD nothing but
    // memory is shared.
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
    // SYNC POINT `LET_GO`, Acquire: partner is the Release in `caretaker`. A lock that the end of this process releases is free
    // from then on.
    let mut has_let_go = NOT_YET;
    yield_until(|| {
        has_let_go = HAS_LET_GO.load(Ordering::Acquire);
        has_let_go != NOT_YET
    });
    if has_let_go != DONE {
        // It would outlive this process with a lock in its hands.
        return dismiss(made);
    }
    if let Some(cores) = cores {
        // It began on this core, and does not belong there.
        let _ = rustix::thread::sched_setaffinity(rustix::process::Pid::from_raw(made), cores);
    }
}

/// Runs in the other process, in this one's memory: the thread-local storage is that of the thread that made it, so that it
/// makes system calls and nothing else. (The C library's own `nanosleep`, for one, notes there that a thread may be
/// cancelled.) It is told the number of the process that it waits for.
extern "C" fn caretaker(parent: *mut libc::c_void) -> libc::c_int {
    // SAFETY: plain system calls, which take numbers, locals and a static. The one word of thread-local storage that a failure
    // may write is errno, and the thread whose it is looks at none before this process has let go or is done away with.
    unsafe {
        if libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) != 0 {
            // SYNC POINT `LET_GO`, Release: partner is the Acquire in `make_caretaker`.
            HAS_LET_GO.store(CANNOT, Ordering::Release);
            libc::_exit(1);
        }
        // SYNC POINT `LET_GO`, Release: partner is the Acquire in `make_caretaker`.
        HAS_LET_GO.store(DONE, Ordering::Release);
        libc::syscall(libc::SYS_prctl, libc::PR_SET_NAME, c"caretaker".as_ptr());
        let pause = libc::timespec { tv_sec: 0, tv_nsec: LOOK_AGAIN_NS };
        while libc::syscall(libc::SYS_getppid) as usize == parent.addr() {
            libc::syscall(libc::SYS_nanosleep, &raw const pause, std::ptr::null_mut::<libc::timespec>());
        }
        libc::_exit(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that was made ready to end, and did not, is what it was; and it can be made ready again.
    #[test]
    fn a_process_that_does_not_end_keeps_what_it_has() {
        let file = tempfile::tempfile().expect("a temporary file");
        let mask = rustix::thread::sched_getaffinity(None).expect("a mask");
        let number = || CARETAKER.load(Ordering::Relaxed);
        // On a busy machine one may not let go in time.
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
        assert!(!children.split(' ').any(|child| child == first.to_string()), "not even a defunct one");
        assert_ne!(prepared(), first, "another one");
        dismiss_caretaker();
    }
}
