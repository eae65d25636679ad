//! Files in memory, on a disk that fails as a test says.

use crate::storage::{Entry, Storage, StoredFile};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// A fault, and the operation of its kind at which it comes, counted from zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `create` fails with ENOSPC, this many times from this one on.
    NoSpace { at: u32, times: u32 },
    /// A write fails with EIO after it has written some of its bytes.
    Write { at: u32 },
    /// A write takes only a few bytes.
    ShortWrite { at: u32 },
    /// A write is interrupted.
    Interrupted { at: u32 },
    /// A sync fails with EIO. What it was to sync is lost, though a reader may still see it.
    Sync { at: u32 },
}

#[derive(Debug, Default)]
struct Disk {
    files: BTreeMap<String, Vec<u8>>,
    modified: BTreeMap<String, u64>,
    faults: Vec<Fault>,
    creates: u32,
    writes: u32,
    syncs: u32,
    clock: u64,
}

/// Files in memory. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct MemoryStorage(Arc<Mutex<Disk>>);

/// A file of it.
#[derive(Debug)]
pub struct MemoryFile {
    name: String,
    storage: MemoryStorage,
}

impl MemoryStorage {
    pub fn with_faults(faults: &[Fault]) -> Self {
        let storage = Self::default();
        storage.disk(|disk| disk.faults = faults.to_vec());
        storage
    }

    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        self.disk(|disk| disk.files.clone().into_iter().collect())
    }

    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        self.disk(|disk| _ = disk.files.insert(name.to_owned(), bytes));
    }

    /// How often the writer has created, written and synced.
    pub fn operations(&self) -> [u32; 3] {
        self.disk(|disk| [disk.creates, disk.writes, disk.syncs])
    }

    fn disk<R>(&self, body: impl FnOnce(&mut Disk) -> R) -> R {
        body(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn os_error(errno: rustix::io::Errno) -> io::Error {
    io::Error::from_raw_os_error(errno.raw_os_error())
}

impl Storage for MemoryStorage {
    type File = MemoryFile;

    fn create(&mut self, name: &str, bytes: u64, start: &[u8]) -> io::Result<MemoryFile> {
        self.disk(|disk| {
            let at = disk.creates;
            disk.creates += 1;
            let fails = |fault: &Fault| {
                matches!(fault, Fault::NoSpace { at: first, times } if (*first..first + times).contains(&at))
            };
            if disk.faults.iter().any(fails) {
                return Err(os_error(rustix::io::Errno::NOSPC));
            }
            let mut file = vec![0; bytes as usize];
            file[..start.len()].copy_from_slice(start);
            disk.files.insert(name.to_owned(), file);
            Ok(())
        })?;
        Ok(MemoryFile { name: name.to_owned(), storage: self.clone() })
    }

    fn list(&mut self) -> io::Result<Vec<Entry>> {
        let entry = |disk: &Disk, name: &String, bytes: &Vec<u8>| Entry {
            name: name.clone(),
            bytes: bytes.len() as u64,
            modified_ns: disk.modified.get(name).copied().unwrap_or(0),
        };
        Ok(self.disk(|disk| disk.files.iter().map(|(name, bytes)| entry(disk, name, bytes)).collect()))
    }

    fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        self.disk(|disk| disk.files.get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into()))
    }

    fn cut(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        self.disk(|disk| {
            if let Some(file) = disk.files.get_mut(name) {
                file.resize(bytes as usize, 0);
            }
        });
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.disk(|disk| _ = disk.files.remove(name));
        Ok(())
    }
}

impl StoredFile for MemoryFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.storage.disk(|disk| {
            let at = disk.writes;
            disk.writes += 1;
            let has = |fault| disk.faults.contains(&fault);
            if has(Fault::Interrupted { at }) {
                return Err(os_error(rustix::io::Errno::INTR));
            }
            let (count, fails) = if has(Fault::Write { at }) {
                (bytes.len() / 2, true)
            } else if has(Fault::ShortWrite { at }) {
                (bytes.len().div_ceil(3), false)
            } else {
                (bytes.len(), false)
            };
            let Some(file) = disk.files.get_mut(&self.name) else {
                return Err(io::ErrorKind::NotFound.into());
            };
            let end = offset as usize + count;
            assert!(end <= file.len(), "a segment never grows");
            file[offset as usize..end].copy_from_slice(&bytes[..count]);
            // The writer of the tests counts its ticks as time.
            disk.clock = disk.clock.max(last_peek(bytes));
            disk.modified.insert(self.name.clone(), 1_000_000 + disk.clock);
            if fails { Err(os_error(rustix::io::Errno::IO)) } else { Ok(count) }
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.storage.disk(|disk| {
            let at = disk.syncs;
            disk.syncs += 1;
            if disk.faults.contains(&Fault::Sync { at }) {
                Err(os_error(rustix::io::Errno::IO))
            } else {
                Ok(())
            }
        })
    }

    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        let name = self.name.clone();
        Storage::cut(&mut self.storage, &name, bytes)
    }
}

/// The sequence of the last tick in these whole records.
fn last_peek(bytes: &[u8]) -> u64 {
    let width = crate::record_bytes(super::OBSERVATION, super::ACTION);
    let last = bytes.len().saturating_sub(width);
    bytes
        .get(last + 24..last + 32)
        .map_or(0, |word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
}
