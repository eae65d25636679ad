//! Two processes, each pinned to a core of its own: the bench and a copy of itself that echoes.

use super::figures::RoundTrip;
use super::message::{Message, digest, message};
use super::rings::{Copying, Receiver, Sender, ends, spec};
use super::threads::{core, echo, pin, ping};
use super::variants::Variant;
use escapement::clock::MachineClock;
use escapement::ring::{Consumer, Producer, Region};
use escapement::shm::{MappedFile, ShmError};
use iceoryx2::port::{publisher::Publisher, subscriber::Subscriber};
use iceoryx2::prelude::{LogLevel, Node, NodeBuilder, ServiceName, ipc, set_log_level};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

/// The argument that makes a copy of this program echo.
pub const ECHO: &str = "--echo";

/// Kills and reaps the copy however the bench ends.
struct Copy(Child);

impl Drop for Copy {
    fn drop(&mut self) {
        // It has normally ended by itself; then there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn_echo(kind: &str, place: &str, messages: u64) -> Copy {
    let program = std::env::current_exe().expect("the path of this program");
    let mut command = Command::new(program);
    command.args([ECHO, kind, place, &messages.to_string(), &core(1).id.to_string()]).stdin(Stdio::null());
    Copy(command.spawn().expect("a copy of this program"))
}

/// What the copy does.
pub fn serve(kind: &str, place: &str, messages: u64, core: usize) {
    pin(core_affinity::CoreId { id: core });
    match kind {
        "iceoryx2" => {
            let node = node();
            let mut receiver = Subscribing(subscriber(&node, &format!("{place}/there")));
            let mut sender = Publishing(publisher(&node, &format!("{place}/back")));
            echo(&mut sender, &mut receiver, messages);
            // The bench may still be reading the last echo: the memory must not go before it has.
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        variant => {
            let variant: Variant = variant.parse().expect("a variant of the bench");
            let directory = Path::new(place);
            let [there, back] = ["there", "back"].map(|name| variant.tune(open(&directory.join(name))));
            let mut receiver = Copying::from(Consumer::attach(there).expect("an honest peer"));
            let mut sender = Producer::attach(back).expect("an honest peer");
            echo(&mut sender, &mut receiver, messages);
        }
    }
}

/// A directory that is gone afterwards.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be removed is a few pages of shared memory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn make(path: &Path) -> Region {
    let map = MappedFile::create(path, spec().region_bytes(), Ok::<_, ShmError>).expect("shared memory");
    Region::format(Arc::new(map), spec()).expect("an allowed geometry")
}

fn open(path: &Path) -> Region {
    Region::open(Arc::new(MappedFile::open(path).expect("the bench's file"))).expect("the bench's ring")
}

/// Half round trips of ours, through two mapped files.
pub fn escapement(variant: Variant, messages: u64, clock: &MachineClock) -> RoundTrip {
    let directory = Directory(Path::new("/dev/shm").join(format!("escapement-bench-{}", std::process::id())));
    std::fs::create_dir(&directory.0).expect("a directory in shared memory");
    // Each process uses one end of each ring; the other end is made by the other process.
    let (mut sender, _) = ends(&variant.tune(make(&directory.0.join("there"))));
    let (_, mut receiver) = ends(&variant.tune(make(&directory.0.join("back"))));
    let _copy = spawn_echo(&variant.to_string(), &directory.0.to_string_lossy(), messages);
    pin(core(0));
    ping(&mut sender, &mut receiver, messages, clock)
}

fn node() -> Node<ipc::Service> {
    set_log_level(LogLevel::Error);
    NodeBuilder::new().create::<ipc::Service>().expect("a node")
}

fn publisher(node: &Node<ipc::Service>, name: &str) -> Publisher<ipc::Service, Message, ()> {
    let name = ServiceName::new(name).expect("an allowed name");
    let service =
        node.service_builder(&name).publish_subscribe::<Message>().open_or_create().expect("a service");
    service.publisher_builder().create().expect("a publisher")
}

fn subscriber(node: &Node<ipc::Service>, name: &str) -> Subscriber<ipc::Service, Message, ()> {
    let name = ServiceName::new(name).expect("an allowed name");
    let service =
        node.service_builder(&name).publish_subscribe::<Message>().open_or_create().expect("a service");
    service.subscriber_builder().create().expect("a subscriber")
}

/// iceoryx2's publisher, the payload written in place.
struct Publishing(Publisher<ipc::Service, Message, ()>);
/// iceoryx2's subscriber, the payload read in place.
struct Subscribing(Subscriber<ipc::Service, Message, ()>);

impl Sender for Publishing {
    #[inline]
    fn try_send(&mut self, number: u64) -> bool {
        let sample = self.0.loan_uninit().expect("a sample");
        // No process listens until the other one is there.
        sample.write_payload(message(number)).send().expect("a delivery") == 1
    }
}

impl Receiver for Subscribing {
    #[inline]
    fn try_receive(&mut self) -> Option<u64> {
        self.0.receive().expect("a subscription").map(|sample| digest(sample.payload()))
    }
}

/// Half round trips of iceoryx2, through two publish-subscribe services.
pub fn iceoryx2(messages: u64, clock: &MachineClock) -> RoundTrip {
    let place = format!("escapement-bench-{}", std::process::id());
    let node = node();
    let mut receiver = Subscribing(subscriber(&node, &format!("{place}/back")));
    let mut sender = Publishing(publisher(&node, &format!("{place}/there")));
    let _copy = spawn_echo("iceoryx2", &place, messages);
    pin(core(0));
    ping(&mut sender, &mut receiver, messages, clock)
}
