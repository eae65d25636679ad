//! The cost of one call of the libtorch backend, for the `mlp.pt` of `scripts/fixtures.sh`: the 32-64-64-3
//! tanh network of Stable-Baselines3's defaults.
//!
//! `cargo bench --features torch --bench torch_call`

use escapement::policy::{Policy, Torch};
use escapement_test_support::fixtures::fixture;
use std::time::Instant;

const CALLS: usize = 200_000;
const WARM_UP: usize = 2_000;

fn main() {
    let mut policy = Torch::load(&fixture("mlp.pt"), 32, Some(3)).expect("the good policy loads");
    policy.enter_thread().expect("this thread can serve");

    let mut action = [0.0; 3];
    let mut lasted_ns = Vec::with_capacity(CALLS);
    for call in 0..WARM_UP + CALLS {
        let observation = [(call % 17) as f32 * 0.1; 32];
        let started = Instant::now();
        policy.infer(&observation, &mut action).expect("the good policy answers");
        let elapsed = started.elapsed();
        if call >= WARM_UP {
            lasted_ns.push(elapsed.as_nanos());
        }
    }
    lasted_ns.sort_unstable();
    let at = |share: f64| lasted_ns[((CALLS - 1) as f64 * share) as usize];
    println!(
        "torch backend, 32-64-64-3 tanh, one call, ns over {CALLS} calls (no correction, clock included):"
    );
    println!("  min {}  p50 {}  p99 {}  p99.9 {}  max {}", at(0.0), at(0.5), at(0.99), at(0.999), at(1.0));
}
