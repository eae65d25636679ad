//! The libtorch backend with real TorchScript files: the same actions as PyTorch, and a typed answer to every
//! failure of a module. The files come from `scripts/fixtures.sh`, or from the directory in
//! `ESCAPEMENT_FIXTURES`.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use escapement::policy::{Dimensions, Fault, Policy, PolicyError, Torch};
use escapement_test_support::fixtures::{ACTION, FAULTY, GOOD, OBSERVATION, fixture};

/// Loads a fixture with the dimensions that all of them have, on the calling thread.
fn serving(name: &str) -> Torch {
    let mut policy = Torch::load(&fixture(name), OBSERVATION, Some(ACTION)).expect(name);
    policy.enter_thread().expect(name);
    policy
}

fn answer(policy: &mut Torch, observation: &[f32]) -> Result<[f32; ACTION], Fault> {
    let mut action = [f32::MAX; ACTION];
    policy.infer(observation, &mut action).map(|()| action)
}

/// Returns the answer of `mlp.pt`. Every fixture gives it when it does not fail.
fn expected(observation: &[f32]) -> [f32; ACTION] {
    answer(&mut serving("mlp.pt"), observation).expect("the good policy answers")
}

fn load_error(name: &str, observation: usize, action: Option<usize>) -> PolicyError {
    Torch::load(&fixture(name), observation, action).expect_err(name)
}

/// Returns the rows of a `.npy` file of float32 in C order: ten bytes of preamble, a header, the numbers.
fn rows(name: &str, width: usize) -> Vec<Vec<f32>> {
    let bytes = std::fs::read(fixture(name)).expect(name);
    let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let text = String::from_utf8_lossy(&bytes[10..10 + header]);
    assert!(text.contains("'<f4'") && text.contains("'fortran_order': False"), "{name}: {text}");
    let numbers: Vec<f32> = bytes[10 + header..]
        .chunks_exact(4)
        .map(|number| f32::from_le_bytes([number[0], number[1], number[2], number[3]]))
        .collect();
    numbers.chunks_exact(width).map(<[f32]>::to_vec).collect()
}

#[test]
fn answers_as_pytorch_does() {
    let observations = rows("mlp.observations.npy", OBSERVATION);
    let actions = rows("mlp.actions.npy", ACTION);
    assert_eq!(observations.len(), actions.len());
    assert!(observations.len() >= 200, "only {} pairs", observations.len());

    let mut policy = serving("mlp.pt");
    for (observation, action) in observations.iter().zip(&actions) {
        let found = answer(&mut policy, observation).expect("the good policy answers");
        for (found, expected) in found.iter().zip(action) {
            assert!((found - expected).abs() <= 1e-6, "found {found}, PyTorch says {expected}");
        }
    }
}

#[test]
fn names_itself_and_the_width_it_found() {
    let policy = Torch::load(&fixture("mlp.pt"), OBSERVATION, None).expect("the good policy loads");
    assert_eq!(policy.dimensions(), Dimensions { observation: OBSERVATION, action: ACTION });
    assert_eq!(policy.backend(), "torch");
}

#[test]
fn a_module_with_memory_is_not_run_dry() {
    for name in ["mlp.pt", "double.pt", "slow_sometimes.pt"] {
        assert!(serving(name).can_run_dry(), "{name}");
    }
    for name in ["remembers.pt", "samples.pt"] {
        assert!(!serving(name).can_run_dry(), "{name}");
    }
}

#[test]
fn other_dtypes_and_a_missing_batch_dimension_are_taken() {
    let right = expected(&GOOD);
    let double = answer(&mut serving("double.pt"), &GOOD).expect("float64 is taken");
    assert!(double.iter().zip(&right).all(|(found, right)| (found - right).abs() <= 1e-6), "{double:?}");

    let mut discrete = Torch::load(&fixture("integer.pt"), OBSERVATION, Some(1)).expect("int64 [1] is taken");
    let mut index = [f32::MAX];
    discrete.infer(&GOOD, &mut index).expect("int64 [1] is taken");
    let best = (0..ACTION).max_by(|&a, &b| right[a].total_cmp(&right[b])).expect("three actions");
    assert_eq!(index, [best as f32]);
}

#[test]
fn widths_that_do_not_match_name_both() {
    let error = load_error("mlp.pt", 31, None);
    assert!(matches!(error, PolicyError::Shape { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("observation of 31") && text.contains("32x64") && !text.contains('\n'), "{text}");

    for (name, expected) in
        [("mlp.pt", "expected an action of 4 elements, found 3"), ("wrong_shape.pt", "found 6")]
    {
        let error = load_error(name, OBSERVATION, Some(4));
        assert!(matches!(error, PolicyError::Shape { .. }), "{error:?}");
        assert!(error.to_string().ends_with(expected), "{error}");
    }
}

#[test]
fn what_always_fails_is_refused_when_loaded() {
    for (name, expected) in [
        ("throw.pt", "the fixture raises as it was made to"),
        ("not_a_tensor.pt", "something other than one tensor"),
        ("recurrent.pt", "carried state"),
    ] {
        let error = load_error(name, OBSERVATION, Some(ACTION));
        assert!(matches!(error, PolicyError::Unsupported { .. }), "{name}: {error:?}");
        let text = error.to_string();
        assert!(text.contains(name) && text.contains(expected) && !text.contains('\n'), "{text}");
    }
}

#[test]
fn files_that_are_no_policy_are_refused() {
    let missing = load_error("no-such-file.pt", OBSERVATION, None);
    assert!(matches!(missing, PolicyError::Unreadable { .. }), "{missing:?}");

    let directory = tempfile::tempdir().expect("a temporary directory");
    let whole = std::fs::read(fixture("mlp.pt")).expect("the good policy is there");
    for (name, bytes) in [("empty", &[][..]), ("garbage", &[0xa5; 4096]), ("torn", &whole[..whole.len() / 2])]
    {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).expect("the temporary directory takes files");
        let error = Torch::load(&path, OBSERVATION, None).expect_err(name);
        assert!(matches!(error, PolicyError::Malformed { .. }), "{name}: {error:?}");
        assert!(!error.to_string().contains('\n'), "{name}: {error}");
    }
}

#[test]
fn a_fault_is_typed_kept_and_leaves_later_calls_alone() {
    let right = expected(&GOOD);
    for (name, fault, said) in [
        ("throw_sometimes.pt", Fault::Raised, "the fixture raises as it was made to"),
        ("wrong_shape_sometimes.pt", Fault::NotAnAction, "6 elements, not 3"),
        ("not_a_tensor_sometimes.pt", Fault::NotAnAction, "something other than one tensor"),
    ] {
        let mut policy = serving(name);
        assert_eq!(policy.last_fault(), None, "{name}");
        for _ in 0..3 {
            assert_eq!(answer(&mut policy, &GOOD), Ok(right), "{name}");
            assert_eq!(answer(&mut policy, &FAULTY), Err(fault), "{name}");
            let kept = policy.last_fault().expect("the fault's text is kept");
            assert!(kept.contains(said), "{name}: {kept}");
        }
        assert_eq!(answer(&mut policy, &GOOD), Ok(right), "{name}");
    }
}

#[test]
fn nan_is_passed_on_for_the_engine_to_judge() {
    assert!(
        answer(&mut serving("nan.pt"), &GOOD)
            .expect("NaN is a number to libtorch")
            .iter()
            .all(|a| a.is_nan())
    );
    let mut sometimes = serving("nan_sometimes.pt");
    assert!(answer(&mut sometimes, &FAULTY).expect("NaN is a number to libtorch").iter().all(|a| a.is_nan()));
    assert_eq!(answer(&mut sometimes, &GOOD), Ok(expected(&GOOD)));
}

#[test]
fn a_module_that_spoils_its_input_still_sees_every_observation() {
    let (first, second) = (expected(&GOOD), expected(&FAULTY));
    assert_ne!(first, second);
    for name in ["reshapes.pt", "grows.pt", "strides.pt", "detaches.pt"] {
        let mut policy = serving(name);
        for _ in 0..3 {
            assert_eq!(answer(&mut policy, &GOOD), Ok(first), "{name}");
            assert_eq!(answer(&mut policy, &FAULTY), Ok(second), "{name}");
        }
    }
}

#[test]
fn the_slow_module_is_slow_only_where_it_should_be() {
    let mut policy = serving("slow_sometimes.pt");
    let mut fastest = |observation: &[f32]| {
        let lasted = |_| {
            let started = Instant::now();
            answer(&mut policy, observation).expect("slow is no fault");
            started.elapsed()
        };
        (0..20).map(lasted).min().expect("twenty calls")
    };
    let (quick, slow) = (fastest(&GOOD), fastest(&FAULTY));
    assert!(slow > Duration::from_millis(1), "{slow:?}");
    assert!(slow > 10 * quick, "{slow:?} against {quick:?}");
}

#[test]
fn the_serving_thread_records_no_gradients_and_libtorch_starts_no_threads() {
    std::thread::spawn(|| {
        let records = || {
            let weight = tch::Tensor::from_slice(&[1.0f32]).set_requires_grad(true);
            (&weight * 2.0).requires_grad()
        };
        assert!(records(), "a fresh thread records gradients");
        let mut policy = serving("mlp.pt");
        assert!(!records());
        answer(&mut policy, &GOOD).expect("the good policy answers");
        drop(policy);
        assert!(!records(), "the mode is the thread's, not the policy's");
        assert_eq!((tch::get_num_threads(), tch::get_num_interop_threads()), (1, 1));
    })
    .join()
    .expect("the serving thread ends well");
}

/// Runs itself a second time, to have a process to kill: a thread that never returns from libtorch cannot be
/// stopped.
#[test]
fn the_hanging_module_hangs() {
    const CHILD: &str = "ESCAPEMENT_TEST_HANGS";
    if std::env::var_os(CHILD).is_some() {
        let mut policy = serving("hang_sometimes.pt");
        assert_eq!(answer(&mut policy, &GOOD), Ok(expected(&GOOD)));
        println!("\nserving");
        let returned = answer(&mut policy, &FAULTY);
        println!("\nreturned {returned:?}");
        return;
    }
    let mut child = Command::new(std::env::current_exe().expect("this test has a path"))
        .args(["--exact", "policy::the_hanging_module_hangs", "--nocapture"])
        .env(CHILD, "1")
        .env("ESCAPEMENT_FIXTURES", fixture(""))
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test runs again");
    let output = BufReader::new(child.stdout.take().expect("a pipe"));
    let serving = output.lines().map_while(Result::ok).any(|line| line == "serving");
    std::thread::sleep(Duration::from_millis(300));
    let ended = child.try_wait().expect("the child can be asked");
    child.kill().expect("the child can be killed");
    child.wait().expect("the child can be waited for");
    assert!(serving, "the child did not get as far as the hang");
    assert_eq!(ended, None, "the call returned");
}
