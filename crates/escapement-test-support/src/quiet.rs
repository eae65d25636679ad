//! Counters for what a hot path must not do: calls of the allocator, page faults, waits and system calls.
//!
//! All of them count for one thread only. The kernel counts page faults and waits; a filter traps system
//! calls. A test binary that asks for [`allocator_calls`] must make [`Counting`] its global allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// The system's allocator, with a count of the current thread's calls.
pub struct Counting;

thread_local! {
    // Const-initialised and without a destructor, so that reading it neither allocates nor registers
    // anything.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

/// Returns how often this thread has called the allocator.
pub fn allocator_calls() -> u64 {
    ALLOCATIONS.get()
}

/// Returns this thread's page faults (minor and major) and voluntary context switches, as counted by the
/// kernel.
pub fn faults_and_waits() -> (i64, i64) {
    // SAFETY: an all-zero rusage is a valid value of that plain C struct.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is that of a live rusage.
    let result = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut usage) };
    assert_eq!(result, 0, "getrusage: {}", std::io::Error::last_os_error());
    (usage.ru_minflt + usage.ru_majflt, usage.ru_nvcsw)
}

/// System calls trapped in this process, on threads under [`trap_system_calls`].
static TRAPPED: AtomicU64 = AtomicU64::new(0);

extern "C" fn count_trap(_signal: libc::c_int) {
    TRAPPED.fetch_add(1, Ordering::Relaxed);
}

/// From here on, system calls of the calling thread are counted and not made. Exceptions are the thread's
/// exit and the return from a signal handler. This cannot be undone: the thread must end with
/// [`exit_thread`].
fn trap_system_calls() {
    const SYSTEM_CALL_NUMBER: u32 = std::mem::offset_of!(libc::seccomp_data, nr) as u32;
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let jump_if_equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let give = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = [
        step(load, 0, 0, SYSTEM_CALL_NUMBER),
        step(jump_if_equal, 2, 0, libc::SYS_exit as u32),
        step(jump_if_equal, 1, 0, libc::SYS_rt_sigreturn as u32),
        step(give, 0, 0, libc::SECCOMP_RET_TRAP),
        step(give, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the handler only adds to an atomic; the filter outlives the call that copies it; both prctl
    // calls concern the calling thread alone.
    unsafe {
        let handler = count_trap as extern "C" fn(libc::c_int);
        assert_ne!(libc::signal(libc::SIGSYS, handler as libc::sighandler_t), libc::SIG_ERR);
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let result = libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program);
        assert_eq!(result, 0, "seccomp: {}", std::io::Error::last_os_error());
    }
}

/// Ends the calling thread by the one system call that it may still make.
fn exit_thread() -> ! {
    // SAFETY: no other thread waits for anything of this one: its handle was dropped, and its result was
    // stored.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!("the kernel does not return from exit")
}

const RUNNING: u64 = u64::MAX;
static RESULT: AtomicU64 = AtomicU64::new(RUNNING);
static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// Calls `prepare`, then `work` with its result, on a new thread. Returns how many system calls `work` tried
/// to make.
pub fn system_calls<T: 'static>(prepare: impl FnOnce() -> T + Send + 'static, work: fn(&mut T)) -> u64 {
    let _alone = ONE_AT_A_TIME.lock().expect("no other run failed");
    RESULT.store(RUNNING, Ordering::Relaxed);
    std::thread::spawn(move || {
        let mut subject = prepare();
        let before = TRAPPED.load(Ordering::Relaxed);
        trap_system_calls();
        work(&mut subject);
        RESULT.store(TRAPPED.load(Ordering::Relaxed) - before, Ordering::Relaxed);
        exit_thread();
    });
    let begun = std::time::Instant::now();
    loop {
        match RESULT.load(Ordering::Relaxed) {
            RUNNING => {
                assert!(begun.elapsed().as_secs() < 1_800, "the thread under the filter did not finish")
            }
            trapped => return trapped,
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Causes a page fault: maps a new page, writes to it, and unmaps it.
pub fn touch_new_page() {
    const PAGE: usize = 4096;
    // SAFETY: a new anonymous mapping touches no memory that exists.
    let page = unsafe {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        libc::mmap(std::ptr::null_mut(), PAGE, access, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    };
    assert_ne!(page, libc::MAP_FAILED);
    // SAFETY: the page was mapped above, writable, and is unmapped only afterwards.
    unsafe {
        page.cast::<u8>().write_volatile(1);
        libc::munmap(page, PAGE);
    }
}

/// Makes a system call.
pub fn call_the_system() {
    // SAFETY: getppid takes nothing and changes nothing.
    _ = std::hint::black_box(unsafe { libc::getppid() });
}

/// Returns `long` if `ESCAPEMENT_LONG` asks for the long runs, else `short`.
pub fn this_many(short: u64, long: u64) -> u64 {
    if crate::long_runs() { long } else { short }
}
