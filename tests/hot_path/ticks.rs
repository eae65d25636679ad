//! After warm-up a tick does not allocate, call the system, take a page fault or wait: 100,000 ticks,
//! 10,000,000 with `ESCAPEMENT_LONG`.
//!
//! Each proof has a canary: the same ticks with a policy that does the forbidden thing. Every offence must be
//! counted.

use escapement::policy::native::{Native, Options};
use escapement::policy::{Dimensions, Fault, Null, Policy};
use escapement_test_support::heap_engine::{CAPACITY, Checked, DIMENSIONS, HeapEngine};
use escapement_test_support::{in_repository, quiet};
use std::cell::Cell;
use std::hint::black_box;

/// Returns the number of refills of the rings for at least this many ticks.
fn batches() -> u64 {
    quiet::this_many(100_000, 10_000_000).div_ceil(CAPACITY)
}

/// A policy that does something forbidden once per refill of the rings.
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

/// The example policy on the native engine.
fn native() -> Box<dyn Policy> {
    let path = in_repository("config/example.bundle/policy.pt");
    let options = Options { observation: Some(DIMENSIONS.observation), ..Options::default() };
    Box::new(Native::load(&path, &options).expect("it is good"))
}

fn null_rig() -> HeapEngine {
    HeapEngine::new(null())
}

fn native_rig() -> HeapEngine {
    HeapEngine::new(native())
}

/// The example policy, with a dry run after every third tick.
fn warm_rig() -> HeapEngine {
    native_rig().running_dry_every(3)
}

/// Runs `batches` refills of ticks. `before` and `after` enclose the ticks alone.
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

/// Returns the allocator calls of the ticks, on this thread.
fn allocator_calls(mut rig: HeapEngine) -> u64 {
    let (begun, total) = (Cell::new(0), Cell::new(0));
    let before = || begun.set(quiet::allocator_calls());
    let after = || total.set(total.get() + quiet::allocator_calls() - begun.get());
    run_ticks(&mut rig, batches(), before, after);
    total.get()
}

#[test]
fn a_tick_allocates_nothing() {
    assert_eq!(allocator_calls(HeapEngine::new(null())), 0);
    assert_eq!(allocator_calls(HeapEngine::new(native())), 0);
}

/// Dry runs between the ticks, some of which take the paths of a refused observation and of a halt.
#[test]
fn dry_runs_allocate_nothing() {
    assert_eq!(allocator_calls(warm_rig()), 0);
}

#[test]
fn the_allocation_counter_sees_an_allocation() {
    // One allocation and one release for each offence.
    assert_eq!(allocator_calls(HeapEngine::new(offender(|| drop(black_box(Box::new(1u64)))))), 2 * batches());
}

/// Returns the page faults and voluntary context switches of the ticks, after one refill as warm-up.
fn kernel_events(mut rig: HeapEngine) -> (i64, i64) {
    run_ticks(&mut rig, 1, || (), || ());
    let (begun, total) = (Cell::new((0, 0)), Cell::new((0, 0)));
    let before = || begun.set(quiet::faults_and_waits());
    let after = || {
        let ((faults_then, waits_then), (faults, waits)) = (begun.get(), quiet::faults_and_waits());
        let (faults_before, waits_before) = total.get();
        total.set((faults_before + faults - faults_then, waits_before + waits - waits_then));
    };
    run_ticks(&mut rig, batches(), before, after);
    total.get()
}

#[test]
fn a_tick_takes_no_page_fault_and_never_waits() {
    // The kernel may take a page away for its own purposes (compaction, balancing between nodes). So one
    // clean run of three shows that the ticks themselves cause no page fault.
    for rig in [null_rig, native_rig, warm_rig] {
        let mut runs = Vec::new();
        while runs.len() < 3 && !runs.contains(&(0, 0)) {
            runs.push(kernel_events(rig()));
        }
        assert!(runs.contains(&(0, 0)), "(page faults, voluntary switches) of three runs: {runs:?}");
    }
}

#[test]
fn the_kernels_counters_see_a_fault_and_a_wait() {
    let (faults, _) = kernel_events(HeapEngine::new(offender(quiet::touch_new_page)));
    assert!(faults >= batches() as i64, "{faults} faults seen of {}", batches());
    let (_, waits) =
        kernel_events(HeapEngine::new(offender(|| std::thread::sleep(std::time::Duration::from_micros(1)))));
    // A sleep that ends before it begins causes no wait.
    assert!(waits >= batches() as i64 * 9 / 10, "{waits} waits seen of {}", batches());
}

/// Returns the system calls of the ticks, after one refill as warm-up.
fn system_calls(rig: fn() -> HeapEngine) -> u64 {
    let prepare = move || {
        let mut rig = rig();
        run_ticks(&mut rig, 1, || (), || ());
        (rig, batches())
    };
    quiet::system_calls(prepare, |(rig, batches)| run_ticks(rig, *batches, || (), || ()))
}

#[test]
fn a_tick_calls_no_system_call() {
    for rig in [null_rig, native_rig, warm_rig] {
        assert_eq!(system_calls(rig), 0);
    }
}

#[test]
fn the_trap_sees_a_system_call() {
    assert_eq!(system_calls(|| HeapEngine::new(offender(quiet::call_the_system))), batches());
}
