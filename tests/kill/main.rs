//! `kill -9` of feed, daemon and tap at random moments: no committed frame is lost, doubled or torn.
//!
//! The real programs run. The judgement reads the tap's log, which is written line by line before each
//! release. Two faulty daemons then get the same judgement and must fail it: one releases before it commits,
//! and one ignores what its predecessor committed.
//!
//! `ESCAPEMENT_KILL_CYCLES` sets the number of kills (default 300; the long run is 10,000).

use escapement::clock::{Clock, MonotonicClock};
use escapement::directory::RingFile;
use escapement::gateway::check_log;
use escapement::ring::{Consumer, Producer};
use escapement::wire::{ActionHeader, ObservationHeader, Outcome, Reason};
use escapement_policy::random::SplitMix64;
use escapement_test_support::{Agent, Process, escapement, wait_for};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use zerocopy::IntoBytes;

const ACTION: usize = 2;

/// Room for everything that arrives while a tap is down, on a busy machine too.
const ROOMY: &[(&str, &str)] = &[("observation.capacity", "65536"), ("action.capacity", "65536")];

fn cycles() -> u64 {
    std::env::var("ESCAPEMENT_KILL_CYCLES").map_or(300, |text| text.parse().expect("a number of cycles"))
}

fn feed(agent: &Agent) -> Command {
    let mut command = escapement();
    command.args(["feed", "--source", "noise", "--rate", "4000", "--wait", "30", "-c"]).arg(&agent.config);
    command
}

fn tap(agent: &Agent, log: &Path) -> Command {
    let mut command = escapement();
    command.args(["tap", "--follow", "--wait", "30", "--log"]).arg(log).arg("-c").arg(&agent.config);
    command
}

/// Runs the three processes, kills one of them `kills` times, lets the survivors finish, and judges the log.
fn judge(agent: &Agent, kills: u64, seed: u64, daemon: impl Fn() -> Command) -> Result<u64, String> {
    let log: PathBuf = agent.root.path().join("actions.csv");
    let commands: [Box<dyn Fn() -> Command + '_>; 3] =
        [Box::new(daemon), Box::new(|| feed(agent)), Box::new(|| tap(agent, &log))];
    let mut processes: Vec<Process> = commands.iter().map(|command| Process::spawn(command())).collect();
    let rings = || Some((agent.attach(RingFile::Observations)?, agent.attach(RingFile::Actions)?));
    let (observations, actions) = wait_for("the rings", rings);
    wait_for("the first action", || (actions.positions().0 > 0).then_some(()));

    let mut dice = SplitMix64::new(seed);
    for _ in 0..kills {
        std::thread::sleep(Duration::from_micros(1_000 + dice.below(30_000)));
        let victim = dice.below(3) as usize;
        // The process must be gone, and its lock free, before the next one asks for the lock.
        processes[victim].kill();
        processes[victim] = Process::spawn(commands[victim]());
    }

    // The feed ends first, so that the observations end. Then everything committed must be answered, and
    // every answer read.
    processes[1].kill();
    let (committed, _) = observations.positions();
    let settled = |region: &escapement::ring::Region| {
        let (committed, released) = region.positions();
        (committed == released).then_some(())
    };
    wait_for("every observation to be released", || settled(&observations));
    wait_for("every action to be read", || settled(&actions));
    drop(processes);

    let summary = check_log(&log).map_err(|error| error.to_string())?;
    let [(_, ledger)] = summary.ledgers.as_slice() else {
        return Err(format!("{} generations of rings", summary.ledgers.len()));
    };
    let (_, released) = observations.positions();
    let account = ledger.account(committed, released);
    let right = account.holds()
        && account.observations == committed
        && account.actions == committed
        && summary.lost == 0
        && summary.contradictions == 0;
    if right { Ok(committed) } else { Err(format!("{account:?}, {summary:?}")) }
}

#[test]
fn nothing_is_lost_doubled_or_torn() {
    let agent = Agent::new(ROOMY);
    let cycles = cycles();
    match judge(&agent, cycles, 1, || agent.command()) {
        Ok(observations) => println!("{cycles} kills, {observations} observations, each answered once"),
        Err(account) => panic!("{account}"),
    }
}

/// The faults of the careless daemons.
const RELEASES_FIRST: &str = "releases_first";
const FORGETS: &str = "forgets";

#[test]
fn a_daemon_that_releases_first_is_found_out() {
    assert!(careless(RELEASES_FIRST).is_err());
}

#[test]
fn a_daemon_that_forgets_is_found_out() {
    assert!(careless(FORGETS).is_err());
}

fn careless(fault: &str) -> Result<u64, String> {
    let agent = Agent::new(ROOMY);
    // The real daemon makes the rings, and the careless one takes over.
    drop(agent.start_armed());
    judge(&agent, 60, 2, || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["careless_daemon", "--exact", "--nocapture"]);
        command.env("ESCAPEMENT_CARELESS", fault).env("ESCAPEMENT_AGENT", agent.directory.path());
        command
    })
}

/// Not a test: the code of the careless daemon. This program runs itself with this name to become it.
#[test]
fn careless_daemon() {
    let Ok(fault) = std::env::var("ESCAPEMENT_CARELESS") else { return };
    let directory = PathBuf::from(std::env::var_os("ESCAPEMENT_AGENT").unwrap());
    let (root, name) = (directory.parent().unwrap(), directory.file_name().unwrap().to_str().unwrap());
    let directory = escapement::directory::AgentDirectory::new(Some(root), name);
    let mut observations = Consumer::attach(directory.attach(RingFile::Observations).unwrap()).unwrap();
    let mut actions = Producer::attach(directory.attach(RingFile::Actions).unwrap()).unwrap();
    let payload = [0.0f32; ACTION];
    loop {
        let Some(peek) = observations.peek().unwrap() else {
            std::thread::sleep(Duration::from_micros(100));
            continue;
        };
        let mut header = ObservationHeader::default();
        peek.read(0, header.as_mut_bytes());
        let action = ActionHeader {
            sequence: header.sequence,
            position: peek.position(),
            ts_commit_ns: MonotonicClock.now().0,
            outcome: Outcome::Policy.number(),
            reason: Reason::None.number(),
            epoch: 1,
            ..ActionHeader::default()
        };
        // Long enough for a kill to hit it. In a real careless daemon the gap would be a few nanoseconds.
        let gap = || std::thread::sleep(Duration::from_micros(150));
        let mut commit = || {
            let mut claim = actions.try_claim().unwrap();
            claim.write(ActionHeader::BYTES, payload.as_bytes());
            claim.write(0, action.sealed(&payload).as_bytes());
            claim.commit();
        };
        if fault == RELEASES_FIRST {
            peek.release();
            gap();
            commit();
        } else {
            commit();
            gap();
            peek.release();
        }
    }
}
