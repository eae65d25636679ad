//! The ring against its rivals, in one run.
//!
//! ```text
//! cd benches/rivals
//! cargo run --release --features ring --bin ring -- \
//!     [--variants[=NAMES]] [REPETITIONS [MESSAGES [ROUND_TRIPS]]]
//! ```
//!
//! Every ring has 1024 slots and carries the same messages of 256 bytes. One side writes them whole and the
//! other reads them whole, through the interface that each ring's documents recommend for single messages.
//! Both sides spin. The repetitions are short and interleaved, so that the machine's other work affects all
//! rings alike. Nothing is asserted about the times.
//!
//! With `--variants` the rows are the ways in which Escapement's ring can use this processor, rtrb beside
//! them, and a prototype of another ring. `variants.rs` says what the names mean. NAMES chooses, separated by
//! commas.

mod commit_in_slot;
mod figures;
mod message;
mod processes;
mod rings;
mod threads;
mod variants;

use escapement::clock::MachineClock;
use figures::{RoundTrip, print_round_trip, print_throughput};
use variants::Variant;

type Throughput = Box<dyn Fn(u64, &MachineClock) -> f64>;
type Half = Box<dyn Fn(u64, &MachineClock) -> RoundTrip>;

/// A ring's measurements between threads, and between processes if it has any there.
struct Ring {
    name: String,
    throughput: Throughput,
    half: Half,
    processes: Option<Half>,
}

/// A rival's name and its two measurements between threads.
macro_rules! rivals {
    ($($name:literal => $ends:path),* $(,)?) => {
        [$(Ring {
            name: $name.to_owned(),
            throughput: Box::new(|messages, clock| threads::throughput($ends(), messages, clock)),
            half: Box::new(|messages, clock| threads::round_trip($ends(), $ends(), messages, clock)),
            processes: None,
        },)*]
    };
}

fn ours(name: &str, variant: Variant) -> Ring {
    let ends = move || rings::escapement(variant);
    Ring {
        name: name.to_owned(),
        throughput: Box::new(move |messages, clock| threads::throughput(ends(), messages, clock)),
        half: Box::new(move |messages, clock| threads::round_trip(ends(), ends(), messages, clock)),
        processes: Some(Box::new(move |messages, clock| processes::escapement(variant, messages, clock))),
    }
}

fn rivals() -> Vec<Ring> {
    let between_threads = rivals![
        "rtrb" => rings::rtrb,
        "rtrb, chunks in place" => rings::rtrb_in_place,
        "ringbuf" => rings::ringbuf,
        "crossbeam ArrayQueue" => rings::array_queue,
        "crossbeam channel" => rings::channel,
        "disruptor" => rings::disruptor,
    ];
    let mut rings = vec![ours("escapement", Variant::default())];
    rings.extend(between_threads);
    rings
}

/// The named variants of ours, or every one; rtrb; and the prototype with the commit word in the slot.
fn variants(names: &str) -> Vec<Ring> {
    let mut rings = vec![ours("escapement", Variant::default())];
    rings.extend(rivals![
        "rtrb" => rings::rtrb,
        "prototype: commit in the slot" => commit_in_slot::plain,
        "prototype: the same, demoted" => commit_in_slot::demoted,
    ]);
    let names: Vec<&str> = names.split(',').filter(|name| !name.is_empty()).collect();
    let names = if names.is_empty() { variants::EVERY } else { &names };
    // A variant that the processor does not have is left out.
    let found = names.iter().filter_map(|name| Some((name, name.parse::<Variant>().ok()?)));
    rings.extend(found.map(|(name, variant)| ours(name, variant)));
    rings
}

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, kind, place, messages, core] = arguments.as_slice()
        && first == processes::ECHO
    {
        let (messages, core) = (messages.parse().expect("a number"), core.parse().expect("a number"));
        return processes::serve(kind, place, messages, core);
    }
    threads::choose_cores();
    let compared = arguments.first().and_then(|first| first.strip_prefix("--variants")).map(str::to_owned);
    let rings = match &compared {
        Some(names) => {
            arguments.remove(0);
            variants(names.trim_start_matches('='))
        }
        None => rivals(),
    };
    let number = |index: usize, default: u64| {
        arguments.get(index).map_or(default, |text| text.parse().expect("a number"))
    };
    let (repetitions, messages, round_trips) = (number(0, 31), number(1, 200_000), number(2, 50_000));
    let clock = MachineClock::new();

    let mut throughput: Vec<_> = rings.iter().map(|ring| (ring.name.clone(), Vec::new())).collect();
    let mut threads: Vec<_> = rings.iter().map(|ring| (ring.name.clone(), Vec::new())).collect();
    let between_processes =
        rings.iter().filter_map(|ring| Some((ring.name.clone(), ring.processes.as_ref()?)));
    let iceoryx2: Half = Box::new(processes::iceoryx2);
    let between_processes: Vec<_> = between_processes.chain([("iceoryx2".to_owned(), &iceoryx2)]).collect();
    let mut processes: Vec<_> =
        between_processes.iter().map(|(name, _)| (name.clone(), Vec::new())).collect();
    for _ in 0..repetitions {
        for (row, ring) in throughput.iter_mut().zip(&rings) {
            row.1.push((ring.throughput)(messages, &clock));
        }
        for (row, ring) in threads.iter_mut().zip(&rings) {
            row.1.push((ring.half)(round_trips, &clock));
        }
        for (row, (_, run)) in processes.iter_mut().zip(&between_processes) {
            row.1.push(run(round_trips, &clock));
        }
    }
    println!("{repetitions} repetitions; clock {}", clock.name());
    println!("\nThroughput between two threads, {messages} messages a repetition");
    print_throughput(&throughput);
    println!("\nHalf round trip between two threads, {round_trips} a repetition");
    print_round_trip(&threads);
    println!("\nHalf round trip between two processes, {round_trips} a repetition");
    print_round_trip(&processes);
}
