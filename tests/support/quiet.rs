//! What a hot path may not do, counted for the calling thread: calls of the allocator, page faults and waits as the kernel
//! counts them, and system calls, which a filter traps.
//!
//! A test binary that uses it puts [`Counting`] in the place of the global allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// The system's allocator, counting what the current thread asks of it.
pub struct Counting;

thread_local! {
    // Const-initialised and without a destructor, so that reading it neither allocates nor registers anything.
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

/// Calls of the allocator that this thread has made.
pub fn allocator_calls() -> u64 {
    ALLOCATIONS.get()
}

/// What the kernel has counted for this thread: page faults, minor and major, and times it gave its core away.
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

/// From here on every system call of the calling thread, but for its exit and the return from the signal handler, is
/// not made but counted. There is no way back: the thread must end by [`exit_thread`].
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
    // SAFETY: the handler only adds to an atomic; the filter outlives the call that copies it; both prctl calls
    // concern the calling thread alone.
    unsafe {
        let handler = count_trap as extern "C" fn(libc::c_int);
        assert_ne!(libc::signal(libc::SIGSYS, handler as libc::sighandler_t), libc::SIG_ERR);
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let result = libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program);
        assert_eq!(result, 0, "seccomp: {}", std::io::Error::last_os_error());
    }
}

/// Ends the calling thread by the one system call it still may make.
fn exit_thread() -> ! {
    // SAFETY: the thread owns nothing that another one waits for: its handle was dropped, and its last word was stored.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!("the kernel does not return from exit")
}

const RUNNING: u64 = u64::MAX;
static RESULT: AtomicU64 = AtomicU64::new(RUNNING);
static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// System calls that `work` makes on what `prepare` gives, on a thread of their own that cannot make any.
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

/// Something to be seen as a page fault: memory that is new, touched once and given back.
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

/// Something to be seen as a system call.
pub fn call_the_system() {
    // SAFETY: getppid takes nothing and changes nothing.
    _ = std::hint::black_box(unsafe { libc::getppid() });
}

/// `short`, or `long` where `ESCAPEMENT_LONG` asks for the long runs.
pub fn this_many(short: u64, long: u64) -> u64 {
    if std::env::var_os("ESCAPEMENT_LONG").is_some() { long } else { short }
}
