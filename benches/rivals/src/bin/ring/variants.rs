//! The ways in which Escapement's ring can use a processor.

use escapement::ring::{Region, Tuning, Width};
use std::fmt;
use std::str::FromStr;

/// One way, or the ring's own choice for this processor.
#[derive(Debug, Clone, Copy, Default)]
pub struct Variant(Option<Tuning>);

impl Variant {
    /// Every way that this processor has.
    pub fn every() -> impl Iterator<Item = Self> {
        let widths = [16, 32, 64].into_iter().filter_map(Width::of);
        widths.flat_map(|width| {
            (0..8).map(move |bits| {
                Self(Some(Tuning {
                    width,
                    prefetch_write: bits & 1 != 0,
                    prefetch_read: bits & 2 != 0,
                    demote: bits & 4 != 0,
                }))
            })
        })
    }

    /// The ring, used in this way.
    pub fn tune(self, region: Region) -> Region {
        match self.0 {
            Some(tuning) => region.tuned(tuning),
            None => region,
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(tuning) = self.0 else { return formatter.write_str("own") };
        let hint = |used, letter| if used { letter } else { "" };
        let (write, read) = (hint(tuning.prefetch_write, "w"), hint(tuning.prefetch_read, "r"));
        write!(formatter, "{}{write}{read}{}", tuning.width.bytes(), hint(tuning.demote, "d"))
    }
}

impl FromStr for Variant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::default()]
            .into_iter()
            .chain(Self::every())
            .find(|variant| variant.to_string() == text)
            .ok_or_else(|| format!("no variant {text}"))
    }
}
