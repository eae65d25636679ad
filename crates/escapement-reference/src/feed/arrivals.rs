//! Arrivals of observations, for measurements that pace their calls: evenly, at random, or as recorded. All
//! are computed before the first one, so that the measuring loop only compares times.

use super::random::Random;
use super::recording::{MAGIC, Recording, RecordingError};
use super::schedule::{Rate, Schedule};
use crate::ReferenceError;
use escapement_ring::clock::Nanos;
use std::fmt;
use std::num::NonZeroU64;
use std::path::Path;

/// When observations arrive.
#[derive(Debug, Clone, PartialEq)]
pub enum Arrivals {
    /// Evenly, this many a second.
    Even(NonZeroU64),
    /// At random: the gaps are exponential, and there are this many a second on average.
    Poisson(NonZeroU64),
    /// With the gaps of a file, again and again.
    Recorded {
        /// The file, as it was named.
        name: String,
        /// The gaps, in order. There is at least one, and not all are zero.
        gaps: Vec<Nanos>,
    },
}

impl Arrivals {
    /// The highest rate allowed, in observations a second.
    pub const MAX_RATE: u64 = 1_000_000;
    /// The most gaps that a file may have.
    pub const MAX_GAPS: usize = 10_000_000;
    /// The longest gap allowed.
    const MAX_GAP: Nanos = Nanos::from_millis(3_600_000);
    /// The seed of random gaps. They are the same in every run, so that runs can be compared.
    const SEED: u64 = 1;
    const POISSON: &str = "poisson:";

    /// Reads `poisson:N` (N a second on average) or a file: a recording (`.obs`), whose times give the gaps,
    /// or a text with one gap in microseconds on each line.
    ///
    /// # Errors
    /// Fails with one line if the text is neither, or if the file has no usable gaps.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        match text.strip_prefix(Self::POISSON) {
            Some(rate) => match rate.parse() {
                Ok(rate @ 1..=Self::MAX_RATE) => {
                    Ok(Self::Poisson(NonZeroU64::new(rate).expect("the range begins at 1")))
                }
                _ => {
                    let most = Self::MAX_RATE;
                    let message = format!("{text:?}: allowed: poisson:N, N a whole number from 1 to {most}");
                    Err(ReferenceError::Usage(message))
                }
            },
            None => Ok(Self::Recorded { name: text.to_owned(), gaps: read_gaps(Path::new(text))? }),
        }
    }

    /// Returns when the first `count` observations arrive, from the start on. The first gap is before the
    /// first one.
    pub fn times(&self, count: usize) -> Vec<Nanos> {
        self.endless().take(count).collect()
    }

    /// Returns how many observations arrive within `span`: at least one, and at most `most`.
    pub fn within(&self, span: Nanos, most: usize) -> usize {
        self.endless().take(most).take_while(|time| *time <= span).count().max(1)
    }

    fn endless(&self) -> Box<dyn Iterator<Item = Nanos> + '_> {
        match self {
            Self::Even(rate) => {
                let even = Schedule::Even { rate: Rate::PerSecond(*rate), burst: NonZeroU64::MIN };
                Box::new((1..).map(move |index| even.due(index, Nanos(0))))
            }
            Self::Poisson(rate) => {
                let mut random = Random::new(Self::SEED);
                let mean = 1e9 / rate.get() as f64;
                Box::new(summed(std::iter::repeat_with(move || Nanos(random.exponential(mean) as u64))))
            }
            Self::Recorded { gaps, .. } => Box::new(summed(gaps.iter().copied().cycle())),
        }
    }

    /// Returns the mean number of observations a second.
    pub fn rate(&self) -> f64 {
        match self {
            Self::Even(rate) | Self::Poisson(rate) => rate.get() as f64,
            Self::Recorded { gaps, .. } => {
                let total: u64 = gaps.iter().map(|gap| gap.0).sum();
                gaps.len() as f64 / (total as f64 / 1e9)
            }
        }
    }
}

impl fmt::Display for Arrivals {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Even(rate) => write!(formatter, "{rate} a second, evenly"),
            Self::Poisson(rate) => write!(formatter, "{rate} a second on average, at random"),
            Self::Recorded { name, .. } => {
                write!(formatter, "{:.1} a second on average, as in {name}", self.rate())
            }
        }
    }
}

fn summed(gaps: impl Iterator<Item = Nanos>) -> impl Iterator<Item = Nanos> {
    gaps.scan(Nanos(0), |time, gap| {
        *time = time.plus(gap);
        Some(*time)
    })
}

fn read_gaps(path: &Path) -> Result<Vec<Nanos>, ReferenceError> {
    let usage = |what: String| ReferenceError::Usage(format!("{}: {what}", path.display()));
    let io = |error| ReferenceError::file(path, error);
    // A size is known of regular files only. Anything else might never end.
    let metadata = std::fs::metadata(path).map_err(io)?;
    if !metadata.is_file() {
        return Err(usage("not a file".to_owned()));
    }
    let gaps = match Recording::open(path) {
        Ok(recording) => recorded_gaps(recording)?,
        Err(error) if is_recording(path) => return Err(error.into()),
        Err(_) => {
            const MAX_BYTES: u64 = 32 * Arrivals::MAX_GAPS as u64;
            if metadata.len() > MAX_BYTES {
                return Err(usage(format!("{} bytes; allowed: {MAX_BYTES}", metadata.len())));
            }
            let bytes = std::fs::read(path).map_err(io)?;
            let text = std::str::from_utf8(&bytes).map_err(|_| {
                usage("neither a recording (.obs) nor a text of one gap a line, in microseconds".to_owned())
            })?;
            typed_gaps(text).map_err(usage)?
        }
    };
    if gaps.len() > Arrivals::MAX_GAPS {
        return Err(usage(format!("{} gaps; allowed: {}", gaps.len(), Arrivals::MAX_GAPS)));
    }
    if gaps.iter().all(|gap| gap.0 == 0) {
        return Err(usage("no gap that is longer than zero".to_owned()));
    }
    Ok(gaps)
}

fn is_recording(path: &Path) -> bool {
    use std::io::Read;
    let mut magic = [0; 8];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == MAGIC
}

fn recorded_gaps(mut recording: Recording) -> Result<Vec<Nanos>, RecordingError> {
    let mut payload = vec![0.0; recording.dimension()];
    let mut gaps = Vec::new();
    let mut previous = None;
    while let Some(time) = recording.next_into(&mut payload)? {
        // The recording refuses a time that goes back.
        gaps.extend(previous.map(|previous| Nanos(time - previous).min(Arrivals::MAX_GAP)));
        previous = Some(time);
        if gaps.len() > Arrivals::MAX_GAPS {
            break;
        }
    }
    Ok(gaps)
}

/// One gap a line, in microseconds. Lines that are empty or begin with `#` are passed over.
fn typed_gaps(text: &str) -> Result<Vec<Nanos>, String> {
    let lines = text.lines().map(str::trim).enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let longest_us = Arrivals::MAX_GAP.0 / 1_000;
    lines
        .map(|(index, line)| match line.parse::<f64>() {
            Ok(gap) if (0.0..=longest_us as f64).contains(&gap) => Ok(Nanos((gap * 1e3).round() as u64)),
            _ => {
                let line: String = line.chars().take(40).collect();
                let allowed = format!("allowed: a gap in microseconds, from 0 to {longest_us}");
                Err(format!("line {}: {line:?}: {allowed}", index + 1))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::recording::tests::recording;
    use super::*;

    fn per_second(rate: u64) -> NonZeroU64 {
        NonZeroU64::new(rate).unwrap()
    }

    fn file(content: &[u8]) -> (tempfile::TempDir, String) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gaps");
        std::fs::write(&path, content).unwrap();
        let path = path.to_str().unwrap().to_owned();
        (directory, path)
    }

    fn refusal(content: &[u8]) -> String {
        let (_directory, path) = file(content);
        Arrivals::parse(&path).unwrap_err().to_string()
    }

    #[test]
    fn even_ones_come_at_their_rate_without_a_drift() {
        let thirds = Arrivals::Even(per_second(3));
        assert_eq!(thirds.times(3), [333_333_333, 666_666_666, 1_000_000_000].map(Nanos));
        assert_eq!((thirds.within(Nanos(1_000_000_000), 100), thirds.within(Nanos(1), 100)), (3, 1));
        assert_eq!(thirds.within(Nanos(u64::MAX), 7), 7);
        assert_eq!(thirds.to_string(), "3 a second, evenly");
    }

    #[test]
    fn random_ones_have_the_moments_of_a_poisson_process() {
        let random = Arrivals::parse("poisson:2000").unwrap();
        let times = random.times(100_000);
        assert_eq!(times, random.times(100_000), "they are the same in every run");
        let gaps: Vec<f64> =
            times.windows(2).map(|pair| pair[1].since(pair[0]).0 as f64 / 500_000.0).collect();
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let squares: Vec<f64> = gaps.iter().map(|gap| gap * gap).collect();
        assert!((mean(&gaps) - 1.0).abs() < 0.02 && (mean(&squares) - 2.0).abs() < 0.1);
        assert_eq!(
            (random.rate(), random.to_string().as_str()),
            (2_000.0, "2000 a second on average, at random")
        );
    }

    #[test]
    fn gaps_of_a_text_and_of_a_recording_come_again_and_again() {
        let (_directory, path) = file(b"# us\n10\n\n 0.5 \n0\n");
        let typed = Arrivals::parse(&path).unwrap();
        assert_eq!(typed.times(5), [10_000, 10_500, 10_500, 20_500, 21_000].map(Nanos));
        assert!((typed.rate() - 3e9 / 10_500.0).abs() < 1e-6);

        let (_directory, path) = file(&recording(&["a"], &[(10, &[1.0]), (25, &[3.0]), (125, &[3.0])]));
        let recorded = Arrivals::parse(&path).unwrap();
        assert_eq!(recorded.times(3), [15, 115, 130].map(Nanos));
    }

    #[test]
    fn what_is_no_pace_is_refused_with_one_line() {
        for bad in ["poisson:0", "poisson:1000001", "poisson:", "poisson:fast", "poisson:-1"] {
            let error = Arrivals::parse(bad).unwrap_err();
            assert!(matches!(error, ReferenceError::Usage(_)), "{error}");
            assert!(error.to_string().contains("1 to 1000000"), "{error}");
        }
        assert!(refusal(b"10\nsoon\n").contains("gaps: line 2: \"soon\": allowed: a gap in microseconds"));
        for bad in ["-1", "NaN", "inf", "3600000001", "1 2"] {
            assert!(refusal(bad.as_bytes()).contains("line 1: "), "{bad}");
        }
        for empty in ["", "\n\n", "0\n0\n"] {
            assert!(refusal(empty.as_bytes()).contains("no gap that is longer than zero"), "{empty:?}");
        }
        assert!(refusal(b"\xff\xfe").contains("neither a recording"));
        let whole = recording(&["a"], &[(10, &[1.0]), (25, &[3.0])]);
        assert!(refusal(&whole[..whole.len() - 1]).contains("observations of 1 values take"));
        assert!(refusal(&recording(&["a"], &[(10, &[1.0])])).contains("no gap"));
        assert!(Arrivals::parse("/").unwrap_err().to_string().contains("not a file"));
        assert!(Arrivals::parse("no/such/file").is_err());
    }
}
