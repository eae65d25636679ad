//! The zip container of a TorchScript file, read under [`Limits`].
//!
//! PyTorch writes every member below one folder that is named after the file (`policy/data.pkl`,
//! `policy/code/…`). The folder's name has no meaning and is dropped here. Tensors are stored without
//! compression; source is deflated.
//!
//! The reader accepts only what PyTorch writes, with one interpretation: the directory that the end record
//! points to, at its exact place. The `zip` crate (9.8.2) guesses that data may be prepended, and refused one
//! in forty of the valid files of the parity suite. Layout: PKWARE APPNOTE 6.3.10, sections 4.3.7 to 4.3.16.
//! The 64-bit records that PyTorch adds repeat the same numbers and are needed only beyond the size limit.

use std::collections::BTreeMap;
use std::io::Read;

use flate2::Crc;
use flate2::read::DeflateDecoder;

use crate::limits::Limits;
use crate::meter::Meter;
use crate::refusal::Refusal;

const END: &[u8] = b"PK\x05\x06";
const END_LEN: usize = 22;
const DIRECTORY: &[u8] = b"PK\x01\x02";
const DIRECTORY_LEN: usize = 46;
const LOCAL: &[u8] = b"PK\x03\x04";
const LOCAL_LEN: usize = 30;

const STORED: u16 = 0;
const DEFLATED: u16 = 8;
const ENCRYPTED: u16 = 1;

/// Work of finding and checking one member.
const MEMBER_STEPS: usize = 64;
/// Memory of one entry of the index, beside its name.
const MEMBER_BYTES: usize = 2 * (size_of::<String>() + size_of::<Member>());
/// Memory of a decompressor, and room for one byte too many.
const INFLATE_BYTES: usize = 96 << 10;

/// One member, as the directory describes it.
#[derive(Debug, Clone, Copy)]
struct Member {
    flags: u16,
    method: u16,
    crc: u32,
    compressed: usize,
    size: u64,
    header: usize,
}

/// An open archive: an index of its members. No member is decompressed yet.
pub(crate) struct Archive<'a> {
    bytes: &'a [u8],
    members: BTreeMap<String, Member>,
    limits: Limits,
    meter: Meter,
    /// The number of bytes that may still be decompressed.
    remaining: u64,
}

impl<'a> Archive<'a> {
    /// Reads the directory of `bytes` and checks it against `limits`.
    pub(crate) fn open(bytes: &'a [u8], limits: &Limits, meter: &Meter) -> Result<Self, Refusal> {
        if bytes.len() as u64 > limits.archive_bytes {
            return Err(Refusal::malformed(format!(
                "the archive has {} bytes, at most {} are read",
                bytes.len(),
                limits.archive_bytes
            )));
        }
        let end = end_record(bytes)
            .ok_or_else(|| Refusal::malformed("not a TorchScript archive: no zip end record"))?;
        let (count, start) = (usize::from(u16_at(end, 10)), u32_at(end, 16) as usize);
        if count == usize::from(u16::MAX) || count > limits.entries {
            return Err(Refusal::malformed(format!(
                "the archive has {count} members or more, at most {} are read",
                limits.entries
            )));
        }
        let mut archive = Self {
            bytes,
            members: BTreeMap::new(),
            limits: *limits,
            meter: meter.clone(),
            remaining: limits.total_bytes,
        };
        archive.read_directory(start, count)?;
        Ok(archive)
    }

    fn read_directory(&mut self, start: usize, count: usize) -> Result<(), Refusal> {
        let mut at = start;
        for index in 0..count {
            let damaged = || Refusal::malformed(format!("directory entry {index} is damaged"));
            let entry = record(self.bytes, at, DIRECTORY, DIRECTORY_LEN).ok_or_else(damaged)?;
            let name_len = usize::from(u16_at(entry, 28));
            if name_len > self.limits.name_bytes {
                return Err(Refusal::malformed(format!(
                    "the name of member {index} has {name_len} bytes, at most {} are allowed",
                    self.limits.name_bytes
                )));
            }
            self.meter.work(MEMBER_STEPS)?;
            self.meter.bytes(name_len + MEMBER_BYTES)?;
            let name =
                self.bytes.get(at + DIRECTORY_LEN..at + DIRECTORY_LEN + name_len).ok_or_else(damaged)?;
            let name = std::str::from_utf8(name).map_err(|_| damaged())?;
            let member = Member {
                flags: u16_at(entry, 8),
                method: u16_at(entry, 10),
                crc: u32_at(entry, 16),
                compressed: u32_at(entry, 20) as usize,
                size: u64::from(u32_at(entry, 24)),
                header: u32_at(entry, 42) as usize,
            };
            at += DIRECTORY_LEN + name_len + usize::from(u16_at(entry, 30)) + usize::from(u16_at(entry, 32));
            let Some((_, inner)) = name.split_once('/') else {
                return Err(Refusal::malformed(format!("member {name:?} is not below a folder")));
            };
            if self.members.insert(inner.to_owned(), member).is_some() {
                return Err(Refusal::malformed(format!("two members are named {inner:?}")));
            }
        }
        Ok(())
    }

    /// The names of all members below `folder` that end in `suffix`, sorted.
    pub(crate) fn names(&self, folder: &str, suffix: &str) -> Result<Vec<String>, Refusal> {
        self.meter.work(self.members.len() * MEMBER_STEPS)?;
        let wanted = |name: &&String| name.starts_with(folder) && name.ends_with(suffix);
        let found = self.members.keys().filter(wanted);
        self.meter.bytes(found.clone().map(|name| name.len() + 2 * size_of::<String>()).sum())?;
        Ok(found.cloned().collect())
    }

    /// The meter of this file.
    pub(crate) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Returns the content of the member `name`, or `None` if there is no such member.
    pub(crate) fn read_if_present(&mut self, name: &str) -> Result<Option<Vec<u8>>, Refusal> {
        let Some(&member) = self.members.get(name) else { return Ok(None) };
        let content = self.content(member).map_err(|problem| problem.within(&format!("member {name}")))?;
        self.remaining -= content.len() as u64;
        Ok(Some(content))
    }

    /// Returns the content of the member `name`. Fails if there is no such member.
    pub(crate) fn read(&mut self, name: &str) -> Result<Vec<u8>, Refusal> {
        self.read_if_present(name)?.ok_or_else(|| {
            Refusal::malformed(format!("the archive has no member {name}, so it is not TorchScript"))
        })
    }

    fn content(&self, member: Member) -> Result<Vec<u8>, Refusal> {
        let allowed = self.limits.entry_bytes.min(self.remaining);
        if member.flags & ENCRYPTED != 0 {
            return Err(Refusal::malformed("is encrypted"));
        }
        // The declared size can refuse a member early, but the limit also counts the actual content.
        if member.size > allowed {
            return Err(Refusal::malformed(format!("{} bytes, {allowed} are allowed", member.size)));
        }
        let local = record(self.bytes, member.header, LOCAL, LOCAL_LEN)
            .ok_or_else(|| Refusal::malformed("its header is damaged"))?;
        let start =
            member.header + LOCAL_LEN + usize::from(u16_at(local, 26)) + usize::from(u16_at(local, 28));
        let packed = start
            .checked_add(member.compressed)
            .and_then(|end| self.bytes.get(start..end))
            .ok_or_else(|| Refusal::malformed("ends beyond the archive"))?;
        // Several members may share the same packed bytes, so each copy is charged. Reading, decompressing
        // and the checksum are one step for each byte.
        let longest = packed.len().max(usize::try_from(member.size).unwrap_or(usize::MAX));
        self.meter.work(longest.saturating_add(MEMBER_STEPS))?;
        self.meter.bytes(longest.saturating_add(INFLATE_BYTES))?;
        let content = match member.method {
            STORED => packed.to_vec(),
            DEFLATED => inflate(packed, member.size)?,
            other => return Err(Refusal::malformed(format!("compression method {other} is not read"))),
        };
        if content.len() as u64 != member.size {
            return Err(Refusal::malformed(format!(
                "{} bytes where {} are declared",
                content.len(),
                member.size
            )));
        }
        let mut crc = Crc::new();
        crc.update(&content);
        if crc.sum() != member.crc {
            return Err(Refusal::malformed("its checksum is wrong"));
        }
        Ok(content)
    }
}

/// Returns at most one byte more than `size`. The caller detects the extra byte, and has charged the memory.
fn inflate(packed: &[u8], size: u64) -> Result<Vec<u8>, Refusal> {
    let problem = |error| Refusal::malformed(format!("cannot be decompressed: {error}"));
    let mut content = vec![0; size as usize + 1];
    let mut decoder = DeflateDecoder::new(packed);
    let mut filled = 0;
    while filled < content.len() {
        match decoder.read(&mut content[filled..]).map_err(problem)? {
            0 => break,
            read => filled += read,
        }
    }
    content.truncate(filled);
    Ok(content)
}

/// The end record: the last place where one fits together with its comment, exactly up to the end of the
/// file.
fn end_record(bytes: &[u8]) -> Option<&[u8]> {
    let last = bytes.len().checked_sub(END_LEN)?;
    let first = last.saturating_sub(usize::from(u16::MAX));
    (first..=last).rev().find_map(|at| {
        let record = record(bytes, at, END, END_LEN)?;
        (at + END_LEN + usize::from(u16_at(record, 20)) == bytes.len()).then_some(record)
    })
}

/// Returns the `len` bytes at `at`, if they exist and begin with `signature`.
fn record<'b>(bytes: &'b [u8], at: usize, signature: &[u8], len: usize) -> Option<&'b [u8]> {
    bytes.get(at..at.checked_add(len)?).filter(|record| record.starts_with(signature))
}

/// Reads a number from a record whose length has been checked.
fn u16_at(record: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([record[at], record[at + 1]])
}

fn u32_at(record: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]])
}
