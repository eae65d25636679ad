//! What the tests and benchmarks of Escapement share.
//!
//! | module | holds |
//! |---|---|
//! | [`agent`] | a configured agent in a temporary directory, with its feed and its gateway |
//! | [`process`] | the program under test, and a child process that is killed when dropped |
//! | [`peers`] | a feed that commits one observation at a time, and reads of single actions |
//! | [`bounds`] | times below a millisecond, measured from outside |
//! | [`quiet`] | counters for what a hot path must not do |
//! | [`heap_engine`] | an engine on heap rings |
//! | [`timing`] | single calls timed with the time stamp counter |
//! | [`torchscript`] | TorchScript archives written by hand |
//! | [`fixtures`] | TorchScript files exported by PyTorch |

pub mod agent;
pub mod bounds;
pub mod fixtures;
pub mod heap;
pub mod heap_engine;
pub mod hostile;
pub mod peers;
pub mod process;
pub mod quiet;
#[cfg(target_arch = "x86_64")]
pub mod timing;
pub mod torchscript;

pub use agent::{Agent, Overrides};
pub use peers::{TestFeed, next_action, take_action};
pub use process::{Process, escapement};

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long [`wait_for`] waits. Everything that happens at all takes far less, on a busy machine too.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Calls `ready` every 2 ms until it returns a value, and returns that value.
///
/// # Panics
/// Panics with `what` after [`PATIENCE`].
pub fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(begun.elapsed() < PATIENCE, "gave up waiting for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Returns whether `ESCAPEMENT_LONG` asks for the long runs.
pub fn long_runs() -> bool {
    std::env::var_os("ESCAPEMENT_LONG").is_some()
}

/// Returns the path of a file of the repository.
pub fn in_repository(path: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    root.expect("this crate is two folders below the repository's root").join(path)
}

/// Returns the path of a file below `tests/data`.
pub fn test_data(name: &str) -> PathBuf {
    in_repository("tests/data").join(name)
}

/// Returns rows of `width` numbers as `numpy.save` writes them.
pub fn npy(values: &[f32], width: usize) -> Vec<u8> {
    let shape =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {width}), }}", values.len() / width);
    let header = format!("{shape:<117}\n");
    let length = u16::try_from(header.len()).expect("a short header").to_le_bytes();
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), &data].concat()
}
