//! A halt that somebody tries to lead elsewhere: by a forged run file, or by a state directory where no latch
//! can be written.

use super::{audit, code, command, halted, latch, said, state_directory};
use escapement::agent_files::RunFile;
use escapement::wire::Reason;
use escapement_test_support::{Agent, Process, escapement};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};

/// `halt` with the agent's configuration.
fn halt_configured(agent: &Agent) -> Output {
    let mut command = escapement();
    command.args(["halt", "--reason", "venue is down", "--config"]).arg(&agent.config);
    command.output().expect("the program starts")
}

/// Does what a peer with the group's rights can do in a directory that the group may write: another process
/// takes the daemon's place in `daemon.json`, and another directory that of its state. Returns that process
/// and directory.
fn forge_run_file(agent: &Agent) -> (std::process::Child, std::path::PathBuf) {
    let directory = agent.directory.path();
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o770)).expect("it is ours");
    let victim = Command::new("sleep").arg("60").stdout(Stdio::null()).spawn().expect("there is `sleep`");
    let elsewhere = agent.root.path().join("elsewhere/test");
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", victim.id())).expect("it runs");
    let started = stat.rsplit(") ").next().and_then(|fields| fields.split(' ').nth(19)).expect("22 fields");
    let started = started.parse().expect("a number");
    let forged =
        RunFile { pid: victim.id(), started, state: elsewhere.clone(), config: agent.config.clone() };
    let text = serde_json::to_vec(&forged).expect("it has strings and numbers only");
    std::fs::write(directory.join("daemon.json"), text).expect("it can be written");
    (victim, elsewhere)
}

#[test]
fn a_forged_run_file_diverts_no_halt() {
    // The daemon writes its run file anew once a second, and would undo the forgery in the middle of the
    // test.
    let agent = Agent::new(&[("agent.on_files_lost", "\"report\"")]);
    let process = agent.start_armed();
    let (mut victim, elsewhere) = forge_run_file(&agent);
    let output = halt_configured(&agent);
    assert_eq!(code(&output), 0, "{}", said(&output));
    let (status, stderr) = process.wait();
    assert_eq!(status.code(), Some(80), "{stderr}");
    assert!(latch(&agent).exists(), "the latch lies where the configuration says");
    assert!(!elsewhere.exists(), "nothing was made where the forged file says");
    assert_eq!(agent.state(), halted(Reason::Operator));
    assert!(victim.try_wait().expect("it is our child").is_none(), "the forged process was left alone");
    victim.kill().expect("it is our child");
    assert_eq!(victim.wait().expect("it ends").signal(), Some(9));
}

#[test]
fn by_name_alone_a_forged_run_file_is_not_believed() {
    let agent = Agent::new(&[]);
    agent.start_armed().stop();
    let (mut victim, elsewhere) = forge_run_file(&agent);
    let before = audit(&agent).len();
    for order in ["halt", "rearm"] {
        let output = command(&agent, &[order, "--reason", "by name"]);
        assert_eq!(code(&output), 77, "{}", said(&output));
        assert!(said(&output).contains("--config FILE"), "{}", said(&output));
    }
    assert!(!elsewhere.exists() && !latch(&agent).exists());
    assert_eq!(audit(&agent).len(), before);
    assert!(victim.try_wait().expect("it is our child").is_none(), "the forged process was left alone");
    victim.kill().and_then(|()| victim.wait()).expect("it is our child");
}

#[test]
fn a_halt_that_nothing_keeps_says_so() {
    let agent = Agent::new(&[]);
    agent.start_armed().stop();
    std::fs::remove_dir_all(state_directory(&agent)).expect("it is ours");
    std::fs::write(state_directory(&agent), "in the way").expect("its parent is there");
    let output = halt_configured(&agent);
    assert_eq!(code(&output), 83, "{}", said(&output));
    assert!(said(&output).contains("NO LATCH KEEPS THE HALT"), "{}", said(&output));
    assert_eq!(agent.state(), halted(Reason::Operator), "the state word holds all the same");
    let (status, stderr) = Process::spawn(agent.command()).wait();
    assert_eq!(status.code(), Some(75), "without a place for the latch nothing starts: {stderr}");
}

/// A latch with a second name could be somebody else's file.
#[test]
fn links_in_the_state_directory_are_refused() {
    let agent = Agent::new(&[]);
    agent.start_armed().stop();
    let precious = agent.root.path().join("precious");
    std::fs::write(&precious, "precious\n").expect("the directory is ours");
    let file = state_directory(&agent).join("audit.jsonl");
    for link in [std::os::unix::fs::symlink, std::fs::hard_link] {
        std::fs::remove_file(&file).expect("it is there");
        link(&precious, &file).expect("it can be made");
        let output = halt_configured(&agent);
        assert_ne!(code(&output), 0, "{}", said(&output));
        assert_eq!(std::fs::read_to_string(&precious).expect("it is there"), "precious\n");
    }
}
