//! The control socket in the directory of an agent's rings: one line of JSON asks a running daemon, one line answers.
//!
//! The request is `{"request":"status"}` or `{"request":"reload","to":"configured"}`, the answer `{"ok":…}` or `{"error":"…"}`. Both sides bound what they read in size and
//! in time, so that neither can hold up the other. Who may connect is decided by the socket's permissions (the agent's user
//! and group), and who did by the kernel.

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
/// A request is a few words.
const MAX_REQUEST_BYTES: usize = 16 * 1024;
/// A status with the figures of 4096 features.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// How long a client may take for its request: it is a program that has it ready.
const REQUEST_TIME: Nanos = Nanos::from_millis(500);
/// How long the supervisor may take for an answer before it counts as stuck.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum ControlRequest {
    /// The snapshot that SIGUSR1 writes.
    // With braces, so that further fields are refused here as well.
    Status {},
    /// Takes over a configuration. The answer is a ticket; status tells, under that number, how it ended.
    Reload {
        /// Which.
        to: ReloadTarget,
    },
}

/// What a reload leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReloadTarget {
    /// The configuration file as it is now.
    Configured,
    /// What ran before the last reload.
    Previous,
}

/// A request that waits for its answer.
#[derive(Debug)]
pub struct Pending {
    /// What is asked.
    pub request: ControlRequest,
    /// The user who asks, as the kernel says.
    pub uid: u32,
    reply: Sender<Answer>,
}

type Answer = Result<Value, String>;

impl Pending {
    /// Answers it, or says why not.
    pub fn answer(self, answer: Answer) {
        // The one who asked may have gone.
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
    /// Makes the socket, in place of one that a predecessor left. Only for the holder of the daemon's role.
    ///
    /// # Errors
    /// When it cannot be made; a path of more than 107 bytes is too long for one.
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

    /// Hands every request to `ask`, one after the other, until that says that nobody answers any more.
    pub fn serve(self, mut ask: impl FnMut(Pending) -> bool) {
        for stream in self.listener.incoming() {
            let Ok(mut stream) = stream else {
                // Out of file descriptors, mostly; whoever asks will ask again.
                MonotonicClock.sleep_until(MonotonicClock.now().plus(REQUEST_TIME));
                continue;
            };
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
            // A client that went away needs no answer.
            let _ = stream.set_write_timeout(Some(REQUEST_TIME.to_duration()));
            let _ = stream.write_all(&text);
            if !listening {
                return;
            }
        }
    }
}

/// The request on a connection, and whose it is.
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

/// Bytes up to the line's end or the stream's, at most so many and at most so long.
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
            // The time that is left is looked at above.
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

/// Asks the daemon whose rings are in `directory`, waiting at most so long for its answer.
///
/// # Errors
/// When nobody answers in time, or the answer is a refusal.
pub fn ask_daemon(
    directory: &AgentDirectory,
    request: &ControlRequest,
    patience: Duration,
) -> io::Result<Value> {
    let mut stream = UnixStream::connect(directory.path().join(NAME))?;
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(&text)?;
    let by = MonotonicClock.now().plus(Nanos(u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX)));
    match serde_json::from_slice(&read_line(&mut stream, MAX_ANSWER_BYTES, by)?)? {
        Reply::Ok(answer) => Ok(answer),
        Reply::Error(why) => Err(io::Error::other(why)),
    }
}
