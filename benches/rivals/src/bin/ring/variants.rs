//! The ways in which Escapement's ring can use a processor.

use escapement::ring::{Region, Tuning, Width};
use std::fmt;
use std::str::FromStr;

/// One way, or the ring's own choice for this processor.
///
/// As text: the bytes of a word; `w` and a number, the producer's prefetch so many commits ahead; `r` and a
/// number, the consumer's prefetch so many releases ahead; `d`, the producer's demotion.
#[derive(Debug, Clone, Copy, Default)]
pub struct Variant(Option<Tuning>);

/// The variants to compare, if the command line names none.
pub const EVERY: &[&str] = &[
    "16", "32", "64", "16w1", "32w1", "64w1", "64w4", "64r1", "64w1r1", "64w4r4", "16w1r1", "64d", "16w1d",
    "32w1d", "64w1d", "64w4d", "64w1r1d", "64w4r4d",
];

impl Variant {
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
        write!(formatter, "{}", tuning.width.bytes())?;
        for (letter, ahead) in [("w", tuning.write_ahead), ("r", tuning.read_ahead)] {
            if ahead > 0 {
                write!(formatter, "{letter}{ahead}")?;
            }
        }
        formatter.write_str(if tuning.demote { "d" } else { "" })
    }
}

impl FromStr for Variant {
    type Err = String;

    /// Fails if this is not the text of a variant, or if the processor does not have it.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "own" {
            return Ok(Self::default());
        }
        let refused = || format!("no variant {text} on this processor");
        let (rest, demote) = text.strip_suffix('d').map_or((text, false), |rest| (rest, true));
        let (rest, read_ahead) = rest.split_once('r').unwrap_or((rest, "0"));
        let (width, write_ahead) = rest.split_once('w').unwrap_or((rest, "0"));
        let width = width.parse().ok().and_then(Width::of).ok_or_else(refused)?;
        let write_ahead = write_ahead.parse().map_err(|_| refused())?;
        let read_ahead = read_ahead.parse().map_err(|_| refused())?;
        Ok(Self(Some(Tuning { width, write_ahead, read_ahead, demote })))
    }
}
