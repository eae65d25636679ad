//! The unit file, checked by systemd itself, and the notifications as systemd receives them.

use escapement_test_support::process::program;
use escapement_test_support::{Agent, PATIENCE, Process, escapement, in_repository, wait_for};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

/// Writes the unit file with the program under test in place of the installed one.
fn unit() -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let source = in_repository("systemd/escapement@.service");
    let text = std::fs::read_to_string(source).unwrap();
    let installed = "/usr/bin/escapement";
    assert!(text.contains(installed));
    let path = directory.path().join("escapement@.service");
    let program = program();
    let program = program.to_str().expect("the program's path is UTF-8");
    std::fs::write(&path, text.replace(installed, program)).unwrap();
    (directory, path)
}

fn systemd_analyze(arguments: &[&str], unit: &Path) -> Option<std::process::Output> {
    match Command::new("systemd-analyze").args(arguments).arg(unit).output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("the unit was not checked: systemd-analyze: {error}");
            None
        }
    }
}

#[test]
fn the_unit_is_clean() {
    let (_directory, unit) = unit();
    let Some(output) = systemd_analyze(&["verify", "--man=no"], &unit) else { return };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn a_broken_unit_is_not_clean() {
    let (_directory, unit) = unit();
    let text = std::fs::read_to_string(&unit).unwrap();
    std::fs::write(&unit, text.replace("Type=notify", "Type=notified")).unwrap();
    let Some(output) = systemd_analyze(&["verify", "--man=no"], &unit) else { return };
    assert!(!output.stderr.is_empty());
}

#[test]
fn the_unit_exposes_little() {
    let (_directory, unit) = unit();
    // The threshold is in tenths: an exposure of 1.0.
    let Some(output) = systemd_analyze(&["security", "--offline=true", "--threshold=10"], &unit) else {
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Receives messages until one has the field. Returns all messages up to it.
fn receive_until(socket: &UnixDatagram, field: &str) -> Vec<String> {
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length =
            socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no {field} in {received:?}: {error}"));
        let message = String::from_utf8(buffer[..length].to_vec()).unwrap();
        let found = message.lines().any(|line| line == field);
        received.push(message);
        if found {
            return received;
        }
    }
}

#[test]
fn ready_watchdog_and_stopping_are_said_in_this_order() {
    let agent = Agent::new(&[]);
    let path = agent.root.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = agent.command();
    // Without WATCHDOG_PID the watchdog applies to any process with this environment.
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    let process = Process::spawn(command);
    let before_ready = receive_until(&socket, "READY=1");
    assert!(!before_ready.iter().any(|message| message.contains("STOPPING")), "{before_ready:?}");
    receive_until(&socket, "WATCHDOG=1");
    receive_until(&socket, "WATCHDOG=1");
    assert_eq!(process.stop().0.code(), Some(0));
    receive_until(&socket, "STOPPING=1");
}

/// During a reload while the policy warms up, the service manager must not see the agent as armed.
#[test]
fn a_reload_does_not_say_ready_for_an_agent_that_is_not_armed() {
    let endless = [
        ("observation.low", "0.0"),
        ("observation.high", "2000.0"),
        ("warm_up.round_calls", "1000000"),
        ("warm_up.limit_ms", "600000"),
    ];
    let agent = Agent::new(&endless);
    let path = agent.root.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = agent.command();
    command.env("NOTIFY_SOCKET", &path).env("ESCAPEMENT_TEST_SLEEP", "1");
    let mut process = Process::spawn(command);
    wait_for("the control socket", || agent.directory.path().join("control.sock").exists().then_some(()));
    std::fs::write(&agent.config, "nothing that could be read [").unwrap();
    let reload = || {
        let mut reload = escapement();
        reload.args(["reload", "test", "--root"]).arg(agent.root.path()).output().unwrap()
    };
    let output =
        wait_for("the daemon to answer", || Some(reload()).filter(|told| told.status.code() != Some(75)));
    assert_eq!(output.status.code(), Some(78), "{}", String::from_utf8_lossy(&output.stderr));
    let received = receive_until(&socket, "STATUS=warming");
    let armed = ["READY=1", "RELOADING=1", "STATUS=armed"];
    assert!(
        !received.iter().flat_map(|message| message.lines()).any(|line| armed.contains(&line)),
        "{received:?}"
    );
    process.kill();
}

/// An armed agent reports the reload, and that it is ready again, even if the file was refused.
#[test]
fn a_reload_of_an_armed_agent_is_told_from_begin_to_end() {
    let agent = Agent::new(&[]);
    let path = agent.root.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = agent.command();
    command.env("NOTIFY_SOCKET", &path);
    let process = agent.start_armed_as(command);
    receive_until(&socket, "READY=1");
    std::fs::write(&agent.config, "nothing that could be read [").unwrap();
    process.signal(rustix::process::Signal::HUP);
    receive_until(&socket, "RELOADING=1");
    receive_until(&socket, "READY=1");
    assert_eq!(process.stop().0.code(), Some(0));
}
