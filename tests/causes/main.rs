//! Attribution in the real program: each test causes misses itself and checks the cause that the daemon
//! names.
//!
//! The machine causes misses too: other processes and the hypervisor take the engine's core. The kernel's
//! statistics of the engine's thread (`schedstat`, which the daemon does not read) show which injections were
//! disturbed in this way, and the hypervisor's account in the verdict's own evidence shows the rest. Those
//! are counted, printed and repeated, never dropped silently. If the test may, it gives the engine's thread a
//! real-time priority, so that ordinary processes do not disturb it.
//!
//! `ESCAPEMENT_LONG=1` makes 100 misses of each kind. Otherwise ten right ones are enough, and a wrong one
//! among them makes it 100. 99 in 100 must be right in both cases.
//!
//! | module | holds |
//! |---|---|
//! | `own_time` | policies that are slow, and cores that stand still |
//! | `natural` | misses that the machine causes by itself |

mod natural;
mod own_time;

use escapement::agent_files::{ControlRequest, ask_daemon};
use escapement::directory::RingFile;
use escapement::os::pin_to;
use escapement_test_support::peers::now_ns;
use escapement_test_support::{Agent, PATIENCE, Process, TestFeed, long_runs, wait_for};
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The inference deadline. `MAX_AGE` is the maximum age, in the tests that set one.
const LIMIT: Duration = Duration::from_millis(2);
const MAX_AGE: Duration = Duration::from_millis(10);

const KEYS: &[(&str, &str)] = &[
    ("deadline.inference_us", "2000"),
    ("deadline.on_miss", "\"safe_default\""),
    ("action.on_full", "\"drop\""),
    ("action.capacity", "64"),
];

/// How many misses settle a cause: 99 in 100 must be right. A short run stops after ten right ones.
const JUDGED: u64 = 100;
const ENOUGH: u64 = 10;

/// An agent whose policy obeys its features: sleep (us), spin (us), touch new memory (MB).
struct Rig {
    agent: Agent,
    process: Process,
    feed: TestFeed,
    /// The kernel's statistics of the engine's thread, with the time that it has waited for its core.
    schedstat: std::path::PathBuf,
    /// The deadline of the injected misses.
    limit: Duration,
}

impl Rig {
    fn new(more: &[(&str, &str)], environment: &[(&str, &str)]) -> Self {
        let obeys = [("ESCAPEMENT_TEST_SLEEP", "1"), ("ESCAPEMENT_TEST_LABOUR", "1")];
        Self::with_policy(more, &[&obeys, environment].concat())
    }

    /// An agent with the policy that the keys name, misbehaving as the environment says.
    fn with_policy(more: &[(&str, &str)], environment: &[(&str, &str)]) -> Self {
        let agent = Agent::new(&[KEYS, more].concat());
        let mut command = agent.command();
        command.envs(environment.iter().copied());
        Self::of(agent, command)
    }

    fn of(agent: Agent, command: Command) -> Self {
        let process = agent.start_armed_as(command);
        let tasks = format!("/proc/{}/task", process.id());
        let schedstat = wait_for("the engine's thread", || {
            let tasks = std::fs::read_dir(&tasks).ok()?.filter_map(Result::ok);
            let mut engine = tasks.map(|task| task.path()).filter(|task| {
                std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "engine")
            });
            engine.next().map(|task| task.join("schedstat"))
        });
        let engine = schedstat.parent().and_then(|task| task.file_name()?.to_str()?.parse().ok());
        if may_use_real_time() {
            take_real_time_priority(engine.expect("a thread's directory is its number"), 5);
        }
        let feed = agent.feed();
        Self { agent, process, feed, schedstat, limit: LIMIT }
    }

    fn drain(&self) {
        let mut gateway = self.agent.gateway();
        while let Ok(Some(action)) = gateway.peek() {
            action.release();
        }
    }

    /// Returns how long the engine's thread has waited for its core so far.
    fn waited(&self) -> Duration {
        let text = std::fs::read_to_string(&self.schedstat).expect("the engine's thread is there");
        let nanos = text.split_whitespace().nth(1).and_then(|word| word.parse().ok());
        Duration::from_nanos(nanos.expect("the second number of schedstat"))
    }

    fn status(&self) -> Value {
        let answer =
            ask_daemon::<serde_json::Value>(&self.agent.directory, &ControlRequest::Status {}, PATIENCE);
        answer.expect("the daemon answers")
    }

    /// Returns what the policy's calls took at the end of the warm-up.
    fn warm_up(&self) -> Value {
        wait_for("the report of the warm-up", || {
            let latencies = self.status()["warm_up"]["inference_ns"].clone();
            (!latencies.is_null()).then_some(latencies)
        })
    }

    fn misses(&self) -> Value {
        self.status()["misses"].clone()
    }

    /// Waits for the verdict on the observation. Returns `None` if it was answered in time.
    fn verdict(&self, sequence: u64) -> Option<Value> {
        let actions = self.agent.attach(RingFile::Observations).expect("the ring is there");
        wait_for("the observation to be released", || {
            let (committed, released) = actions.positions();
            (committed == released).then_some(())
        });
        let begun = Instant::now();
        loop {
            let misses = self.misses();
            let recent = misses["recent"].as_array().expect("a list").iter();
            if let Some(miss) = recent.rev().find(|miss| miss["sequence"] == sequence) {
                return Some(miss.clone());
            }
            // The supervisor has looked many times by then, on a busy machine too.
            if begun.elapsed() > Duration::from_millis(400) {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Results of the injections of one cause.
#[derive(Debug, Default)]
struct Tally {
    right: u64,
    wrong: Vec<String>,
    /// Injections that the machine disturbed, by the cause that was found.
    disturbed: BTreeMap<String, u64>,
    /// Injections that led to no miss, because they came at the wrong time.
    in_time: u64,
}

impl Tally {
    /// Causes misses until enough of them were undisturbed. `inject` returns the sequence number of the
    /// observation that must miss. `takes_the_core` says that the wait for the core is the injection itself,
    /// and no disturbance.
    fn of(rig: &mut Rig, cause: &str, takes_the_core: bool, mut inject: impl FnMut(&mut Rig) -> u64) -> Self {
        let mut tally = Self::default();
        for _ in 0..JUDGED * 20 {
            if tally.is_settled() {
                break;
            }
            let waited = rig.waited();
            let sequence = inject(rig);
            let Some(miss) = rig.verdict(sequence) else {
                tally.in_time += 1;
                rig.drain();
                continue;
            };
            let waited = rig.waited().saturating_sub(waited);
            let found = miss["cause"].as_str().expect("a name").to_owned();
            let evidence = |part: &str| miss["evidence"][part].as_u64().unwrap_or(0);
            let taken = Duration::from_nanos(evidence("platform_ns").max(evidence("stolen_nearby_ns")));
            let disturbed = if takes_the_core {
                waited < rig.limit
            } else {
                waited > rig.limit / 2 || taken > rig.limit / 10
            };
            if disturbed {
                *tally.disturbed.entry(found).or_default() += 1;
            } else if found == cause {
                tally.right += 1;
            } else {
                tally.wrong.push(format!("{found}, waited {waited:?}: {miss}"));
            }
            rig.drain();
        }
        println!(
            "{cause}: {} right, {} wrong, {} in time, disturbed by the machine: {:?}",
            tally.right,
            tally.wrong.len(),
            tally.in_time,
            tally.disturbed
        );
        tally
    }

    /// Whether enough misses were judged. One that is wrong makes a short run as long as a long one.
    fn is_settled(&self) -> bool {
        let wrong = self.wrong.len() as u64;
        self.right + wrong >= if long_runs() || wrong > 0 { JUDGED } else { ENOUGH }
    }

    fn holds(&self) -> bool {
        self.is_settled() && self.right * 100 >= (self.right + self.wrong.len() as u64) * 99
    }

    fn must_hold(&self) {
        assert!(self.holds(), "{} right; wrong:\n{}", self.right, self.wrong.join("\n"));
    }
}

/// Commits one observation with these features.
fn one(rig: &mut Rig, features: [f32; 3]) -> u64 {
    let sequence = rig.feed.next_sequence();
    rig.feed.commit(&[features[0], features[1], features[2], 0.0]);
    sequence
}

#[test]
fn memory_that_was_not_there() {
    let mut rig = Rig::new(&[], &[]);
    Tally::of(&mut rig, "page_fault", false, |rig| one(rig, [0.0, 0.0, 32.0])).must_hold();
}

#[test]
fn a_feed_that_stamps_and_commits_late() {
    let mut rig = Rig::new(&[("deadline.max_age_us", "10000")], &[]);
    let stall = |rig: &mut Rig| {
        let (sequence, stamped) = (rig.feed.next_sequence(), now_ns());
        std::thread::sleep(3 * MAX_AGE);
        rig.feed.commit_stamped(&[0.0; 4], stamped);
        sequence
    };
    Tally::of(&mut rig, "feed_stalled", false, stall).must_hold();
}

#[test]
fn a_feed_that_is_stopped_between_stamp_and_commit() {
    let mut rig = Rig::new(&[("deadline.max_age_us", "10000")], &[]);
    let directory = rig.agent.directory.path().to_owned();
    // Each stopped feed is a new process, which takes over the ring from the previous one.
    let stop = |rig: &mut Rig| {
        let sequence = rig.feed.next_sequence();
        rig.feed.skip_sequence(1);
        let mut feed = Command::new(std::env::current_exe().expect("this program has a path"));
        feed.args(["stopping_feed", "--exact", "--nocapture"]);
        feed.env("ESCAPEMENT_AGENT", &directory).env("ESCAPEMENT_SEQUENCE", sequence.to_string());
        let feed = Process::spawn(feed);
        let stat = format!("/proc/{}/stat", feed.id());
        wait_for("the feed to be stopped", || {
            let stat = std::fs::read_to_string(&stat).ok()?;
            stat.rsplit(") ").next()?.starts_with('T').then_some(())
        });
        std::thread::sleep(3 * MAX_AGE);
        feed.signal(rustix::process::Signal::CONT);
        assert!(feed.wait().0.success());
        rig.feed = rig.agent.feed_from(sequence + 1);
        sequence
    };
    Tally::of(&mut rig, "feed_stalled", false, stop).must_hold();
}

/// Not a test: the code of the feed that stops itself. This program runs itself with this name to become it.
#[test]
fn stopping_feed() {
    let Some(directory) = std::env::var_os("ESCAPEMENT_AGENT") else { return };
    let directory = std::path::PathBuf::from(directory);
    let (root, name) = (directory.parent().unwrap(), directory.file_name().unwrap().to_str().unwrap());
    let directory = escapement::directory::AgentDirectory::new(Some(root), name);
    let sequence = std::env::var("ESCAPEMENT_SEQUENCE").unwrap().parse().unwrap();
    let region = directory.attach(RingFile::Observations).unwrap();
    let mut feed = TestFeed::new(region, sequence);
    let stamped = now_ns();
    // The signal goes to this thread. A signal to the process may stop another thread first, while this one
    // continues for a moment.
    // SAFETY: raise takes a number and touches no memory.
    assert_eq!(unsafe { libc::raise(libc::SIGSTOP) }, 0);
    feed.commit_stamped(&[0.0; 4], stamped);
}

#[test]
fn observations_that_wait_behind_others() {
    let mut rig = Rig::new(&[("deadline.max_age_us", "10000")], &[]);
    // Each takes 1 ms, within its deadline. The sixteenth is 15 ms old when it is peeked.
    let burst = |rig: &mut Rig| {
        loop {
            let begun = Instant::now();
            let last = (0..16).map(|_| one(rig, [0.0, 1_000.0, 0.0])).last().expect("sixteen");
            // Where the machine stopped this process between stamp and commit, the feed did stall.
            if begun.elapsed() < Duration::from_millis(1) {
                return last;
            }
            rig.verdict(last);
            rig.drain();
        }
    };
    Tally::of(&mut rig, "queued", false, burst).must_hold();
}

#[test]
fn a_gateway_that_does_not_drain() {
    let mut rig = Rig::new(&[], &[]);
    let wanted = if long_runs() { JUDGED } else { ENOUGH };
    for _ in 0..64 + wanted {
        one(&mut rig, [0.0; 3]);
    }
    let full = || rig.misses()["by_cause"]["action_ring_full"].as_u64().filter(|full| *full >= wanted);
    assert_eq!(wait_for("the misses", full), wanted);
    println!("action_ring_full: {wanted} right, {:?}", rig.misses()["by_cause"]);
}

/// Runs a thread that takes the engine's core for 8 ms each time `body` sets the flag.
fn with_competitor(core: usize, body: impl FnOnce(&AtomicBool)) {
    let (go, over) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin_to(core).expect("the core is there");
            take_real_time_priority(0, 10);
            while !over.load(Ordering::Relaxed) {
                if go.swap(false, Ordering::Relaxed) {
                    let begun = Instant::now();
                    while begun.elapsed() < Duration::from_millis(8) {
                        std::hint::spin_loop();
                    }
                }
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        body(&go);
        over.store(true, Ordering::Relaxed);
    });
}

/// Gives a thread (0: the calling one) a real-time priority, so that it preempts ordinary threads and those
/// of a lower priority.
fn take_real_time_priority(thread: libc::pid_t, priority: i32) {
    let parameter = libc::sched_param { sched_priority: priority };
    // SAFETY: the parameter is a live struct of the type that the call reads.
    let result = unsafe { libc::sched_setscheduler(thread, libc::SCHED_FIFO, &raw const parameter) };
    assert_eq!(result, 0, "SCHED_FIFO: {}", std::io::Error::last_os_error());
}

fn may_use_real_time() -> bool {
    rustix::process::geteuid().is_root()
}

/// Injects a competitor during an inference that would otherwise be in time.
fn compete(core: usize, environment: &[(&str, &str)]) -> Tally {
    let mut rig = Rig::new(&[("engine.core", &core.to_string())], environment);
    let mut tally = Tally::default();
    with_competitor(core, |go| {
        tally = Tally::of(&mut rig, "core_taken", true, |rig| {
            let sequence = one(rig, [0.0, 1_500.0, 0.0]);
            std::thread::sleep(Duration::from_micros(300));
            go.store(true, Ordering::Relaxed);
            sequence
        });
    });
    tally
}

fn last_core() -> usize {
    std::thread::available_parallelism().expect("cores").get() - 1
}

#[test]
fn a_competitor_on_the_engines_core() {
    if !may_use_real_time() {
        return eprintln!("skipped: a competitor that takes the core for certain needs SCHED_FIFO");
    }
    compete(last_core(), &[]).must_hold();
}

#[test]
fn evidence_of_another_time_is_found_out() {
    if !may_use_real_time() {
        return eprintln!("skipped: a competitor that takes the core for certain needs SCHED_FIFO");
    }
    let tally = compete(last_core(), &[("ESCAPEMENT_TEST_SKEW_NS", "20000000")]);
    assert!(!tally.wrong.is_empty() && !tally.holds(), "{tally:?}");
}
