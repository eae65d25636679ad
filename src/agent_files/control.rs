//! The control socket in the directory of an agent's rings: a client sends one line of JSON, and the daemon
//! answers with one line.
//!
//! The request is `{"request":"status"}` or `{"request":"reload","to":"configured"}`. The answer is
//! `{"ok":…}` or `{"error":"…"}`. Both sides limit the size and the time of what they read, so neither can
//! block the other. Each client has a thread of its own, so a silent one does not hold up the next. The
//! socket's permissions decide who may connect (the agent's user and group); the kernel says who did.

use crossbeam::channel::{Sender, bounded};
use escapement_ring::clock::{Clock, MonotonicClock, Nanos};
use escapement_ring::directory::AgentDirectory;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

const NAME: &str = "control.sock";
/// A request is a few words long.
const MAX_REQUEST_BYTES: usize = 16 * 1024;
/// Room for a status page with the figures of 4096 features.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// How long a client may take to send its request. It is a program, and has the request ready.
const REQUEST_TIME: Nanos = Nanos::from_millis(500);
/// Clients that are served at the same time. Others wait in the kernel's queue until a place is free, which
/// takes no longer than the time of one request and its answer.
const MAX_CLIENTS: usize = 64;
/// The stack of a client's thread: it parses one line.
const CLIENT_STACK_BYTES: usize = 256 * 1024;
/// How long the supervisor may take to answer before it counts as stuck.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum ControlRequest {
    /// Asks for the status page.
    // With braces, so that unknown fields are refused here as well.
    Status {},
    /// Applies a configuration. The answer is a ticket; the status page lists the outcome under that number.
    Reload {
        /// Which configuration.
        to: ReloadTarget,
    },
}

/// The configuration that a reload applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReloadTarget {
    /// The configuration file, as it is now.
    Configured,
    /// The deployment that ran before the last reload.
    Previous,
}

/// A request that waits for an answer.
#[derive(Debug)]
pub struct Pending {
    /// The request.
    pub request: ControlRequest,
    /// The user who sent it, as the kernel says.
    pub uid: u32,
    reply: Sender<Answer>,
}

type Answer = Result<Value, String>;

impl Pending {
    /// Sends the answer, or the reason of a refusal.
    pub fn answer(self, answer: Answer) {
        // The connection's thread may have stopped waiting.
        drop(self.reply.send(answer));
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Ok(Value),
    Error(String),
}

/// The daemon's end.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
}

impl ControlSocket {
    /// Makes the socket, and replaces one that a predecessor left. The caller must hold the daemon's role.
    ///
    /// # Errors
    /// Fails if the socket cannot be made. Its path may have at most 107 bytes.
    pub fn bind(directory: &AgentDirectory) -> io::Result<Self> {
        let path = directory.path().join(NAME);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660))?;
        Ok(Self { listener })
    }

    /// Passes every request to `ask`, each on a thread of its client's, until `ask` returns false.
    pub fn serve(self, ask: impl Fn(Pending) -> bool + Clone + Send + 'static) {
        let (leave, places) = bounded(MAX_CLIENTS);
        for _ in 0..MAX_CLIENTS {
            let _ = leave.send(true);
        }
        for stream in self.listener.incoming() {
            let Ok(stream) = stream else {
                // Usually the process is out of file descriptors. The client has to ask again.
                MonotonicClock.sleep_until(MonotonicClock.now().plus(REQUEST_TIME));
                continue;
            };
            // A place that is given back with `false` means that nobody listens any more.
            if places.recv() != Ok(true) {
                return;
            }
            let (ask, own_place) = (ask.clone(), leave.clone());
            let serve = move || {
                let listening = serve_one(stream, &ask);
                let _ = own_place.send(listening);
            };
            let thread = std::thread::Builder::new().name("client".to_owned()).stack_size(CLIENT_STACK_BYTES);
            if thread.spawn(serve).is_err() {
                // The client sees a closed connection, and has to ask again.
                let _ = leave.send(true);
            }
        }
    }
}

/// Answers one client. Returns whether requests are still listened to.
fn serve_one(mut stream: UnixStream, ask: &impl Fn(Pending) -> bool) -> bool {
    let mut listening = true;
    let reply = match receive(&mut stream) {
        Err(why) => Reply::Error(why),
        Ok((request, uid)) => {
            let (reply, answer) = bounded(1);
            listening = ask(Pending { request, uid, reply });
            match answer.recv_timeout(ANSWER_TIME) {
                Ok(Ok(answer)) => Reply::Ok(answer),
                Ok(Err(why)) => Reply::Error(why),
                Err(_) => Reply::Error("the supervisor does not answer".to_owned()),
            }
        }
    };
    let mut text = serde_json::to_vec(&reply).unwrap_or_default();
    text.push(b'\n');
    // An error means that the client has gone; it needs no answer.
    let _ = stream.set_write_timeout(Some(REQUEST_TIME.to_duration()));
    let _ = stream.write_all(&text);
    listening
}

/// Reads the request on a connection. Returns it with the client's user.
fn receive(stream: &mut UnixStream) -> Result<(ControlRequest, u32), String> {
    let peer = rustix::net::sockopt::socket_peercred(&*stream).map_err(|error| error.to_string())?;
    let by = MonotonicClock.now().plus(REQUEST_TIME);
    let line = read_line(stream, MAX_REQUEST_BYTES, by).map_err(|error| error.to_string())?;
    let request = serde_json::from_slice(&line).map_err(|error| format!("not a request: {error}"))?;
    Ok((request, peer.uid.as_raw()))
}

fn is_only_late(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Reads up to the end of the line or of the stream. Fails beyond `most` bytes, or after the instant `by`.
fn read_line(stream: &mut UnixStream, most: usize, by: Nanos) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let left = by.since(MonotonicClock.now());
        if left == Nanos(0) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no whole line came in time"));
        }
        stream.set_read_timeout(Some(left.to_duration()))?;
        let count = match stream.read(&mut buffer) {
            Ok(count) => count,
            // The remaining time is checked above.
            Err(error) if is_only_late(error.kind()) => continue,
            Err(error) => return Err(error),
        };
        let end = buffer[..count].iter().position(|byte| *byte == b'\n');
        line.extend_from_slice(&buffer[..end.unwrap_or(count)]);
        if line.len() > most {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("more than {most} bytes")));
        }
        if end.is_some() || count == 0 {
            return Ok(line);
        }
    }
}

/// Sends a request to the daemon whose rings are in `directory`, and waits for the answer for at most
/// `patience`.
///
/// # Errors
/// Fails if no answer comes in time, or the daemon refuses the request. The kind is `InvalidData` if the
/// answer is not a `T`.
pub fn ask_daemon<T: serde::de::DeserializeOwned>(
    directory: &AgentDirectory,
    request: &ControlRequest,
    patience: Duration,
) -> io::Result<T> {
    let mut stream = UnixStream::connect(directory.path().join(NAME))?;
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(&text)?;
    let by = MonotonicClock.now().plus(Nanos(u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX)));
    match serde_json::from_slice(&read_line(&mut stream, MAX_ANSWER_BYTES, by)?)? {
        Reply::Ok(answer) => Ok(serde_json::from_value(answer)?),
        Reply::Error(why) => Err(io::Error::other(why)),
    }
}
