//! `escapement predict`: noise, episodes, and refused arguments.

use escapement::bundle::{Bundle, Trust};
use escapement::noise::{Distribution, Noise};
use escapement::policy::{Backend, Policy, Widths};
use escapement_test_support::{escapement, npy, test_data};
use std::process::Output;

/// Returns rows of three features that all differ.
fn rows(count: usize) -> Vec<f32> {
    (0..3 * count).map(|index| (index as f32 * 0.7).sin()).collect()
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a temporary directory"));
        place.write("seen.npy", &npy(&rows(20), 3));
        place
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.0.path().join(name), bytes).expect(name);
    }

    fn predict(&self, policy: &str, more: &[&str]) -> Output {
        escapement()
            .arg("predict")
            .arg(test_data(policy))
            .args(["--observations", "seen.npy", "--out", "actions.npy"])
            .args(more)
            .current_dir(self.0.path())
            .output()
            .expect("it runs")
    }

    fn actions(&self, policy: &str, more: &[&str]) -> Vec<[f32; 2]> {
        let output = self.predict(policy, more);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let bytes = std::fs::read(self.0.path().join("actions.npy")).expect("actions");
        let values = bytes[128..].as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word));
        let values: Vec<_> = values.collect();
        values.as_chunks::<2>().0.to_vec()
    }
}

fn policy_of(name: &str) -> Box<dyn Policy> {
    let bundle = Bundle::open(&test_data(name), &Trust::default()).expect("good");
    let served = bundle.load(Backend::Native, Widths { observation: None, action: None }).expect("it serves");
    let mut policy = served.policy;
    policy.enter_thread().expect("a thread");
    policy
}

fn answer(policy: &mut dyn Policy, observation: &[f32]) -> [f32; 2] {
    let mut action = [0.0; 2];
    policy.infer(observation, &mut action).expect("an answer");
    action
}

#[test]
fn noise_is_that_of_the_seed_and_the_row() {
    let place = Place::new();
    let native = ["--backend", "native"];
    let plain = place.actions("small.bundle", &native);
    let drawn = place.actions("small.bundle", &[&native[..], &["--stochastic", "--seed", "9"]].concat());
    let mut policy = policy_of("small.bundle");
    let seen = rows(20);
    for (row, observation) in seen.chunks_exact(3).enumerate() {
        policy.noise_mut().fill(0.0);
        assert_eq!(plain[row], answer(policy.as_mut(), observation));
        Noise::new(9, Distribution::Gaussian).fill(row as u64, policy.noise_mut());
        assert_eq!(drawn[row], answer(policy.as_mut(), observation));
        assert_ne!(drawn[row], plain[row]);
    }
    let other = place.actions("small.bundle", &[&native[..], &["--stochastic"]].concat());
    assert_ne!(other, drawn);
    // A policy without randomness gives the same with `predict(obs, deterministic=False)`.
    let quiet = place.actions("recurrent.bundle", &native);
    assert_eq!(place.actions("recurrent.bundle", &[&native[..], &["--stochastic"]].concat()), quiet);
}

#[test]
fn episodes_begin_where_they_are_said_to() {
    let place = Place::new();
    let mut starts = [0.0; 20];
    (starts[0], starts[7], starts[8]) = (1.0, 1.0, -1.0);
    place.write("starts.npy", &npy(&starts, 1));
    let native = ["--backend", "native"];
    let one = place.actions("recurrent.bundle", &native);
    let several =
        place.actions("recurrent.bundle", &[&native[..], &["--episode-starts", "starts.npy"]].concat());
    let mut policy = policy_of("recurrent.bundle");
    for (row, observation) in rows(20).chunks_exact(3).enumerate() {
        if starts[row] != 0.0 {
            policy.reset();
        }
        assert_eq!(several[row], answer(policy.as_mut(), observation), "{row}");
    }
    assert_eq!(one[..7], several[..7]);
    assert_ne!(one[7], several[7]);
}

#[test]
fn nonsense_is_refused_with_its_reason() {
    let place = Place::new();
    place.write("short.npy", &npy(&[1.0; 19], 1));
    place.write("wide.npy", &npy(&[1.0; 40], 2));
    place.write("text.npy", b"no numbers");
    for (more, code, reason) in [
        (&["--seed", "1"][..], 64, "--stochastic"),
        (&["--stochastic", "--seed=-1"], 64, "invalid value"),
        (&["--stochastic", "--seed", "many"], 64, "invalid value 'many'"),
        (&["--episode-starts", "short.npy"], 64, "19 rows of 1; allowed: one number for each of 20"),
        (&["--episode-starts", "wide.npy"], 64, "20 rows of 2"),
        (&["--episode-starts", "text.npy"], 64, "text.npy: not a .npy file"),
        (&["--episode-starts", "none.npy"], 66, "none.npy"),
    ] {
        let output = place.predict("recurrent.bundle", more);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{more:?}: {stderr}");
        assert!(stderr.contains(reason), "{more:?}: {stderr}");
        assert!(!place.0.path().join("actions.npy").exists(), "{more:?}");
    }
}
