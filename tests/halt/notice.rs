//! What the daemon notices by itself: a state word that a peer changed, files that were removed, peers that
//! are lost, a disk that stands still, and clients that say nothing or too much.

use crate::{audit, code, command, halted, latch, latch_content, said, stays_halted};
use escapement::clock::{Clock, MonotonicClock};
use escapement::directory::RingFile;
use escapement::wire::{AgentState, Reason};
use escapement_test_support::{Agent, PATIENCE, Process, escapement, wait_for};
use rustix::process::Signal;
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where the producer's position is in a ring's header.
const PRODUCER_POSITION: u64 = 128;

fn status(agent: &Agent) -> Value {
    let output = command(agent, &["status", "--json"]);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)))
}

fn status_by_config(agent: &Agent) -> Value {
    let mut status = escapement();
    let output = status.args(["status", "--json", "-c"]).arg(&agent.config).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)))
}

#[test]
fn a_state_word_that_a_peer_changed_is_restored_and_counted() {
    let agent = Agent::new(&[]);
    let process = agent.start_armed();
    let header = agent.attach(RingFile::Actions).unwrap().header();
    for (count, word) in [0, 2, 5, 99].into_iter().enumerate() {
        header.reset_state(word, 0);
        wait_for("the word to be restored", || {
            (header.state() == (AgentState::Armed.number(), 0)).then_some(())
        });
        assert_eq!(status(&agent)["integrity"]["state_word_restored"], count + 1);
    }
    let page = said(&command(&agent, &["status"]));
    assert!(page.contains("restored 4 times"), "{page}");
    // A halted word is a kill switch all the same.
    header.halt(Reason::Operator.number().into());
    let (ended, stderr) = process.wait();
    assert_eq!(ended.code(), Some(80), "{stderr}");
    assert!(stderr.contains("a peer changed the state word"), "{stderr}");
    stays_halted(&agent, &["operator"]);
}

/// The engine halts for a broken protocol while a peer writes `armed` over the halt, as fast as it can.
#[test]
fn a_halt_by_rule_is_not_lost_to_a_peer_that_overwrites_the_word() {
    for _ in 0..5 {
        let agent = Agent::new(&[]);
        let process = agent.start_armed();
        let header = agent.attach(RingFile::Actions).unwrap().header();
        let ring = agent.directory.path().join(RingFile::Observations.name());
        let ring = std::fs::OpenOptions::new().read(true).write(true).open(ring).unwrap();
        let ended = AtomicBool::new(false);
        let (exit, stderr) = std::thread::scope(|threads| {
            threads.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    header.reset_state(AgentState::Armed.number(), 0);
                }
            });
            let mut before = [0; 8];
            ring.read_exact_at(&mut before, PRODUCER_POSITION).unwrap();
            ring.write_all_at(&(1_u64 << 40).to_le_bytes(), PRODUCER_POSITION).unwrap();
            let end = process.wait();
            ring.write_all_at(&before, PRODUCER_POSITION).unwrap();
            ended.store(true, Ordering::Relaxed);
            end
        });
        assert_eq!(exit.code(), Some(76), "{stderr}");
        assert_eq!(latch_content(&agent)["reason"], "protocol_violation");
        // The word may still be the peer's; the latch decides about the start.
        let (exit, stderr) = agent.start().wait();
        assert_eq!(exit.code(), Some(80), "{stderr}");
        stays_halted(&agent, &["protocol_violation"]);
    }
}

/// What is done to the files of a running agent, and its name.
type Removal = (&'static str, fn(&Agent));

#[test]
fn a_removed_or_replaced_file_halts_the_agent() {
    let removals: [Removal; 4] = [
        ("a ring is removed", |agent| {
            std::fs::remove_file(agent.directory.path().join("observations.ring")).unwrap();
        }),
        ("a ring is replaced", |agent| {
            let ring = agent.directory.path().join("actions.ring");
            std::fs::copy(&ring, ring.with_extension("copy")).unwrap();
            std::fs::rename(ring.with_extension("copy"), ring).unwrap();
        }),
        ("the directory is renamed", |agent| {
            std::fs::rename(agent.directory.path(), agent.root.path().join("elsewhere")).unwrap();
        }),
        ("the lock is removed", |agent| {
            std::fs::remove_file(agent.directory.path().join("daemon.lock")).unwrap();
        }),
    ];
    for (what, remove) in removals {
        let agent = Agent::new(&[]);
        let process = agent.start_armed();
        remove(&agent);
        let (ended, stderr) = process.wait();
        assert_eq!(ended.code(), Some(80), "{what}: {stderr}");
        assert_eq!(latch_content(&agent)["reason"], "files_lost", "{what}");
        assert!(stderr.contains("a file of the running agent was lost"), "{what}: {stderr}");
    }
    // Without its state directory the halt cannot be kept there. The log says so, and the word stays.
    let agent = Agent::new(&[]);
    let process = agent.start_armed();
    std::fs::rename(agent.state_path(), agent.root.path().join("gone")).unwrap();
    let (ended, stderr) = process.wait();
    assert_eq!(ended.code(), Some(80), "{stderr}");
    assert!(stderr.contains("THE HALT IS NOT KEPT"), "{stderr}");
    assert_eq!(agent.state(), halted(Reason::FilesLost));
    stays_halted(&agent, &["files_lost"]);
}

#[test]
fn a_loss_may_be_reported_only_and_a_daemon_without_rings_is_not_stopped() {
    let agent = Agent::new(&[("agent.on_files_lost", "\"report\"")]);
    let process = agent.start_armed();
    let run_file = agent.directory.path().join("daemon.json");
    let written = std::fs::read(&run_file).unwrap();
    std::fs::remove_file(&run_file).unwrap();
    wait_for("the run file to be written again", || {
        (std::fs::read(&run_file).ok()? == written).then_some(())
    });
    std::fs::remove_file(agent.directory.path().join("observations.ring")).unwrap();
    let page = wait_for("the loss to be in status", || {
        Some(status(&agent)).filter(|page| page["integrity"]["files_lost"] == 1)
    });
    assert_eq!((&page["condition"], &page["integrity"]["run_file_rewritten"]), (&"armed".into(), &1.into()));
    let lost = page["integrity"]["lost_now"][0].as_str().unwrap();
    assert!(lost.ends_with("observations.ring: removed"), "{lost}");

    std::fs::remove_dir_all(agent.directory.path()).unwrap();
    let page = status_by_config(&agent);
    assert_eq!((&page["condition"], &page["pid"]), (&"rings lost".into(), &process.id().into()));
    assert_eq!(process.stop().0.code(), Some(0));
    assert_eq!(status_by_config(&agent)["condition"], "stopped");
}

#[test]
fn a_lost_gateway_is_shown_and_halts_where_that_is_asked_for() {
    let lost_after = ("gateway.lost_after_ms", "200");
    let agent = Agent::new(&[lost_after]);
    let process = agent.start_armed();
    let page = status(&agent);
    assert_eq!(page["peers"]["gateway"], "absent");
    assert_eq!(page["peers"]["gateway_heartbeat_age_ns"], Value::Null);
    let header = agent.attach(RingFile::Actions).unwrap().header();
    let alive = || {
        header.beat_consumer(MonotonicClock.now().0);
        Some(status(&agent)["peers"]["gateway"] == "alive").filter(|is_alive| *is_alive)
    };
    wait_for("the gateway to be alive", alive);
    let mut feed = agent.feed();
    (0..3).for_each(|_| feed.commit(&[0.0; 4]));
    let page = wait_for("the gateway to be lost", || {
        Some(status(&agent)).filter(|page| page["peers"]["gateway"] == "lost")
    });
    assert_eq!((&page["condition"], &page["peers"]["gateway_losses"]), (&"armed".into(), &1.into()));
    let page = wait_for("the actions to wait", || {
        Some(status(&agent)).filter(|page| page["peers"]["actions"]["depth"] == 3)
    });
    assert_eq!(page["peers"]["actions"]["capacity"], 1024);
    assert_eq!(process.stop().0.code(), Some(0));

    let agent = Agent::new(&[lost_after, ("gateway.on_lost", "\"halt\"")]);
    let process = agent.start_armed();
    agent.attach(RingFile::Actions).unwrap().header().beat_consumer(MonotonicClock.now().0);
    let (ended, stderr) = process.wait();
    assert_eq!(ended.code(), Some(80), "{stderr}");
    stays_halted(&agent, &["gateway_lost"]);
}

/// Compiles a library in whose `fsync` the disk stands still, as long as the file `stall` exists.
fn stalling_disk(directory: &Path) -> Option<PathBuf> {
    let source = "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <stdlib.h>\n#include <unistd.h>\n\
        int fsync(int fd) { static int (*real)(int); if (!real) real = dlsym(RTLD_NEXT, \"fsync\");\n\
        while (!access(getenv(\"STALL\"), F_OK)) usleep(1000); return real(fd); }\n";
    let (code, library) = (directory.join("stall.c"), directory.join("stall.so"));
    std::fs::write(&code, source).unwrap();
    let compiler =
        ["cc", "gcc", "clang"].into_iter().find(|it| Command::new(it).arg("--version").output().is_ok())?;
    let mut compile = Command::new(compiler);
    compile.args(["-shared", "-fPIC", "-o"]).args([&library, &code]).arg("-ldl");
    assert!(compile.status().unwrap().success());
    Some(library)
}

/// A disk that does not end a sync must not keep the watchdog from being fed: neither at an audit line, nor
/// at a latch. The halt is kept once the disk goes on.
#[test]
fn a_disk_that_stands_still_does_not_starve_the_watchdog() {
    let agent = Agent::new(&[]);
    let root = agent.root.path();
    let Some(library) = stalling_disk(root) else {
        println!("no C compiler: nothing is shown");
        return;
    };
    let (notify, stall) = (root.join("notify"), root.join("stall"));
    let socket = UnixDatagram::bind(&notify).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = agent.command();
    command.env("NOTIFY_SOCKET", &notify).env("WATCHDOG_USEC", "200000");
    command.env("LD_PRELOAD", library).env("STALL", &stall);
    let process = agent.start_armed_as(command);
    let fed = |times: usize| {
        let mut seen = 0;
        while seen < times {
            let mut buffer = [0; 4096];
            let length = socket.recv(&mut buffer).expect("the watchdog is fed");
            seen += usize::from(buffer[..length].starts_with(b"WATCHDOG=1"));
        }
    };
    std::fs::write(&stall, "").unwrap();
    process.signal(Signal::HUP);
    // More than can be in the socket from the time before the disk stood still.
    fed(20);
    let page = status(&agent);
    assert_eq!((&page["condition"], &page["reloads"]["applied"]), (&"armed".into(), &1.into()));
    process.signal(Signal::USR2);
    wait_for("the state word", || (agent.state() == halted(Reason::Operator)).then_some(()));
    fed(20);
    std::fs::remove_file(&stall).unwrap();
    let (ended, stderr) = process.wait();
    assert_eq!(ended.code(), Some(80), "{stderr}");
    assert_eq!(latch_content(&agent)["reason"], "operator");
    let whats: Vec<_> = audit(&agent).iter().map(|line| line["what"].clone()).collect();
    assert!(whats.contains(&"reload".into()) && whats.contains(&"halt".into()), "{whats:?}");
    stays_halted(&agent, &["operator"]);
}

#[test]
fn many_silent_clients_do_not_hold_up_one_that_speaks() {
    let agent = Agent::new(&[]);
    let process = agent.start_armed();
    let path = agent.directory.path().join("control.sock");
    let silent: Vec<_> = (0..40).map(|_| UnixStream::connect(&path).unwrap()).collect();
    // One after the other they would take 20 s, and `status` waits for 2 s.
    assert_eq!(status(&agent)["condition"], "armed");
    drop(silent);
    assert_eq!(process.stop().0.code(), Some(0));
}

#[test]
fn a_flood_of_reloads_is_limited_and_folded_in_the_audit_file() {
    let agent = Agent::new(&[("agent.log", "\"off\"")]);
    let process = agent.start_armed();
    let path = agent.directory.path().join("control.sock");
    const REQUESTS: usize = 1_000;
    for _ in 0..REQUESTS {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"{\"request\":\"reload\",\"to\":\"previous\"}\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("ticket") || answer.contains("reloads"), "{answer}");
    }
    let page = status(&agent);
    let folded = page["integrity"]["refusals_folded"].as_u64().unwrap();
    assert!(folded > 0, "{page}");
    assert_eq!(process.stop().0.code(), Some(0));
    let lines: Vec<_> = audit(&agent).into_iter().filter(|line| line["what"] == "reload_refused").collect();
    assert!(lines.len() < REQUESTS / 2, "{} lines", lines.len());
    let counted =
        |line: &&Value| line["text"].as_str().is_some_and(|text| text.contains("refusals in a second"));
    assert!(lines.iter().any(|line| counted(&line)), "{lines:?}");
}

/// A path that leads to a pipe must not hold up the reloads after it: neither the policy's, nor the file's.
#[test]
fn a_reload_that_hangs_ends_and_the_next_one_works() {
    let short = ("policy.load_timeout_ms", "300");
    let agent = Agent::new(&[short]);
    let process = agent.start_armed();
    let pipe = agent.root.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    let path = format!("{:?}", pipe);
    agent.reconfigure(&[short, ("policy.backend", "\"native\""), ("policy.path", &path)]);
    assert_ne!(code(&command(&agent, &["reload"])), 0);
    agent.reconfigure(&[short, ("action.high", "0.5")]);
    let output = command(&agent, &["reload"]);
    assert_eq!(code(&output), 0, "{}", said(&output));

    std::fs::remove_file(&agent.config).unwrap();
    std::fs::rename(&pipe, &agent.config).unwrap();
    process.signal(Signal::HUP);
    wait_for("the file to be refused", || (status(&agent)["reloads"]["refused"] == 2).then_some(()));
    std::fs::remove_file(&agent.config).unwrap();
    agent.reconfigure(&[short]);
    let output = command(&agent, &["reload"]);
    assert_eq!(code(&output), 0, "{}", said(&output));
    // A thread is still in the pipe, and does not keep the process from its end.
    assert_eq!(process.stop().0.code(), Some(0));
    assert!(!latch(&agent).exists());
}

/// The next start of an agent does not read an audit file of years as a whole.
#[test]
fn a_large_audit_file_is_searched_from_its_end() {
    let agent = Agent::new(&[]);
    agent.start_armed().stop();
    let path = agent.state_path().join("audit.jsonl");
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    // Sparse: as large as no memory, and as small as no disk.
    file.set_len(1 << 40).unwrap();
    file.write_all_at(b"\n", (1 << 40) - 1).unwrap();
    let process: Process = agent.start_armed();
    process.signal(Signal::USR2);
    assert_eq!(process.wait().0.code(), Some(80));
    // The crash of the machine has taken the lines about the halt, and a start adds them again, once.
    file.set_len(1 << 40).unwrap();
    for _ in 0..2 {
        stays_halted(&agent, &["operator"]);
    }
    let mut end = vec![0; 1 << 16];
    let length = std::fs::metadata(&path).unwrap().len();
    std::fs::File::open(&path).unwrap().read_exact_at(&mut end, length - (1 << 16)).unwrap();
    let end = String::from_utf8_lossy(&end);
    assert_eq!(end.matches(r#""what":"halt""#).count(), 1, "{end}");
}
