//! A configured agent in a temporary directory, with its feed and its gateway.

use crate::peers::TestFeed;
use crate::process::{Process, escapement};
use crate::wait_for;
use escapement_ring::directory::{AgentDirectory, RingFile};
use escapement_ring::ring::{Consumer, Region};
use escapement_ring::wire::AgentState;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A configured agent. Its files are removed when it is dropped.
pub struct Agent {
    /// Holds everything of the agent.
    pub root: tempfile::TempDir,
    /// The agent's rings, locks and control socket.
    pub directory: AgentDirectory,
    /// The configuration file.
    pub config: PathBuf,
}

/// Keys with other values than the default, as `("section.key", "TOML value")`. The value `-` removes the
/// key.
pub type Overrides<'a> = &'a [(&'a str, &'a str)];

/// The default: 4 features, 2 action elements, the null policy. The agent sleeps when idle, is pinned to no
/// core and locks no memory, so that many agents can run at the same time on two cores.
const BASE: &[(&str, &str)] = &[
    ("agent.name", "\"test\""),
    ("agent.drain_timeout_ms", "2000"),
    ("policy.backend", "\"null\""),
    ("observation.dimension", "4"),
    ("observation.capacity", "1024"),
    ("action.dimension", "2"),
    ("action.capacity", "1024"),
    ("action.low", "-1.0"),
    ("action.high", "1.0"),
    ("action.safe_default", "[0.25, -0.25]"),
    ("action.neutral", "[0.0, 0.0]"),
    ("deadline.enforce", "true"),
    ("deadline.inference_us", "1000000"),
    ("deadline.end_to_end_us", "1000000"),
    ("deadline.hang_timeout_ms", "30000"),
    ("deadline.on_miss", "\"halt\""),
    ("engine.idle", "\"backoff\""),
    ("engine.idle_sleep_us", "200"),
    ("engine.lock_memory", "false"),
    ("warm_up.round_calls", "10"),
    ("warm_up.limit_ms", "500"),
];

impl Agent {
    /// Writes the configuration of a new agent named `test` into a new directory in shared memory.
    pub fn new(overrides: Overrides<'_>) -> Self {
        let root = tempfile::Builder::new().prefix("escapement-test-").tempdir_in(shared_memory()).unwrap();
        let config = root.path().join("agent.toml");
        std::fs::write(&config, render(root.path(), overrides)).unwrap();
        let directory = AgentDirectory::new(Some(root.path()), "test");
        Self { root, directory, config }
    }

    /// Replaces the configuration file.
    pub fn reconfigure(&self, overrides: Overrides<'_>) {
        std::fs::write(&self.config, render(self.root.path(), overrides)).unwrap();
    }

    /// Returns the command that runs the daemon.
    pub fn command(&self) -> Command {
        let mut command = escapement();
        command.args(["run", "-c"]).arg(&self.config);
        command
    }

    /// Starts the daemon, and does not wait for anything.
    pub fn start(&self) -> Process {
        Process::spawn(self.command())
    }

    /// Starts the daemon and waits until it is armed.
    pub fn start_armed(&self) -> Process {
        self.start_armed_as(self.command())
    }

    /// Starts the daemon by this command and waits until it is armed.
    pub fn start_armed_as(&self, command: Command) -> Process {
        let epoch_before = self.attach(RingFile::Actions).map_or(0, |region| region.header().epoch());
        let mut process = Process::spawn(command);
        wait_for("the agent to be armed", || {
            if let Some(status) = process.try_wait() {
                panic!("the agent ended with {status} before it was armed:\n{}", process.read_stderr());
            }
            let header = self.attach(RingFile::Actions)?.header();
            let (state, _) = header.state();
            // A killed predecessor may have left the word armed, in an earlier epoch.
            (header.epoch() > epoch_before && state == AgentState::Armed.number()).then_some(())
        });
        process
    }

    /// Maps a ring; `None` while there is none.
    pub fn attach(&self, ring: RingFile) -> Option<Region> {
        self.directory.attach(ring).ok()
    }

    /// Returns the state and reason words.
    pub fn state(&self) -> (u32, u32) {
        self.attach(RingFile::Actions).expect("the action ring is there").header().state()
    }

    /// Returns the directory of the latch and the audit file.
    pub fn state_path(&self) -> PathBuf {
        self.root.path().join("state").join("test")
    }

    /// Returns the status file that the daemon wrote last: at its end, or when it was told to write one.
    pub fn status(&self) -> serde_json::Value {
        let text = std::fs::read(self.directory.path().join("status.json")).expect("a snapshot was written");
        serde_json::from_slice(&text).expect("it is JSON")
    }

    /// Attaches a feed whose first sequence number is 1.
    pub fn feed(&self) -> TestFeed {
        self.feed_from(1)
    }

    /// Attaches a feed whose first sequence number is `next`.
    pub fn feed_from(&self, next: u64) -> TestFeed {
        TestFeed::new(self.attach(RingFile::Observations).expect("the observation ring is there"), next)
    }

    /// Attaches a gateway to the action ring.
    pub fn gateway(&self) -> Consumer {
        Consumer::attach(self.attach(RingFile::Actions).expect("the action ring is there")).unwrap()
    }
}

fn shared_memory() -> &'static Path {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() { shared } else { Path::new("/tmp") }
}

fn render(root: &Path, overrides: Overrides<'_>) -> String {
    let state_root = format!("{:?}", root.join("state"));
    let root = format!("{root:?}");
    let mut keys: Vec<(&str, &str)> = BASE.to_vec();
    keys.push(("agent.root", &root));
    keys.push(("agent.state_root", &state_root));
    for (key, value) in overrides {
        keys.retain(|(known, _)| known != key);
        if *value != "-" {
            keys.push((key, value));
        }
    }
    let mut sections: std::collections::BTreeMap<&str, String> = std::collections::BTreeMap::new();
    for (key, value) in keys {
        let (section, key) = key.split_once('.').expect("keys are section.key");
        *sections.entry(section).or_default() += &format!("{key} = {value}\n");
    }
    sections.iter().map(|(section, keys)| format!("[{section}]\n{keys}\n")).collect()
}
