//! A call to a native policy allocates nothing, whatever its steps are.

#[path = "support/torchscript.rs"]
mod torchscript;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use escapement::policy::Policy;
use escapement::policy::native::{Native, Options};
use torchscript::{members, weights, zip};

/// Counts what this thread allocates and frees.
struct Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // The cell needs no destructor, so it is there as long as the thread is.
    let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
}

// SAFETY: every call is passed on to the system allocator unchanged, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count();
        // SAFETY: the caller keeps `dealloc`'s contract, and the block came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_call_allocates_nothing() {
    let body = "y = torch.tanh(torch.linear(x, CONSTANTS.c0, CONSTANTS.c1))\n\
                o, n, d = torch.lstm(torch.unsqueeze(y, 0), [h, c], [CONSTANTS.c2, CONSTANTS.c3], False, 1, 0., False, False, False)\n\
                z = torch.softmax(torch.transpose(torch.view(o, [1, 2, 4]), 1, 2), -1)\n\
                w = torch.where(torch.gt(z, 0.1), z, torch.cumsum(z, 1))\n\
                s = torch.cat([torch.flatten(w, 1), torch.to(torch.argmax(y, 1, True), 6), torch.norm(y, 2, [1], True)], 1)\n\
                e = torch.embedding(CONSTANTS.c0, torch.argmax(y, 1))\n\
                return (torch.cat([torch.to(torch.mul(torch.to(s, 7), 2.), 6), e], 1), n, d)";
    let constants = [weights(&[8, 4], 1), weights(&[8], 2), weights(&[32, 8], 3), weights(&[32, 8], 4)];
    let bytes = zip(&members("self, x: Tensor, h: Tensor, c: Tensor", body, &constants));
    let options = Options { observation: Some(4), ..Options::default() };
    let mut native =
        Native::from_bytes(&bytes, Path::new("case.pt"), &options).unwrap_or_else(|error| panic!("{error}"));
    let mut action = vec![0.0; native.dimensions().action];
    let mut observation = [0.1, -0.2, 0.3, 0.4];
    // The counter itself must be shown to count.
    let before = CALLS.get();
    drop(vec![0u8; 100]);
    assert!(CALLS.get() > before);
    let before = CALLS.get();
    for at in 0..100_000 {
        observation[at % 4] += 0.001;
        native.infer(&observation, &mut action).expect("no fault");
    }
    native.reset();
    assert_eq!(CALLS.get() - before, 0);
    assert!(action.iter().all(|value| value.is_finite()));
}
