//! A call of a native policy does not allocate, call the system or take a page fault, for every kind of step:
//! 100,000 calls of each policy, 10,000,000 with `ESCAPEMENT_LONG`.
//!
//! Each proof has a canary: the same calls, one in a thousand of which does the forbidden thing.

use escapement::denormals::FlushDenormals;
use escapement::policy::Policy;
use escapement::policy::native::kernels::Precision;
use escapement::policy::native::{Native, Options};
use escapement_test_support::torchscript::{members, weights, zip};
use escapement_test_support::{in_repository, quiet};
use std::hint::black_box;
use std::path::Path;

fn calls() -> u64 {
    quiet::this_many(100_000, 10_000_000)
}

/// Calls from one offence of a canary to the next.
const BETWEEN: u64 = 1_000;

/// A loaded policy and its input and output.
struct Subject {
    native: Native,
    observation: Vec<f32>,
    action: Vec<f32>,
    offence: fn(),
}

impl Subject {
    fn new(native: Native) -> Self {
        let dimensions = native.dimensions();
        let observation = (0..dimensions.observation).map(|index| 0.1 * (index % 7) as f32 - 0.3).collect();
        Self { observation, action: vec![0.0; dimensions.action], native, offence: || () }
    }

    /// Makes one call, which does the work of the first call.
    fn warmed_up(mut self) -> Self {
        self.call(1);
        self
    }

    fn call(&mut self, calls: u64) {
        let _flush = FlushDenormals::enter();
        let width = self.observation.len();
        for call in 0..calls {
            let element = &mut self.observation[call as usize % width];
            // Up and then down, so that the observation stays in its range.
            *element += if (call / width as u64).is_multiple_of(2) { 0.001 } else { -0.001 };
            self.native.infer(&self.observation, &mut self.action).expect("no fault");
            if call % BETWEEN == 0 {
                (self.offence)();
            }
        }
        self.native.reset();
        assert!(self.action.iter().all(|value| value.is_finite()));
    }
}

/// The example policy, with weights of this precision.
fn example(precision: Precision) -> Subject {
    let path = in_repository("config/example.bundle/policy.pt");
    let options = Options { observation: Some(32), precision, ..Options::default() };
    Subject::new(Native::load(&path, &options).expect("it is good"))
}

/// Steps of every kind: layers, a recurrent layer with its state, layout, selection, reductions, casts, a
/// table.
fn every_kind() -> Subject {
    let body = "y = torch.tanh(torch.linear(x, CONSTANTS.c0, CONSTANTS.c1))\n\
                o, n, d = torch.lstm(torch.unsqueeze(y, 0), [h, c], [CONSTANTS.c2, CONSTANTS.c3], \
                 False, 1, 0., False, False, False)\n\
                z = torch.softmax(torch.transpose(torch.view(o, [1, 2, 4]), 1, 2), -1)\n\
                w = torch.where(torch.gt(z, 0.1), z, torch.cumsum(z, 1))\n\
                s = torch.cat([torch.flatten(w, 1), torch.to(torch.argmax(y, 1, True), 6), \
                 torch.norm(y, 2, [1], True)], 1)\n\
                e = torch.embedding(CONSTANTS.c0, torch.argmax(y, 1))\n\
                return (torch.cat([torch.to(torch.mul(torch.to(s, 7), 2.), 6), e], 1), n, d)";
    let constants = [weights(&[8, 4], 1), weights(&[8], 2), weights(&[32, 8], 3), weights(&[32, 8], 4)];
    let bytes = zip(&members("self, x: Tensor, h: Tensor, c: Tensor", body, &constants));
    let options = Options { observation: Some(4), ..Options::default() };
    let native = Native::from_bytes(&bytes, Path::new("case.pt"), &options);
    Subject::new(native.unwrap_or_else(|error| panic!("{error}")))
}

const SUBJECTS: [fn() -> Subject; 3] = [|| example(Precision::F32), || example(Precision::Bf16), every_kind];

fn canary(offence: fn()) -> Subject {
    Subject { offence, ..example(Precision::F32) }
}

fn allocator_calls(subject: Subject) -> u64 {
    let mut subject = subject.warmed_up();
    // Reading the environment allocates.
    let calls = calls();
    let before = quiet::allocator_calls();
    subject.call(calls);
    quiet::allocator_calls() - before
}

#[test]
fn a_call_allocates_nothing() {
    for subject in SUBJECTS {
        assert_eq!(allocator_calls(subject()), 0);
    }
}

#[test]
fn the_allocation_counter_sees_an_allocation() {
    // One allocation and one release for each offence.
    let seen = allocator_calls(canary(|| drop(black_box(Box::new(1u64)))));
    assert_eq!(seen, 2 * calls() / BETWEEN);
}

/// Page faults and voluntary context switches.
fn kernel_events(subject: Subject) -> (i64, i64) {
    let mut subject = subject.warmed_up();
    let calls = calls();
    let before = quiet::faults_and_waits();
    subject.call(calls);
    let after = quiet::faults_and_waits();
    (after.0 - before.0, after.1 - before.1)
}

#[test]
fn a_call_takes_no_page_fault_and_never_waits() {
    // The kernel may take a page away for its own purposes. So one clean run of three shows that the calls
    // themselves cause no page fault.
    for subject in SUBJECTS {
        let mut runs = Vec::new();
        while runs.len() < 3 && !runs.contains(&(0, 0)) {
            runs.push(kernel_events(subject()));
        }
        assert!(runs.contains(&(0, 0)), "(page faults, voluntary switches) of three runs: {runs:?}");
    }
}

#[test]
fn the_kernels_counters_see_a_fault_and_a_wait() {
    let offences = (calls() / BETWEEN) as i64;
    let (faults, _) = kernel_events(canary(quiet::touch_new_page));
    assert!(faults >= offences, "{faults} faults seen of {offences}");
    // Long enough that a busy machine seldom lets the time pass before the sleep begins, which causes no
    // wait.
    let (_, waits) = kernel_events(canary(|| std::thread::sleep(std::time::Duration::from_micros(200))));
    assert!(waits >= offences * 9 / 10, "{waits} waits seen of {offences}");
}

fn system_calls(subject: impl FnOnce() -> Subject + Send + 'static) -> u64 {
    quiet::system_calls(|| (subject().warmed_up(), calls()), |(subject, calls)| subject.call(*calls))
}

#[test]
fn a_call_calls_no_system_call() {
    for subject in SUBJECTS {
        assert_eq!(system_calls(subject), 0);
    }
}

#[test]
fn the_trap_sees_a_system_call() {
    assert_eq!(system_calls(|| canary(quiet::call_the_system)), calls() / BETWEEN);
}
