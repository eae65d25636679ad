//! The sandbox: takes filesystem access from the threads that run code from a policy's file.
//!
//! A TorchScript file is code. With libtorch 2.13 a crafted module creates files while it loads. When it is
//! called, it maps and overwrites existing files, an action ring among them. The native engine runs no code
//! from the file and needs no sandbox.
//!
//! Before libtorch sees a file, the thread that loads it gives up every right to open, create or change a
//! file, to reach the network, and to signal other processes (Landlock). The thread that serves does the same
//! later. Open files and mapped memory stay usable. Threads that libtorch starts inherit the sandbox, and no
//! thread can leave it.
//!
//! Other threads of the process keep their rights: the supervisor still writes its status.

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

/// What stays readable: the description of the processor. libtorch chooses its kernels by it when it first
/// runs.
const READABLE: &[&str] = &["/proc/cpuinfo", "/sys/devices/system/cpu"];

thread_local! {
    /// Whether this thread has confined itself. A thread that a confined thread started is confined as well,
    /// but this is false in it; confining it again costs one more ruleset.
    static IS_CONFINED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Why a thread could not be confined.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The kernel has no Landlock (Linux 5.13 and later), or it is switched off.
    #[error("the kernel has no Landlock, or it is switched off")]
    Unavailable,
    /// The kernel refused.
    #[error("Landlock: {0}")]
    Refused(#[from] RulesetError),
}

/// Confines the calling thread, and every thread that it starts from now on.
///
/// # Errors
/// Fails if the kernel cannot take away at least the rights to read, write and create files. Nothing is
/// changed then.
pub fn forbid_files() -> Result<(), SandboxError> {
    if IS_CONFINED.get() {
        // Once is enough, and the kernel allows at most sixteen rulesets on top of each other.
        return Ok(());
    }
    // The rights of the first version are required. Those that later kernels add are taken away where
    // possible.
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))?
        .handle_access(AccessNet::from_all(ABI::V4))?
        .scope(Scope::from_all(ABI::V6))?
        .create()?
        .add_rules(path_beneath_rules(READABLE, AccessFs::ReadFile | AccessFs::ReadDir))?
        .restrict_self()?;
    match status.ruleset {
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => {
            IS_CONFINED.set(true);
            Ok(())
        }
        RulesetStatus::NotEnforced => Err(SandboxError::Unavailable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_confined_thread_opens_nothing_and_keeps_its_open_files() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("file");
        let mut open = std::fs::File::create(&path).expect("a new file");
        let confined = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                if let Err(error) = forbid_files() {
                    eprintln!("not tested on this machine: {error}");
                    return None;
                }
                let read = std::fs::read(&path).map_err(|error| error.kind());
                let write = std::fs::write(&path, b"x").map_err(|error| error.kind());
                let create = std::fs::write(directory.path().join("new"), b"x").map_err(|error| error.kind());
                let remove = std::fs::remove_file(&path).map_err(|error| error.kind());
                let child = std::thread::spawn({
                    let path = path.clone();
                    move || std::fs::read(path).map_err(|error| error.kind())
                });
                let inherited = child.join().expect("it ends");
                open.write_all(b"still open").expect("an open file stays usable");
                Some((read, write, create, remove, inherited))
            });
            thread.join().expect("it ends")
        });
        if let Some((read, write, create, remove, inherited)) = confined {
            let denied = std::io::ErrorKind::PermissionDenied;
            assert_eq!((read, write, create, remove), (Err(denied), Err(denied), Err(denied), Err(denied)));
            assert_eq!(inherited, Err(denied));
        }
        assert!(std::fs::read(&path).is_ok(), "this thread keeps its rights");
    }
}
