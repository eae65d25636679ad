//! The zip container of a TorchScript file, read under [`Limits`].
//!
//! PyTorch writes every member below one folder named after the file (`policy/data.pkl`, `policy/code/…`). The
//! folder's name carries no meaning and is dropped here. Tensors are stored without compression, source is deflated.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use zip::{CompressionMethod, ZipArchive};

use super::limits::Limits;
use super::problem::Problem;

/// An opened archive: an index of its members, none of them decompressed yet.
pub(crate) struct Archive<'a> {
    zip: ZipArchive<Cursor<&'a [u8]>>,
    index: BTreeMap<String, usize>,
    limits: Limits,
    /// Bytes that may still be decompressed.
    remaining: u64,
}

impl<'a> Archive<'a> {
    /// Reads the directory of `bytes` and checks it against `limits`.
    pub(crate) fn open(bytes: &'a [u8], limits: &Limits) -> Result<Self, Problem> {
        if bytes.len() as u64 > limits.archive_bytes {
            return Err(Problem::malformed(format!(
                "the archive has {} bytes, at most {} are read",
                bytes.len(),
                limits.archive_bytes
            )));
        }
        let zip = ZipArchive::new(Cursor::new(bytes))
            .map_err(|error| Problem::malformed(format!("not a TorchScript archive: {error}")))?;
        if zip.len() > limits.entries {
            return Err(Problem::malformed(format!(
                "the archive has {} members, at most {} are read",
                zip.len(),
                limits.entries
            )));
        }
        let mut archive = Self { zip, index: BTreeMap::new(), limits: *limits, remaining: limits.total_bytes };
        archive.build_index()?;
        Ok(archive)
    }

    fn build_index(&mut self) -> Result<(), Problem> {
        for position in 0..self.zip.len() {
            let Some(Ok(full)) = self.zip.name_for_index(position) else {
                return Err(Problem::malformed(format!("member {position} has no readable name")));
            };
            if full.len() > self.limits.name_bytes {
                return Err(Problem::malformed(format!(
                    "the name of member {position} has {} bytes, at most {} are allowed",
                    full.len(),
                    self.limits.name_bytes
                )));
            }
            let Some((_, name)) = full.split_once('/') else {
                return Err(Problem::malformed(format!("member {full:?} is not below a folder")));
            };
            let name = name.to_owned();
            if let Some(first) = self.index.insert(name.clone(), position) {
                return Err(Problem::malformed(format!("members {first} and {position} are both named {name:?}")));
            }
        }
        Ok(())
    }

    /// The names of all members below `folder` that end in `suffix`, sorted.
    pub(crate) fn names(&self, folder: &str, suffix: &str) -> Vec<String> {
        self.index.keys().filter(|name| name.starts_with(folder) && name.ends_with(suffix)).cloned().collect()
    }

    /// The content of the member `name`, or `None` where there is none.
    pub(crate) fn read_if_present(&mut self, name: &str) -> Result<Option<Vec<u8>>, Problem> {
        let Some(&position) = self.index.get(name) else { return Ok(None) };
        let allowed = self.limits.entry_bytes.min(self.remaining);
        let entry = self
            .zip
            .by_index(position)
            .map_err(|error| Problem::malformed(format!("member {name}: {error}")))?;
        if !matches!(entry.compression(), CompressionMethod::Stored | CompressionMethod::Deflated) {
            return Err(Problem::malformed(format!(
                "member {name} is compressed with {}, only stored and deflated members are read",
                entry.compression()
            )));
        }
        if entry.encrypted() {
            return Err(Problem::malformed(format!("member {name} is encrypted")));
        }
        let too_large = || Problem::malformed(format!("member {name} would go beyond the limit of {allowed} bytes"));
        // The declared size is the attacker's word: it may refuse early, but never sizes an allocation beyond the
        // limit, and the content is counted as it is read.
        if entry.size() > allowed {
            return Err(too_large());
        }
        let mut content = Vec::with_capacity(entry.size().min(1 << 20) as usize);
        entry
            .take(allowed + 1)
            .read_to_end(&mut content)
            .map_err(|error| Problem::malformed(format!("member {name}: {error}")))?;
        if content.len() as u64 > allowed {
            return Err(too_large());
        }
        self.remaining -= content.len() as u64;
        Ok(Some(content))
    }

    /// The content of the member `name`, which must be there.
    pub(crate) fn read(&mut self, name: &str) -> Result<Vec<u8>, Problem> {
        self.read_if_present(name)?
            .ok_or_else(|| Problem::malformed(format!("the archive has no member {name}, so it is not TorchScript")))
    }
}
