//! The whole tick at real rates, across two processes: what an idle core costs, and what keep-warm saves.
//!
//! `cargo bench --bench paced [-- --rounds N --backend native|torch]`; `torch` needs `--features torch`. This
//! process is the feed and the gateway of a daemon, which is the real binary with the example policy and
//! serves on the last core. Rounds without and with keep-warm take turns, so that a disturbance of the
//! machine affects both. A tick is the time from the peek of an observation to the commit of its action, as
//! the frames say. A response is the time from the feed's stamp to that commit, so what an observation waits
//! for a dry run is in it. The deadlines are out of the way. Prints percentiles and sample counts, and
//! asserts no time. Under `cargo test --benches` it runs small.

use escapement::clock::{Clock, MachineClock, Nanos};
use escapement::directory::RingFile;
use escapement::feed::Feed;
use escapement::ring::Consumer;
use escapement::telemetry::Histogram;
use escapement::wire::{ActionHeader, Outcome};
use escapement_test_support::agent::Agent;
use rustix::process::Signal;
use std::collections::BTreeMap;
use zerocopy::IntoBytes;

/// Observations a second. The first one fills the ring and lets the engine answer back to back.
const RATES: [Option<u64>; 4] = [None, Some(200), Some(1_000), Some(5_000)];
/// Observations of one burst.
const BURST: u64 = 256;
/// `engine.keep_warm_us` without and with keep-warm.
const SETTINGS: [(&str, &str); 2] = [("off", "0"), ("auto", "\"auto\"")];
const FEATURES: usize = 32;
/// A tick beyond this is counted.
const DEADLINE: u64 = 100_000;

/// What one rate showed under one setting.
struct Seen {
    ticks: Histogram,
    inference: Histogram,
    responses: Histogram,
    late: u64,
    /// The revision of the settings in the last frame.
    generation: u32,
}

impl Seen {
    fn new() -> Self {
        let [ticks, inference, responses] = std::array::from_fn(|_| Histogram::new());
        Self { ticks, inference, responses, late: 0, generation: 0 }
    }

    fn add(&mut self, frame: &ActionHeader) {
        assert_eq!(frame.outcome, Outcome::Policy.number(), "every action is the policy's");
        let tick = frame.ts_commit_ns - frame.ts_publish_ns - frame.queue_ns;
        self.ticks.record(tick);
        self.inference.record(frame.inference_ns);
        self.responses.record(frame.ts_commit_ns - frame.ts_publish_ns);
        self.generation = frame.generation;
        self.late += u64::from(tick > DEADLINE);
    }
}

/// The feed and the gateway of one daemon.
struct Peer {
    clock: MachineClock,
    feed: Feed<MachineClock>,
    actions: Consumer,
}

impl Peer {
    fn new(agent: &Agent) -> Self {
        let clock = MachineClock::new();
        let observations = agent.attach(RingFile::Observations).expect("an armed agent has rings");
        Self {
            feed: Feed::attach(observations, clock.clone()).expect("the ring is whole"),
            actions: agent.gateway(),
            clock,
        }
    }

    fn publish(&mut self, number: u64) {
        let features: [f32; FEATURES] =
            std::array::from_fn(|index| ((number * 31 + index as u64 * 7) % 200) as f32 * 0.01 - 1.0);
        self.feed.publish(0, &features).expect("the ring has room");
    }

    /// Takes what is there, and returns how many actions it was.
    fn take(&mut self, seen: &mut Seen) -> u64 {
        let mut taken = 0;
        while let Some(peek) = self.actions.peek().expect("the ring is whole") {
            let mut frame = ActionHeader::default();
            peek.read(0, frame.as_mut_bytes());
            peek.release();
            seen.add(&frame);
            taken += 1;
        }
        taken
    }

    fn wait_for(&mut self, mut waiting: u64, seen: &mut Seen) {
        while waiting > 0 {
            waiting -= self.take(seen);
            core::hint::spin_loop();
        }
    }

    /// Reloads, and waits until a frame says that new settings are in force.
    fn await_reload(&mut self, reload: impl FnOnce()) {
        let mut unseen = Seen::new();
        self.run(Some(1_000), 1, &mut unseen);
        let before = unseen.generation;
        reload();
        while unseen.generation == before {
            self.run(Some(100), 1, &mut unseen);
        }
        // The length of a dry run is known after fifteen, a millisecond apart.
        self.run(Some(100), 5, &mut unseen);
    }

    fn run(&mut self, rate: Option<u64>, count: u64, seen: &mut Seen) {
        let Some(rate) = rate else {
            for burst in 0..count.div_ceil(BURST) {
                (0..BURST).for_each(|number| self.publish(burst * BURST + number));
                self.wait_for(BURST, seen);
            }
            return;
        };
        let mut due = self.clock.now();
        for number in 0..count {
            due = due.plus(Nanos(1_000_000_000 / rate));
            while self.clock.now() < due {
                core::hint::spin_loop();
            }
            self.publish(number);
            self.wait_for(1, seen);
        }
        self.clock.discipline().expect("the clock is sound");
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let word_of = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let full = arguments.iter().any(|argument| argument == "--bench");
    let rounds =
        word_of("--rounds").map_or(if full { 12 } else { 1 }, |text| text.parse().expect("a number"));
    let backend = word_of("--backend").unwrap_or_else(|| "native".to_owned());
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let engine_core = cores.last().map(|core| core.id).filter(|_| cores.len() > 1);
    let keys = keys(&backend, engine_core);
    let agent = Agent::new(&with_keep_warm(&keys, SETTINGS[0].1));
    let daemon = agent.start_armed();
    // Only now, because a process inherits the cores of the one that starts it.
    if let [first, _, ..] = cores[..] {
        core_affinity::set_for_current(first);
    }
    let mut peer = Peer::new(&agent);
    let mut seen: BTreeMap<(usize, usize), Seen> = BTreeMap::new();
    for _ in 0..rounds {
        for (setting, (_, value)) in SETTINGS.iter().enumerate() {
            agent.reconfigure(&with_keep_warm(&keys, value));
            peer.await_reload(|| daemon.signal(Signal::HUP));
            for (index, rate) in RATES.iter().enumerate() {
                let count = if full { rate.map_or(BURST * 20, |rate| rate / 2 + 200) } else { 20 };
                peer.run(*rate, count, seen.entry((index, setting)).or_insert_with(Seen::new));
            }
        }
    }
    report(&backend, rounds, &seen);
}

fn with_keep_warm<'a>(keys: &'a [(&'a str, String)], value: &'a str) -> Vec<(&'a str, &'a str)> {
    let keys = keys.iter().map(|(key, value)| (*key, value.as_str()));
    keys.chain([("engine.keep_warm_us", value)]).collect()
}

fn keys(backend: &str, core: Option<usize>) -> Vec<(&'static str, String)> {
    let word = |text: &str| format!("{text:?}");
    let zeros = || "[0.0, 0.0, 0.0]".to_owned();
    vec![
        ("policy.path", word(concat!(env!("CARGO_MANIFEST_DIR"), "/config/example.bundle"))),
        ("policy.backend", word(backend)),
        ("observation.dimension", "32".to_owned()),
        ("observation.capacity", "4096".to_owned()),
        ("action.dimension", "3".to_owned()),
        ("action.capacity", "4096".to_owned()),
        ("action.safe_default", zeros()),
        ("action.neutral", zeros()),
        ("deadline.inference_us", "500000".to_owned()),
        ("deadline.end_to_end_us", "500000".to_owned()),
        ("engine.core", core.map_or("-".to_owned(), |core| core.to_string())),
        ("engine.idle", word("pause")),
        ("engine.idle_sleep_us", "-".to_owned()),
        ("engine.lock_memory", "true".to_owned()),
        ("warm_up.round_calls", "1000".to_owned()),
    ]
}

fn report(backend: &str, rounds: u32, seen: &BTreeMap<(usize, usize), Seen>) {
    println!("{backend}, {rounds} rounds, times in ns: of the tick, of the policy's call, of the response");
    println!(
        "{:>12} {:>9} {:>8} {:>8} {:>8} {:>9} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8}",
        "rate",
        "keep-warm",
        "p50",
        "p99",
        "p99.9",
        "max",
        "count",
        ">100 us",
        "call p50",
        "p99.9",
        "resp. p50",
        "p99.9"
    );
    let rate = |index: usize| RATES[index].map_or("back to back".to_owned(), |rate| rate.to_string());
    for ((index, setting), seen) in seen {
        let (all, inference) = (seen.ticks.percentiles(), seen.inference.percentiles());
        let responses = seen.responses.percentiles();
        println!(
            "{:>12} {:>9} {:>8} {:>8} {:>8} {:>9} {:>9} {:>7.3} % {:>8} {:>8} {:>8} {:>8}",
            rate(*index),
            SETTINGS[*setting].0,
            all.p50,
            all.p99,
            all.p999,
            all.max,
            all.count,
            seen.late as f64 / all.count as f64 * 100.0,
            inference.p50,
            inference.p999,
            responses.p50,
            responses.p999
        );
    }
    let warm_back_to_back = seen[&(0, 1)].ticks.percentiles().p50.max(1) as f64;
    for index in 1..RATES.len() {
        let [cold, warm] = [0, 1].map(|setting| &seen[&(index, setting)]);
        let (of_cold, of_warm) = (cold.ticks.percentiles(), warm.ticks.percentiles());
        println!(
            "{:>12} a second: p50 {:.2} of back to back, p99.9 {:.2} of that without, {} late and {} without",
            rate(index),
            of_warm.p50 as f64 / warm_back_to_back,
            of_warm.p999 as f64 / of_cold.p999.max(1) as f64,
            warm.late,
            cold.late
        );
    }
}
