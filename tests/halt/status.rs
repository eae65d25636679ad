//! `status` in every state of an agent, and the socket that it uses.

use crate::{code, command, halt, said};
use escapement_test_support::{Agent, PATIENCE, escapement, next_action, wait_for};
use rustix::process::Signal;
use serde_json::Value;

fn status(agent: &Agent) -> (i32, Value) {
    let output = command(agent, &["status", "--json"]);
    (code(&output), serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output))))
}

#[test]
fn status_in_every_state() {
    let agent = Agent::new(&[]);
    let mut process = agent.start_armed();
    agent.feed().commit(&[0.0; 4]);
    next_action::<2>(&mut agent.gateway());
    let armed = wait_for("the action to be counted", || {
        let (code, status) = status(&agent);
        assert_eq!((code, &status["condition"]), (0, &"armed".into()));
        (status["counters"]["actions"] == 1).then_some(status)
    });
    assert_eq!((&armed["epoch"], &armed["pid"]), (&1.into(), &process.id().into()));
    assert_eq!((&armed["backend"], &armed["latch"]), (&"null".into(), &Value::Null));
    assert_eq!(armed["last_sequence"], 1);
    let page = said(&command(&agent, &["status"]));
    for words in ["test: armed since", "backend null", "1 = 1 answered", "tick_to_action", "heartbeat"] {
        assert!(page.contains(words), "{words:?} is not in:\n{page}");
    }

    // The daemon is stopped by a signal and cannot answer. Its ring still can be read.
    process.signal(Signal::STOP);
    let (exit, stopped) = status(&agent);
    assert_eq!(
        (exit, &stopped["condition"], &stopped["state"]),
        (1, &"not answering".into(), &"armed".into())
    );
    process.signal(Signal::CONT);

    process.kill();
    let (exit, dead) = status(&agent);
    assert_eq!((exit, &dead["condition"], &dead["state"]), (1, &"dead".into(), &"armed".into()));
    assert!(said(&command(&agent, &["status"])).contains("is gone"));

    assert_eq!(agent.start_armed().stop().0.code(), Some(0));
    let (exit, stopped) = status(&agent);
    assert_eq!((exit, &stopped["condition"]), (1, &"stopped".into()));

    assert_eq!(code(&halt(&agent, "enough")), 0);
    let (exit, halted) = status(&agent);
    assert_eq!(
        (exit, &halted["condition"], &halted["latch"]["text"]),
        (80, &"halted".into(), &"enough".into())
    );
    assert!(said(&command(&agent, &["status"])).contains("enough"));
    std::fs::remove_dir_all(agent.directory.path()).unwrap();
    let mut by_config = escapement();
    by_config.args(["status", "-c"]).arg(&agent.config);
    assert_eq!(code(&by_config.output().unwrap()), 80);
}

/// A client that sends nothing, too much, or nonsense does not block other clients.
#[test]
fn the_control_socket_bounds_what_it_reads() {
    use std::io::{Read, Write};
    let agent = Agent::new(&[]);
    let process = agent.start_armed();
    let path = agent.directory.path().join("control.sock");
    let ask = |bytes: &[u8]| {
        let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // The daemon may refuse it before it has read all of it.
        let _ = stream.write_all(bytes);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    assert!(ask(b"{\"request\":\"status\"}\n").starts_with("{\"ok\":{"));
    assert!(ask(b"{\"request\":\"fly\"}\n").contains("not a request"));
    assert!(ask(b"{\"request\":\"status\",\"more\":1}\n").contains("not a request"));
    assert!(ask(b"\xff\n").contains("not a request"));
    assert!(ask(b"no end of line").contains("no whole line"));
    let flood = ask(&vec![b' '; 1 << 20]);
    assert!(flood.is_empty() || flood.contains("more than"), "{flood}");
    let _silent = std::os::unix::net::UnixStream::connect(&path).unwrap();
    assert_eq!(status(&agent).0, 0);
    assert_eq!(process.stop().0.code(), Some(0));
}
