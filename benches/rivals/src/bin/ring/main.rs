//! The ring against its rivals, in one run.
//!
//! ```text
//! cd benches/rivals
//! cargo run --release --features ring --bin ring -- [REPETITIONS [MESSAGES [ROUND_TRIPS]]]
//! ```
//!
//! Every ring has 1024 slots and carries the same messages of 256 bytes. One side writes them whole and the
//! other reads them whole, through the interface that each ring's documents recommend for single messages.
//! Both sides spin. The repetitions are short and interleaved, so that the machine's other work affects all
//! rings alike. Nothing is asserted about the times.

mod figures;
mod message;
mod processes;
mod rings;
mod threads;

use escapement::clock::MachineClock;
use figures::{RoundTrip, print_round_trip, print_throughput};

type Throughput = fn(u64, &MachineClock) -> f64;
type Half = fn(u64, &MachineClock) -> RoundTrip;

/// A rival's name and its two measurements between threads.
macro_rules! rivals {
    ($($name:literal => $ends:path),* $(,)?) => {
        &[$((
            $name,
            |messages, clock| threads::throughput($ends(), messages, clock),
            |messages, clock| threads::round_trip($ends(), $ends(), messages, clock),
        ),)*]
    };
}

const BETWEEN_THREADS: &[(&str, Throughput, Half)] = rivals![
    "escapement" => rings::escapement,
    "rtrb" => rings::rtrb,
    "rtrb, chunks in place" => rings::rtrb_in_place,
    "ringbuf" => rings::ringbuf,
    "crossbeam ArrayQueue" => rings::array_queue,
    "crossbeam channel" => rings::channel,
    "disruptor" => rings::disruptor,
];

const BETWEEN_PROCESSES: &[(&str, Half)] =
    &[("escapement", processes::escapement), ("iceoryx2", processes::iceoryx2)];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, kind, place, messages, core] = arguments.as_slice()
        && first == processes::ECHO
    {
        let (messages, core) = (messages.parse().expect("a number"), core.parse().expect("a number"));
        return processes::serve(kind, place, messages, core);
    }
    threads::choose_cores();
    let number = |index: usize, default: u64| {
        arguments.get(index).map_or(default, |text| text.parse().expect("a number"))
    };
    let (repetitions, messages, round_trips) = (number(0, 31), number(1, 200_000), number(2, 50_000));
    let clock = MachineClock::new();

    let mut throughput: Vec<_> = BETWEEN_THREADS.iter().map(|(name, ..)| (*name, Vec::new())).collect();
    let mut threads: Vec<_> = BETWEEN_THREADS.iter().map(|(name, ..)| (*name, Vec::new())).collect();
    let mut processes: Vec<_> = BETWEEN_PROCESSES.iter().map(|(name, ..)| (*name, Vec::new())).collect();
    for _ in 0..repetitions {
        for (row, (_, run, _)) in throughput.iter_mut().zip(BETWEEN_THREADS) {
            row.1.push(run(messages, &clock));
        }
        for (row, (_, _, run)) in threads.iter_mut().zip(BETWEEN_THREADS) {
            row.1.push(run(round_trips, &clock));
        }
        for (row, (_, run)) in processes.iter_mut().zip(BETWEEN_PROCESSES) {
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
