//! The programs in `examples/`, run against a real agent.
#![cfg(not(loom))]

use escapement_test_support::Agent;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const COUNT: u64 = 200;

fn in_package(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The path of an example in Rust. `cargo test` builds it. A run that names one test program does not, and
/// then it is built here, with the same profile.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let profile = test.ancestors().nth(2).expect("a test is in PROFILE/deps");
    let program = profile.join("examples").join(name);
    if !program.is_file() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--example", name]).current_dir(env!("CARGO_MANIFEST_DIR"));
        build.env("CARGO_TARGET_DIR", profile.parent().expect("profiles lie in the target folder"));
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo runs").success(), "{name} does not build");
    }
    program
}

/// An example in C, compiled; `None` without a C compiler.
fn compiled(name: &str, directory: &Path) -> Option<PathBuf> {
    let compiler =
        ["cc", "gcc", "clang"].into_iter().find(|it| Command::new(it).arg("--version").output().is_ok());
    let Some(compiler) = compiler else {
        println!("SKIPPED: no C compiler on this machine");
        return None;
    };
    let program = directory.join(format!("c-{name}"));
    let output = Command::new(compiler)
        .args(["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(in_package("include"))
        .arg(in_package(&format!("examples/{name}.c")))
        .arg("-o")
        .arg(&program)
        .output()
        .expect("the compiler runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(program)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat()).into_owned()
}

/// Runs a feed and a gateway beside an armed agent. Returns what both printed.
fn run_beside_an_agent(feed: (&Path, &[&str]), gateway: (&Path, &[&str])) -> (String, String) {
    let agent = Agent::new(&[]);
    let mut daemon = agent.start_armed();
    let directory = agent.directory.path();
    let count = COUNT.to_string();
    let mut command = Command::new(gateway.0);
    command.arg(directory).arg(&count).args(gateway.1);
    let gateway = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let gateway = gateway.expect("the gateway starts");
    let fed = Command::new(feed.0).arg(directory).arg(&count).args(feed.1).output().expect("the feed runs");
    assert!(fed.status.success(), "{}", text(&fed));
    let taken = gateway.wait_with_output().expect("the gateway ends");
    assert!(taken.status.success(), "{}", text(&taken));
    daemon.kill();
    (text(&fed), text(&taken))
}

#[test]
fn feed_and_gateway_in_rust_run_an_agent() {
    let (feed, gateway) = (example("feed"), example("gateway"));
    let (fed, taken) = run_beside_an_agent((&feed, &[]), (&gateway, &[]));
    assert_eq!(fed, format!("{COUNT} observations published\n"));
    // Its heartbeat timeout is short: on a busy machine the agent may be silent for longer, and then it
    // withholds.
    let numbers: Vec<u64> = taken.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert_eq!(numbers.iter().sum::<u64>(), COUNT, "{taken}");
}

#[test]
fn feed_and_gateway_in_c_run_an_agent() {
    let directory = tempfile::tempdir().expect("a directory");
    let Some(producer) = compiled("producer", directory.path()) else { return };
    let Some(gateway) = compiled("gateway", directory.path()) else { return };
    // The producer takes the first sequence number, the gateway limits that no busy machine exceeds.
    let (_, taken) = run_beside_an_agent((&producer, &["1"]), (&gateway, &["60000", "60000"]));
    assert_eq!(taken, format!("{COUNT} actions to send, 0 withheld\n"));
}

#[test]
fn a_policy_runs_inside_another_program() {
    let run = |bundle: &Path| Command::new(example("embed")).arg(bundle).output().expect("it runs");
    let output = run(&in_package("config/example.bundle"));
    assert!(output.status.success(), "{}", text(&output));
    // On a busy machine a call may miss its deadline; then the program says that there is no action.
    let said = text(&output);
    assert!(said.starts_with("backend native\n"), "{said}");
    assert!(["\naction [", "\nno action: "].iter().any(|line| said.contains(line)), "{said}");

    let missing = run(Path::new("no/such.bundle"));
    assert!(!missing.status.success());
    assert!(text(&missing).starts_with("embed: no/such.bundle"), "{}", text(&missing));
}

#[test]
fn examples_say_how_they_are_used() {
    for name in ["embed", "feed", "gateway"] {
        let output = Command::new(example(name)).output().expect("it runs");
        assert_eq!(output.status.code(), Some(64), "{name}");
        assert!(text(&output).starts_with(&format!("usage: {name} ")), "{}", text(&output));
    }
}

/// A second gateway is refused, and told the first one's process id.
#[test]
fn a_second_gateway_is_refused() {
    let agent = Agent::new(&[]);
    let _daemon = agent.start_armed();
    let _role = agent.directory.acquire(escapement::directory::Role::Tap).expect("the role is free");
    let output =
        Command::new(example("gateway")).arg(agent.directory.path()).arg("1").output().expect("it runs");
    assert!(!output.status.success());
    assert!(text(&output).contains(&format!("(pid {})", std::process::id())), "{}", text(&output));
}

/// A feed that stamps the wall clock is refused without any age limit, counted, and named in the log.
#[test]
fn a_feed_that_stamps_the_wall_clock_is_refused_and_named() {
    use escapement::clock::wall_clock_ns;
    use escapement::wire::{Outcome, Reason};
    let agent = Agent::new(&[]);
    let daemon = agent.start_armed();
    let (mut feed, mut gateway) = (agent.feed(), agent.gateway());
    let mut verdict = || {
        let (action, _) = escapement_test_support::next_action::<2>(&mut gateway);
        (action.outcome, action.reason)
    };
    feed.commit_stamped(&[0.0; 4], wall_clock_ns() - 86_400_000_000_000);
    let refused = (Outcome::SafeDefault.number(), Reason::StampedAhead.number());
    assert_eq!(verdict(), refused, "a stamp of yesterday's wall clock");
    // The neighbour: the next observation, with the right clock.
    feed.commit(&[0.0; 4]);
    assert_eq!(verdict(), (Outcome::Policy.number(), Reason::None.number()));
    let (status, log) = daemon.stop();
    assert!(status.success(), "{log}");
    assert!(log.contains("stamped ahead of the clock") && log.contains("CLOCK_REALTIME"), "{log}");
    assert_eq!(agent.status()["counters"]["outcomes"]["stamped_ahead"], 1);
}

/// How often the tests of a gateway in trouble are repeated.
fn rounds() -> u64 {
    if std::env::var_os("ESCAPEMENT_LONG").is_some() { 20 } else { 1 }
}

fn publish(producer: &Path, agent: &Agent, first: u64) {
    let arguments = [COUNT.to_string(), first.to_string()];
    let fed = Command::new(producer).arg(agent.directory.path()).args(arguments).output();
    let fed = fed.expect("the feed runs");
    assert!(fed.status.success(), "{}", text(&fed));
}

/// The command of a gateway in C that takes `COUNT` actions, at most two seconds old.
fn gateway_of(gateway: &Path, agent: &Agent) -> Command {
    let mut command = Command::new(gateway);
    command.arg(agent.directory.path()).args([&COUNT.to_string(), "60000", "2000"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A gateway that was stopped for three seconds sends nothing of that time, and goes on with what is new.
#[test]
fn a_stopped_gateway_in_c_sends_nothing_of_the_past() {
    let directory = tempfile::tempdir().expect("a directory");
    let Some(producer) = compiled("producer", directory.path()) else { return };
    let Some(gateway) = compiled("gateway", directory.path()) else { return };
    let agent = Agent::new(&[]);
    let mut daemon = agent.start_armed();
    for round in 0..rounds() {
        let child = gateway_of(&gateway, &agent).spawn().expect("the gateway starts");
        let signal = |name: &str| {
            let sent = Command::new("kill").args([name, &child.id().to_string()]).status();
            assert!(sent.expect("kill runs").success());
        };
        signal("-STOP");
        publish(&producer, &agent, 1 + 2 * round * COUNT);
        std::thread::sleep(std::time::Duration::from_secs(3));
        signal("-CONT");
        let output = child.wait_with_output().expect("the gateway ends");
        assert_eq!(text(&output), format!("0 actions to send, {COUNT} withheld\ntoo_old {COUNT}\n"));
        // The neighbour: the same gateway, not stopped.
        let child = gateway_of(&gateway, &agent).spawn().expect("the gateway starts");
        publish(&producer, &agent, 1 + (2 * round + 1) * COUNT);
        let output = child.wait_with_output().expect("the gateway ends");
        assert_eq!(text(&output), format!("{COUNT} actions to send, 0 withheld\n"));
    }
    daemon.kill();
}

/// After a restart of the agent nothing of its last life is sent, however young it is.
#[test]
fn a_gateway_in_c_sends_nothing_of_an_earlier_epoch() {
    let directory = tempfile::tempdir().expect("a directory");
    let Some(producer) = compiled("producer", directory.path()) else { return };
    let Some(gateway) = compiled("gateway", directory.path()) else { return };
    for _ in 0..rounds() {
        let agent = Agent::new(&[]);
        let mut daemon = agent.start_armed();
        publish(&producer, &agent, 1);
        let actions = agent.directory.attach(escapement::directory::RingFile::Actions).expect("a ring");
        while actions.positions().0 < COUNT {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        daemon.kill();
        let mut daemon = agent.start_armed();
        let mut command = Command::new(&gateway);
        command.arg(agent.directory.path()).args([&COUNT.to_string(), "60000", "3600000"]);
        let output = command.output().expect("the gateway runs");
        assert_eq!(text(&output), format!("0 actions to send, {COUNT} withheld\npast_epoch {COUNT}\n"));
        let child = gateway_of(&gateway, &agent).spawn().expect("the gateway starts");
        publish(&producer, &agent, 1 + COUNT);
        let output = child.wait_with_output().expect("the gateway ends");
        assert_eq!(text(&output), format!("{COUNT} actions to send, 0 withheld\n"));
        daemon.kill();
    }
}
