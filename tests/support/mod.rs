//! What the tests of the real program share: an agent in a directory of its own, with both of its neighbours' ends.

// Each test program uses its own part of this.
#![allow(dead_code)]

pub mod bounds;

use escapement::clock::{Clock, MonotonicClock};
use escapement::directory::{AgentDirectory, RingFile};
use escapement::ring::{Consumer, Producer, Region};
use escapement::wire::{ActionHeader, AgentState, ObservationFlags, ObservationHeader};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;

/// Far longer than anything takes that is going to happen at all, on a busy machine too.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `ready` gives something; panics with `what` when it never does.
pub fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The program under test.
pub fn escapement() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_escapement"));
    command
        .env_remove("RUNTIME_DIRECTORY")
        .env_remove("STATE_DIRECTORY")
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null());
    command
}

/// A configured agent whose files vanish with it.
pub struct Agent {
    pub root: tempfile::TempDir,
    pub directory: AgentDirectory,
    pub config: PathBuf,
}

/// A process of it; killed when dropped.
pub struct Process {
    child: Child,
}

/// Keys that a test wants otherwise, as `("section.key", "TOML value")`; the value `-` takes a key out.
pub type Overrides<'a> = &'a [(&'a str, &'a str)];

/// A machine-friendly agent of 4 features and 2 action elements with the null policy: it sleeps when idle, is pinned
/// nowhere, and locks nothing, so that many of them run beside each other on two cores.
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
    pub fn new(overrides: Overrides<'_>) -> Self {
        let root = tempfile::Builder::new().prefix("escapement-test-").tempdir_in(shared_memory()).unwrap();
        let config = root.path().join("agent.toml");
        std::fs::write(&config, render(root.path(), overrides)).unwrap();
        let directory = AgentDirectory::new(Some(root.path()), "test");
        Self { root, directory, config }
    }

    /// Writes the configuration anew.
    pub fn reconfigure(&self, overrides: Overrides<'_>) {
        std::fs::write(&self.config, render(self.root.path(), overrides)).unwrap();
    }

    pub fn command(&self) -> Command {
        let mut command = escapement();
        command.args(["run", "-c"]).arg(&self.config);
        command
    }

    pub fn start(&self) -> Process {
        Process::spawn(self.command())
    }

    /// Starts the daemon and waits until it is armed.
    pub fn start_armed(&self) -> Process {
        self.start_armed_as(self.command())
    }

    /// The same with a command of the caller's.
    pub fn start_armed_as(&self, command: Command) -> Process {
        let epoch_before = self.attach(RingFile::Actions).map_or(0, |region| region.header().epoch());
        let mut process = Process::spawn(command);
        wait_for("the agent to be armed", || {
            if let Some(status) = process.child.try_wait().unwrap() {
                let mut stderr = String::new();
                process.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
                panic!("the agent ended with {status} before it was armed:\n{stderr}");
            }
            let header = self.attach(RingFile::Actions)?.header();
            let (state, _) = header.state();
            // What a killed predecessor left in the word is not this one's.
            (header.epoch() > epoch_before && state == AgentState::Armed.number()).then_some(())
        });
        process
    }

    pub fn attach(&self, ring: RingFile) -> Option<Region> {
        self.directory.attach(ring).ok()
    }

    /// The state and reason words.
    pub fn state(&self) -> (u32, u32) {
        self.attach(RingFile::Actions).expect("the action ring is there").header().state()
    }

    /// The directory that keeps latch and audit file.
    pub fn state_path(&self) -> PathBuf {
        self.root.path().join("state").join("test")
    }

    /// The snapshot that the daemon wrote last: at its end, or when it was told to.
    pub fn status(&self) -> serde_json::Value {
        let text = std::fs::read(self.directory.path().join("status.json")).expect("a snapshot was written");
        serde_json::from_slice(&text).expect("it is JSON")
    }

    pub fn feed(&self) -> TestFeed {
        self.feed_from(1)
    }

    /// A feed that goes on with this sequence number.
    pub fn feed_from(&self, next: u64) -> TestFeed {
        TestFeed::new(self.attach(RingFile::Observations).expect("the observation ring is there"), next)
    }

    pub fn gateway(&self) -> Consumer {
        Consumer::attach(self.attach(RingFile::Actions).expect("the action ring is there")).unwrap()
    }
}

/// Commits observations one by one.
pub struct TestFeed {
    producer: Producer,
    next: u64,
    restart: bool,
}

impl TestFeed {
    /// A feed on this ring that has just started, with this sequence number.
    pub fn new(region: Region, next: u64) -> Self {
        Self { producer: Producer::attach(region).unwrap(), next, restart: true }
    }

    /// Leaves sequence numbers out, as a feed does that lost messages.
    pub fn skip_sequence(&mut self, count: u64) {
        self.next += count;
    }

    /// Marks the next observation as the first of a feed that has just started.
    pub fn restart(&mut self) {
        self.restart = true;
    }

    /// The sequence number that the next observation will have.
    pub fn next_sequence(&self) -> u64 {
        self.next
    }

    /// Commits one observation of `payload` with the next sequence number, published now.
    pub fn commit(&mut self, payload: &[f32]) {
        self.commit_stamped(payload, MonotonicClock.now().0);
    }

    /// The same with another stamp.
    pub fn commit_stamped(&mut self, payload: &[f32], ts_publish_ns: u64) {
        let flags = if std::mem::take(&mut self.restart) { ObservationFlags::RESTART } else { 0 };
        let header = ObservationHeader {
            sequence: self.next,
            ts_event_ns: self.next,
            ts_publish_ns,
            flags,
            checksum: 0,
        };
        self.next += 1;
        let mut claim = self.producer.try_claim().expect("the observation ring has room");
        claim.write(ObservationHeader::BYTES, payload.as_bytes());
        claim.write(0, header.sealed(payload).as_bytes());
        claim.commit();
    }
}

/// The time as stamps have it.
pub fn now_ns() -> u64 {
    MonotonicClock.now().0
}

/// Rows of `width` as numpy.save writes them.
pub fn npy(values: &[f32], width: usize) -> Vec<u8> {
    let shape =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {width}), }}", values.len() / width);
    let header = format!("{shape:<117}\n");
    let length = u16::try_from(header.len()).expect("a short header").to_le_bytes();
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), &data].concat()
}

/// Waits for the next action and takes it out of the ring.
pub fn next_action<const N: usize>(gateway: &mut Consumer) -> (ActionHeader, [f32; N]) {
    wait_for("an action", || take_action(gateway))
}

/// The next action, if there is one.
pub fn take_action<const N: usize>(gateway: &mut Consumer) -> Option<(ActionHeader, [f32; N])> {
    let peek = gateway.peek().unwrap()?;
    let (mut header, mut payload) = (ActionHeader::default(), [0.0; N]);
    peek.read(0, header.as_mut_bytes());
    peek.read(ActionHeader::BYTES, payload.as_mut_bytes());
    peek.release();
    assert!(header.is_whole(&payload), "a torn action: {header:?}");
    Some((header, payload))
}

impl Process {
    pub fn spawn(mut command: Command) -> Self {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self { child }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Makes room for no more than two pages of what it says on standard error, which nobody reads before [`Process::wait`].
    pub fn narrow_stderr(&self) {
        let stderr = self.child.stderr.as_ref().unwrap();
        rustix::pipe::fcntl_setpipe_size(stderr, 8192).unwrap();
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for the end and gives the status and what was said on standard error.
    pub fn wait(mut self) -> (ExitStatus, String) {
        let status = wait_for("the process to end", || self.child.try_wait().unwrap());
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        (status, stderr)
    }

    /// Asks it to stop and waits for the end.
    pub fn stop(self) -> (ExitStatus, String) {
        self.signal(rustix::process::Signal::TERM);
        self.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already gone where the test has waited for it.
        let _ = self.child.kill();
        let _ = self.child.wait();
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
