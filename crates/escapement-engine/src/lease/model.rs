//! The lease and the mailbox under loom: every interleaving, and every value that the memory model lets a
//! load return.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test --release --target-dir target/loom \
//!     -p escapement-engine --lib lease::model
//! ```
//! The bound on preemptions is 2 unless `LOOM_MAX_PREEMPTIONS` is set; `ESCAPEMENT_LOOM_FULL=1` lifts it.
//!
//! The leased value stands for the engine's responder: a list of commits, and the tick in flight. A bug
//! planted in each protocol shows that the model can fail.

use super::*;
use escapement_ring::clock::Nanos;
use escapement_ring::sync::Ordering;
use loom::thread;

/// What was committed, by which side, in order; and the tick that is to be answered.
#[derive(Debug, Default)]
struct Answers {
    in_flight: u64,
    committed: Vec<(u64, Side)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Engine,
    Guard,
}

fn check(scenario: impl Fn() + Sync + Send + 'static) {
    escapement_ring::sync::explore(2, scenario);
}

/// How the holder gets the value again: as shipped, or with a planted bug.
type TakeBack = fn(&mut LeaseHolder<Answers>) -> bool;
type Recover = fn(&mut LeaseHolder<Answers>) -> bool;

/// Runs `ticks` ticks of an engine against a guard that looks `looks` times. For this guard every deadline
/// has passed.
fn race(ticks: u64, looks: usize, take_back: TakeBack, recover: Recover) {
    let (mut holder, mut claimant) = lease(Answers::default());
    let guard = thread::spawn(move || {
        for _ in 0..looks {
            match claimant.state() {
                LeaseState::Granted { number, deadline } => {
                    let taken = claimant.claim(number, |answers| {
                        assert_eq!(
                            answers.in_flight, number,
                            "the claimed lease is the tick that was looked at"
                        );
                        answers.committed.push((answers.in_flight, Side::Guard));
                    });
                    // Only for a lease that was claimed is it certain that the deadline belongs to it.
                    assert!(taken.is_none() || deadline == Nanos(100 * number));
                }
                LeaseState::Closed => return,
                LeaseState::Held | LeaseState::Returned { .. } => thread::yield_now(),
            }
        }
    });
    for tick in 1..=ticks {
        holder.with(|answers| answers.in_flight = tick).expect("held between ticks");
        holder.grant(Nanos(100 * tick));
        assert!(holder.with(|_| ()).is_none(), "the holder cannot reach a granted value");
        if take_back(&mut holder) {
            holder.with(|answers| answers.committed.push((tick, Side::Engine))).expect("taken back");
        } else {
            while !recover(&mut holder) {
                thread::yield_now();
            }
        }
        let last = holder.with(|answers| answers.committed.last().copied()).expect("held again");
        assert_eq!(last.map(|(tick, _)| tick), Some(tick), "no tick is lost, and the order is kept");
    }
    let committed = holder.with(|answers| answers.committed.len() as u64).expect("held");
    assert_eq!(committed, ticks, "one commit for each tick");
    drop(holder);
    guard.join().expect("the guard");
}

#[test]
fn a_tick_is_committed_exactly_once_if_either_side_is_stopped_anywhere() {
    check(|| race(3, 4, LeaseHolder::take_back, LeaseHolder::recover));
}

#[test]
fn a_guard_that_was_stopped_cannot_claim_a_later_tick() {
    check(|| race(4, 1, LeaseHolder::take_back, LeaseHolder::recover));
}

/// The engine does not come back until the guard has gone, like a policy that hangs: the guard's one commit
/// stands.
#[test]
fn a_hung_engine_is_answered_for_once() {
    check(|| {
        let (mut holder, mut claimant) = lease(Answers::default());
        holder.with(|answers| answers.in_flight = 1).expect("held");
        holder.grant(Nanos(100));
        let guard = thread::spawn(move || {
            let mut answered = 0;
            for _ in 0..3 {
                if let LeaseState::Granted { number, .. } = claimant.state() {
                    answered += u32::from(
                        claimant.claim(number, |answers| answers.committed.push((1, Side::Guard))).is_some(),
                    );
                }
            }
            assert_eq!((answered, claimant.state()), (1, LeaseState::Returned { number: 1 }));
        });
        guard.join().expect("the guard");
        assert!(!holder.take_back(), "the guard has claimed the lease");
        assert!(holder.recover());
        assert_eq!(holder.with(|answers| answers.committed.clone()), Some(vec![(1, Side::Guard)]));
    });
}

#[test]
#[should_panic]
fn planted_bug_a_holder_that_does_not_ask_turns_the_model_red() {
    check(|| race(2, 3, take_back_unasked, LeaseHolder::recover));
}

#[test]
#[should_panic]
fn planted_bug_a_holder_that_does_not_wait_for_the_deputy_turns_the_model_red() {
    check(|| race(2, 3, LeaseHolder::take_back, recover_at_once));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn planted_bug_a_relaxed_return_turns_the_model_red() {
    check(|| race(2, 3, LeaseHolder::take_back, recover_relaxed));
}

/// Sends two sets of settings, each consistent in itself, to an engine that looks between ticks.
fn reloads(consistent: fn(&mut Receiver<[u64; 2]>, &mut [u64; 2]) -> bool) {
    let (mut sender, mut receiver) = mailbox::<[u64; 2]>();
    let supervisor = thread::spawn(move || {
        let mut collected = Vec::new();
        let mut next = 1;
        for _ in 0..4 {
            collected.extend(sender.collect().map(|old| *old));
            if next <= 2 && sender.offer(Box::new([next; 2])).is_ok() {
                next += 1;
            }
            thread::yield_now();
        }
        (sender, collected, next)
    });
    let mut current = [0; 2];
    let mut revisions = vec![0];
    for _ in 0..3 {
        if receiver.is_offered() && consistent(&mut receiver, &mut current) {
            revisions.push(current[0]);
        }
        assert_eq!(current[0], current[1], "no tick sees half of an old set and half of a new one");
        thread::yield_now();
    }
    let (mut sender, mut collected, offered) = supervisor.join().expect("the supervisor");
    receiver.receive(|set| std::mem::swap(set, &mut current));
    collected.extend(sender.collect().map(|old| *old));
    assert!(revisions.is_sorted_by(|earlier, later| earlier < later), "{revisions:?}");
    assert!(collected.iter().all(|old| old[0] == old[1]));
    assert_eq!(current[0], offered - 1, "the last set offered is in use");
    assert_eq!(collected.len() as u64, offered - 1, "every box came back");
}

#[test]
fn a_set_of_settings_is_taken_whole_and_the_old_one_comes_back() {
    check(|| reloads(|receiver, current| receiver.receive(|set| std::mem::swap(set, current)).is_some()));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn planted_bug_a_receiver_that_does_not_acquire_turns_the_model_red() {
    check(|| reloads(receive_relaxed));
}

// The planted bugs.

fn take_back_unasked(holder: &mut LeaseHolder<Answers>) -> bool {
    holder.hold();
    true
}

fn recover_at_once(holder: &mut LeaseHolder<Answers>) -> bool {
    holder.hold();
    true
}

fn recover_relaxed(holder: &mut LeaseHolder<Answers>) -> bool {
    holder.recover_by(Ordering::Relaxed)
}

fn receive_relaxed(receiver: &mut Receiver<[u64; 2]>, current: &mut [u64; 2]) -> bool {
    receiver.receive_by(Ordering::Relaxed, |set| std::mem::swap(set, current)).is_some()
}
