//! Who holds the lock on an agent's state directory, as the kernel says. A daemon whose rings were removed
//! has no run file and no control socket, and still holds this lock.

use super::state::StateDirectory;
use std::os::unix::fs::MetadataExt;

/// Returns the process that holds the daemon's lock in the state directory; `None` if none does. Takes no
/// lock itself, so that it cannot get in the way of a daemon that starts.
pub fn lock_holder(state: &StateDirectory) -> Option<u32> {
    let lock = std::fs::symlink_metadata(state.path().join("daemon.lock")).ok()?;
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    // The inode alone may be that of another file system. A process of another user is never the daemon.
    let is_owners = |pid: &u32| {
        let process = std::fs::metadata(format!("/proc/{pid}"));
        process.is_ok_and(|process| [0, lock.uid()].contains(&process.uid()))
    };
    locks.lines().filter_map(|line| holder_of(line, lock.ino())).find(is_owners)
}

/// A line is `1: FLOCK  ADVISORY  WRITE 4711 00:1a:131 0 EOF`: the process, and device and inode of the file.
/// The devices' numbers are not compared: some file systems show other ones here than to `stat`.
fn holder_of(line: &str, inode: u64) -> Option<u32> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, "FLOCK", _, "WRITE", pid, file, ..] = fields[..] else { return None };
    let found: u64 = file.rsplit(':').next()?.parse().ok()?;
    if found == inode { pid.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_found_by_the_inode() {
        let line = "1: FLOCK  ADVISORY  WRITE 4711 00:1a:131 0 EOF";
        assert_eq!(holder_of(line, 131), Some(4711));
        assert_eq!(holder_of(line, 13), None);
        assert_eq!(holder_of("1: -> FLOCK  ADVISORY  WRITE 4712 00:1a:131 0 EOF", 131), None, "it waits");
        assert_eq!(holder_of("2: POSIX  ADVISORY  WRITE 4711 00:1a:131 0 EOF", 131), None);
    }
}
