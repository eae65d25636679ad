//! Two threads of one process, each pinned to a core of its own.

use super::figures::{RoundTrip, histogram};
use super::message::number_of;
use super::rings::{Receiver, Sender};
use core_affinity::CoreId;
use escapement::clock::{Clock, MachineClock};
use std::sync::{Barrier, OnceLock};

/// The two cores, looked up before any thread is pinned: afterwards a thread sees its own core alone.
static CORES: OnceLock<[CoreId; 2]> = OnceLock::new();

/// Chooses the first two cores that this process may run on.
pub fn choose_cores() {
    let [first, second, ..] = core_affinity::get_core_ids().expect("the list of cores")[..] else {
        panic!("two cores are needed");
    };
    CORES.set([first, second]).expect("chosen once");
}

/// The core of an end: 0 for the bench's, 1 for the other.
pub fn core(end: usize) -> CoreId {
    CORES.get().expect("cores are chosen first")[end]
}

/// Pins the calling thread.
pub fn pin(core: CoreId) {
    assert!(core_affinity::set_for_current(core), "cannot pin to core {}", core.id);
}

/// Messages per second from the first send to the last receipt.
pub fn throughput<S: Sender + Send, R: Receiver + Send>(
    ends: (S, R),
    messages: u64,
    clock: &MachineClock,
) -> f64 {
    let (mut sender, mut receiver) = ends;
    let start = Barrier::new(2);
    std::thread::scope(|scope| {
        let start = &start;
        // Each end moves to its own thread's stack, where it shares no cache line with the other.
        scope.spawn(move || {
            pin(core(1));
            start.wait();
            for number in 0..messages {
                while !sender.try_send(number) {
                    std::hint::spin_loop();
                }
            }
        });
        pin(core(0));
        start.wait();
        let began = clock.now();
        for number in 0..messages {
            let digest = loop {
                match receiver.try_receive() {
                    Some(digest) => break digest,
                    None => std::hint::spin_loop(),
                }
            };
            assert_eq!(number_of(digest), number);
        }
        messages as f64 * 1e9 / clock.now().since(began).0 as f64
    })
}

/// Sends every message back, with the digest of what came.
pub fn echo(sender: &mut impl Sender, receiver: &mut impl Receiver, messages: u64) {
    for _ in 0..messages {
        let digest = loop {
            match receiver.try_receive() {
                Some(digest) => break digest,
                None => std::hint::spin_loop(),
            }
        };
        while !sender.try_send(number_of(digest)) {
            std::hint::spin_loop();
        }
    }
}

/// Round trips of a block. The counter's step is about ten nanoseconds. Only the mean of a block can tell
/// rings apart that differ by less.
const BLOCK: u64 = 32;

/// Sends, waits for the echo, and times each round trip. The first tenth is not recorded.
pub fn ping(
    sender: &mut impl Sender,
    receiver: &mut impl Receiver,
    messages: u64,
    clock: &MachineClock,
) -> RoundTrip {
    let mut whole = histogram();
    let mut blocks = Vec::with_capacity((messages / BLOCK) as usize + 1);
    let mut block_began = clock.now();
    let mut began = block_began;
    for number in 0..messages {
        while !sender.try_send(number) {
            std::hint::spin_loop();
        }
        let digest = loop {
            match receiver.try_receive() {
                Some(digest) => break digest,
                None => std::hint::spin_loop(),
            }
        };
        assert_eq!(number_of(digest), number);
        let ended = clock.now();
        if number >= messages / 10 {
            whole.saturating_record(ended.since(began).0);
        }
        if (number + 1).is_multiple_of(BLOCK) {
            blocks.push(ended.since(block_began).0 as f64 / BLOCK as f64);
            block_began = clock.now();
        }
        // The histogram's own work is not part of the next round trip.
        began = clock.now();
    }
    RoundTrip::of(&whole, blocks)
}

/// Half round trips between two threads.
pub fn round_trip<S: Sender + Send, R: Receiver + Send>(
    there: (S, R),
    back: (S, R),
    messages: u64,
    clock: &MachineClock,
) -> RoundTrip {
    let (mut ping_sender, mut pong_receiver) = there;
    let (mut pong_sender, mut ping_receiver) = back;
    let start = Barrier::new(2);
    std::thread::scope(|scope| {
        let start = &start;
        scope.spawn(move || {
            pin(core(1));
            start.wait();
            echo(&mut pong_sender, &mut pong_receiver, messages);
        });
        pin(core(0));
        start.wait();
        ping(&mut ping_sender, &mut ping_receiver, messages, clock)
    })
}
