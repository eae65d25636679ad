//! By how much dry runs delay observations that arrive at random: what `status` expects, beside what the
//! engine counted.
//!
//! `cargo bench --bench dry_run_delay [-- --seconds N]`. This process is the feed and the gateway of a
//! daemon, which is the real binary. It serves a network of 32-WIDTH-WIDTH-3 on the last core, for three
//! widths. The gaps between observations are exponential, 1 ms on average. The deadlines are out of the way.
//! Asserts no time. Under `cargo test --benches` it runs small.

use escapement::clock::{Clock, MachineClock, Nanos};
use escapement::directory::RingFile;
use escapement::feed::Feed;
use escapement_reference::feed::Arrivals;
use escapement_test_support::agent::Agent;
use escapement_test_support::torchscript::{archive, weights};
use rustix::process::Signal;

const WIDTHS: [usize; 3] = [64, 128, 256];
const FEATURES: usize = 32;
const ACTIONS: usize = 3;
const RATE: &str = "poisson:1000";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let full = arguments.iter().any(|argument| argument == "--bench");
    let seconds = arguments.iter().position(|argument| argument == "--seconds");
    let seconds = seconds.and_then(|at| arguments.get(at + 1)).map(|text| text.parse().expect("a number"));
    let seconds: u64 = seconds.unwrap_or(20);
    let count = if full { seconds as usize * 1_000 } else { 20 };
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let engine_core = cores.last().map(|core| core.id).filter(|_| cores.len() > 1);
    if let [first, _, ..] = cores[..] {
        core_affinity::set_for_current(first);
    }
    println!("{RATE}: the delay of an observation by dry runs, in ns on average");
    println!(
        "{:>14} {:>9} {:>9} {:>8} {:>9} {:>9} {:>9} {:>6}",
        "network", "dry runs", "length", "share", "delayed", "expected", "measured", "ratio"
    );
    for width in WIDTHS {
        measure(width, count, engine_core);
    }
}

fn network(width: usize) -> Vec<u8> {
    archive(
        "_0 = torch.tanh(torch.linear(x, CONSTANTS.c0, CONSTANTS.c1))\n\
         _1 = torch.tanh(torch.linear(_0, CONSTANTS.c2, CONSTANTS.c3))\n\
         return torch.tanh(torch.linear(_1, CONSTANTS.c4, CONSTANTS.c5))",
        &[
            weights(&[width, FEATURES], 1),
            weights(&[width], 2),
            weights(&[width, width], 3),
            weights(&[width], 4),
            weights(&[ACTIONS, width], 5),
            weights(&[ACTIONS], 6),
        ],
    )
}

fn measure(width: usize, count: usize, core: Option<usize>) {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let path = directory.path().join("network.pt");
    std::fs::write(&path, network(width)).expect("the network can be written");
    let (path, core) = (format!("{path:?}"), core.map_or("-".to_owned(), |core| core.to_string()));
    let agent = Agent::new(&[
        ("policy.path", &path),
        ("policy.backend", "\"native\""),
        ("observation.dimension", "32"),
        ("observation.capacity", "4096"),
        ("action.dimension", "3"),
        ("action.capacity", "4096"),
        ("action.safe_default", "[0.0, 0.0, 0.0]"),
        ("action.neutral", "[0.0, 0.0, 0.0]"),
        ("deadline.inference_us", "500000"),
        ("deadline.end_to_end_us", "500000"),
        ("engine.core", &core),
        ("engine.idle", "\"pause\""),
        ("engine.idle_sleep_us", "-"),
        ("engine.lock_memory", "true"),
        ("engine.keep_warm_us", "\"auto\""),
        ("warm_up.round_calls", "1000"),
    ]);
    let daemon = agent.start_armed();
    let mut clock = MachineClock::new();
    let observations = agent.attach(RingFile::Observations).expect("an armed agent has rings");
    let mut feed = Feed::attach(observations, clock.clone()).expect("the ring is whole");
    let mut actions = agent.gateway();
    let times = Arrivals::parse(RATE).expect("it can be read").times(count);
    let begun = clock.now();
    let mut disciplined = begun;
    for (number, time) in times.into_iter().enumerate() {
        let due = begun.plus(time);
        while clock.now() < due {
            if clock.now().since(disciplined) > Nanos::from_millis(100) {
                clock.discipline().expect("the clock is sound");
                disciplined = clock.now();
            }
            core::hint::spin_loop();
        }
        let features: [f32; FEATURES] =
            std::array::from_fn(|index| ((number * 31 + index * 7) % 200) as f32 * 0.01 - 1.0);
        feed.publish(0, &features).expect("the ring has room");
        while let Some(peek) = actions.peek().expect("the ring is whole") {
            peek.release();
        }
    }
    daemon.signal(Signal::TERM);
    let _ = daemon.wait();
    let status = agent.status();
    let warm = &status["keep_warm"];
    let number = |name: &str| warm[name].as_f64().unwrap_or_default();
    let (expected, measured) = (number("expected_delay_ns"), number("mean_delay_ns"));
    println!(
        "{:>14} {:>9} {:>9} {:>6.2} % {:>9} {:>9.1} {:>9.1} {:>6.2}",
        format!("32-{width}-{width}-3"),
        warm["dry_runs"],
        warm["typical_ns"],
        number("share_of_time") * 100.0,
        warm["delayed"],
        expected,
        measured,
        measured / expected
    );
}
