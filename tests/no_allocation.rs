//! After warm-up a tick allocates nothing, calls no system call, takes no page fault and is never put to sleep by
//! anything of ours.
//!
//! Each proof stands beside its canary: the same ticks with a policy that does the forbidden thing, which must be seen
//! exactly as often as it happened.

#[path = "heap_engine/mod.rs"]
mod heap_engine;

use escapement::policy::{Dimensions, Fault, Null, Policy};
use heap_engine::{CAPACITY, Checked, DIMENSIONS, HeapEngine};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

/// Refills of the rings that make up at least 100,000 ticks.
const BATCHES: u64 = 100_000u64.div_ceil(CAPACITY);

/// The system's allocator, counting what the current thread asks of it.
struct Counting;

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

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A policy that does something forbidden once in every refill of the rings.
struct Offender {
    calls: u64,
    offence: fn(),
}

impl Policy for Offender {
    fn dimensions(&self) -> Dimensions {
        DIMENSIONS
    }

    fn backend(&self) -> &'static str {
        "offender"
    }

    fn infer(&mut self, _observation: &[f32], action: &mut [f32]) -> Result<(), Fault> {
        action.fill(0.0);
        self.calls += 1;
        if self.calls.is_multiple_of(CAPACITY) {
            (self.offence)();
        }
        Ok(())
    }
}

fn offender(offence: fn()) -> Box<dyn Policy> {
    Box::new(Offender { calls: 0, offence })
}

fn null() -> Box<dyn Policy> {
    Box::new(Null::new(DIMENSIONS))
}

/// Runs `batches` refills of ticks, with `before` and `after` around the ticks alone.
fn run_ticks(rig: &mut HeapEngine, batches: u64, mut before: impl FnMut(), mut after: impl FnMut()) {
    for batch in 0..batches {
        rig.fill(if batch.is_multiple_of(2) { Checked::Yes } else { Checked::No });
        before();
        let answered = rig.answer_all();
        after();
        assert_eq!(answered, CAPACITY);
        rig.drain(|_| ());
    }
}

/// Allocator calls made by the ticks, on this thread.
fn allocator_calls(policy: Box<dyn Policy>) -> u64 {
    let mut rig = HeapEngine::new(policy);
    let (begun, total) = (Cell::new(0), Cell::new(0));
    let before = || begun.set(ALLOCATIONS.get());
    let after = || total.set(total.get() + ALLOCATIONS.get() - begun.get());
    run_ticks(&mut rig, BATCHES, before, after);
    total.get()
}

#[test]
fn a_tick_allocates_nothing() {
    assert_eq!(allocator_calls(null()), 0);
}

#[test]
fn the_allocation_counter_sees_an_allocation() {
    // One allocation and one release each.
    assert_eq!(allocator_calls(offender(|| drop(black_box(Box::new(1u64))))), 2 * BATCHES);
}

/// What the kernel has counted for this thread: page faults, minor and major, and times it gave its core away.
fn faults_and_waits() -> (i64, i64) {
    // SAFETY: an all-zero rusage is a valid value of that plain C struct.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is that of a live rusage.
    let result = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut usage) };
    assert_eq!(result, 0, "getrusage: {}", std::io::Error::last_os_error());
    (usage.ru_minflt + usage.ru_majflt, usage.ru_nvcsw)
}

/// Page faults and voluntary context switches of the ticks, after one refill as warm-up.
fn kernel_events(policy: Box<dyn Policy>) -> (i64, i64) {
    let mut rig = HeapEngine::new(policy);
    run_ticks(&mut rig, 1, || (), || ());
    let (begun, total) = (Cell::new((0, 0)), Cell::new((0, 0)));
    let before = || begun.set(faults_and_waits());
    let after = || {
        let ((faults_then, waits_then), (faults, waits)) = (begun.get(), faults_and_waits());
        let (faults_before, waits_before) = total.get();
        total.set((faults_before + faults - faults_then, waits_before + waits - waits_then));
    };
    run_ticks(&mut rig, BATCHES, before, after);
    total.get()
}

#[test]
fn a_tick_takes_no_page_fault_and_never_waits() {
    // The kernel may take a page away for its own purposes (compaction, balancing between nodes), so one clean run of
    // three is what shows that the ticks themselves need none.
    let runs: Vec<_> = (0..3).map(|_| kernel_events(null())).collect();
    assert!(runs.contains(&(0, 0)), "(page faults, voluntary switches) of three runs: {runs:?}");
}

#[test]
fn the_kernels_counters_see_a_fault_and_a_wait() {
    const PAGE: usize = 4096;
    let touch_new_page = || {
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
    };
    let (faults, _) = kernel_events(offender(touch_new_page));
    assert!(faults >= BATCHES as i64, "{faults} faults seen of {BATCHES}");
    let (_, waits) = kernel_events(offender(|| std::thread::sleep(std::time::Duration::from_micros(1))));
    assert!(waits >= BATCHES as i64, "{waits} waits seen of {BATCHES}");
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

/// System calls made by one refill of ticks, on a thread of their own that cannot make any.
fn system_calls(policy: fn() -> Box<dyn Policy>) -> u64 {
    const RUNNING: u64 = u64::MAX;
    static RESULT: AtomicU64 = AtomicU64::new(RUNNING);
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().expect("no other run failed");
    RESULT.store(RUNNING, Ordering::Relaxed);
    std::thread::spawn(move || {
        let mut rig = HeapEngine::new(policy());
        run_ticks(&mut rig, 1, || (), || ());
        let before = TRAPPED.load(Ordering::Relaxed);
        trap_system_calls();
        run_ticks(&mut rig, BATCHES, || (), || ());
        RESULT.store(TRAPPED.load(Ordering::Relaxed) - before, Ordering::Relaxed);
        exit_thread();
    });
    let begun = std::time::Instant::now();
    loop {
        match RESULT.load(Ordering::Relaxed) {
            RUNNING => assert!(begun.elapsed().as_secs() < 60, "the thread under the filter did not finish"),
            trapped => return trapped,
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[test]
fn a_tick_calls_no_system_call() {
    assert_eq!(system_calls(null), 0);
}

#[test]
fn the_trap_sees_a_system_call() {
    // SAFETY: getppid takes nothing and changes nothing.
    let calls = system_calls(|| offender(|| _ = black_box(unsafe { libc::getppid() })));
    assert_eq!(calls, BATCHES);
}
