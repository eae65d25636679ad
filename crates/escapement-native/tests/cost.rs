//! What it costs to read a hostile file: the meter's count is never below what the allocator sees, and
//! neither exceeds the budget of the file's size.
//!
//! One test, because the allocator's totals are those of the whole process.

use std::path::Path;

use escapement_native::{Cost, Limits, Native, Options, Refusal};
use escapement_policy::Policy;
use escapement_test_support::heap::{Metered, Usage, usage};
use escapement_test_support::hostile::hostile;
use escapement_test_support::test_data;

#[global_allocator]
static ALLOCATOR: Metered = Metered;

/// Memory of the loader's thread, and of the text of an error.
const SLACK: u64 = 64 << 10;

fn lowered(bytes: &[u8], options: &Options) -> (Result<Native, Refusal>, Cost, Usage) {
    let (lowered, used) = usage(|| Native::lower_counted(bytes, options));
    let (built, cost) = lowered.expect("a thread to load on");
    let panicked = built.as_ref().is_err_and(|refusal| refusal.reason.contains("the reader failed"));
    assert!(!panicked, "{built:?}");
    (built, cost, used)
}

fn within_budget(name: &str, length: usize, cost: Cost, used: Usage) {
    let limits = Limits::default();
    let (memory, work) = (limits.memory_for(length as u64), limits.work_for(length as u64));
    eprintln!("{name}: {length} B, {cost:?} of {memory} and {work}, allocator {used:?}");
    assert!(cost.memory <= memory && cost.work <= work, "{name}: {cost:?}");
    assert!(used.peak <= cost.memory + SLACK, "{name}: {used:?} is not counted in {cost:?}");
    // Allocations and what they clear or copy are part of the work.
    let effort = used.calls + used.total / 16;
    assert!(effort <= cost.work + SLACK, "{name}: {used:?} is not counted in {cost:?}");
}

#[test]
fn a_file_costs_no_more_than_its_size_allows() {
    let four = Options { observation: Some(4), ..Options::default() };
    let mut wrong = Vec::new();
    for case in hostile() {
        let (built, cost, used) = lowered(&case.bytes, &four);
        within_budget(case.name, case.bytes.len(), cost, used);
        match built {
            Ok(_) if case.words.is_empty() => {}
            Ok(_) => wrong.push(format!("{} loads", case.name)),
            Err(refusal) if !case.words.is_empty() && refusal.to_string().contains(case.words) => {}
            Err(refusal) => wrong.push(format!("{}: {refusal}", case.name)),
        }
        let (built, cost, used) = lowered(&case.neighbour, &four);
        within_budget(case.name, case.neighbour.len(), cost, used);
        match built {
            Err(refusal) => wrong.push(format!("beside {}: {refusal}", case.name)),
            Ok(mut neighbour) => {
                let mut action = [f32::NAN; 3];
                neighbour.infer(&[0.1, -0.2, 0.3, -0.4], &mut action).expect("no operation that can fault");
                assert!(action.iter().all(|value| value.is_finite()), "beside {}", case.name);
            }
        }
    }
    let honest = [
        ("small.bundle", Options { noise: 2, ..Options::default() }),
        ("recurrent.bundle", Options { states: vec![vec![1, 4]], ..Options::default() }),
        ("../../config/example.bundle", Options::default()),
    ];
    for (name, options) in honest {
        let name = format!("{name}/policy.pt");
        let bytes = std::fs::read(test_data(&name)).expect("it is in the repository");
        let (built, cost, used) = lowered(&bytes, &options);
        within_budget(&name, bytes.len(), cost, used);
        assert!(built.is_ok(), "{name}: {:?}", built.err());
        // An honest file stays far from its budget.
        assert!(cost.memory * 4 < Limits::default().memory_for(bytes.len() as u64), "{name}: {cost:?}");
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    a_file_that_is_not_there();
}

fn a_file_that_is_not_there() {
    for path in ["/dev/zero", "/dev/null", "/tmp"] {
        let error = Native::load(Path::new(path), &Options::default()).expect_err("not a file").to_string();
        assert!(error.contains("not a plain file"), "{error}");
    }
}
