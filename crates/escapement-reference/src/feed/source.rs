//! Where observations come from: the synthetic market, noise of any dimension, or a recording.

use super::features;
use super::market::{RECORDED_EVENTS_PER_S, SyntheticObservations};
use super::random::Random;
use super::recording::{Recording, RecordingError};
use escapement_ring::clock::{Nanos, wall_clock_ns};

/// The number of elements of the market's observations.
pub const MARKET_DIMENSION: usize = features::N;

/// A stream of observations.
pub struct Source(Kind);

enum Kind {
    Market { observations: Box<SyntheticObservations>, buffer: [f32; MARKET_DIMENSION], first_ns: u64 },
    Noise { random: Random },
    Recorded(Recorded),
}

/// The time of an observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timed {
    pub ts_event_ns: u64,
    /// The time since the source's first observation.
    pub since_first: Nanos,
}

/// A recording, read one or more times.
struct Recorded {
    recording: Recording,
    passes_left: u64,
    /// The delay of this pass against the recorded times.
    shift_ns: u64,
    first_ns: Option<u64>,
    last_ns: u64,
    /// The time between the last two observations. It also separates the end of one pass from the start of
    /// the next.
    gap_ns: u64,
}

impl Source {
    /// The market of this seed. Its clock starts now.
    pub fn market(seed: u64) -> Self {
        let first_ns = wall_clock_ns();
        let observations = Box::new(SyntheticObservations::new(seed, first_ns, RECORDED_EVENTS_PER_S));
        Self(Kind::Market { observations, buffer: [0.0; MARKET_DIMENSION], first_ns })
    }

    /// Noise: independent, roughly standard normal elements.
    pub fn noise(seed: u64) -> Self {
        Self(Kind::Noise { random: Random::new(seed) })
    }

    /// A recording, read `passes` times.
    pub fn recorded(recording: Recording, passes: u64) -> Self {
        Self(Kind::Recorded(Recorded {
            recording,
            passes_left: passes,
            shift_ns: 0,
            first_ns: None,
            last_ns: 0,
            gap_ns: 0,
        }))
    }

    /// Writes the next observation into `payload`, which must have the source's dimension. Returns `None` at
    /// the end.
    ///
    /// # Errors
    /// Fails if the recording cannot be read.
    pub fn next_into(&mut self, payload: &mut [f32]) -> Result<Option<Timed>, RecordingError> {
        match &mut self.0 {
            Kind::Market { observations, buffer, first_ns } => {
                let ts_event_ns = observations.next_into(buffer);
                payload.copy_from_slice(buffer);
                Ok(Some(Timed { ts_event_ns, since_first: Nanos(ts_event_ns - *first_ns) }))
            }
            Kind::Noise { random } => {
                payload.fill_with(|| random.bell() as f32);
                // Noise has no recorded time: its event time is now.
                Ok(Some(Timed { ts_event_ns: wall_clock_ns(), since_first: Nanos(0) }))
            }
            Kind::Recorded(recorded) => recorded.next_into(payload),
        }
    }
}

impl Recorded {
    fn next_into(&mut self, payload: &mut [f32]) -> Result<Option<Timed>, RecordingError> {
        let mut next = self.recording.next_into(payload)?;
        if next.is_none() && self.passes_left > 1 {
            self.passes_left -= 1;
            self.recording.rewind()?;
            let first_ns = self.first_ns.unwrap_or_default();
            self.shift_ns = (self.last_ns + self.gap_ns).saturating_sub(first_ns);
            next = self.recording.next_into(payload)?;
        }
        let Some(recorded_ns) = next else { return Ok(None) };
        let ts_event_ns = recorded_ns.saturating_add(self.shift_ns);
        let first_ns = *self.first_ns.get_or_insert(ts_event_ns);
        self.gap_ns = ts_event_ns.saturating_sub(self.last_ns.max(first_ns));
        self.last_ns = ts_event_ns;
        Ok(Some(Timed { ts_event_ns, since_first: Nanos(ts_event_ns.saturating_sub(first_ns)) }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::recording::tests::recording;
    use super::*;

    #[test]
    fn a_recording_goes_on_in_time_when_it_starts_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("recorded.obs");
        std::fs::write(&path, recording(&["a"], &[(100, &[1.0]), (130, &[2.0]), (150, &[3.0])])).unwrap();
        let mut source = Source::recorded(Recording::open(&path).unwrap(), 2);
        let mut payload = [0.0];
        let mut seen = Vec::new();
        while let Some(timed) = source.next_into(&mut payload).unwrap() {
            seen.push((timed.ts_event_ns, timed.since_first.0, payload[0]));
        }
        let expected =
            [(100, 0, 1.0), (130, 30, 2.0), (150, 50, 3.0), (170, 70, 1.0), (200, 100, 2.0), (220, 120, 3.0)];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_seed_gives_the_same_observations() {
        let run = |mut source: Source, dimension: usize| {
            let mut payload = vec![0.0; dimension];
            (0..100)
                .map(|_| {
                    source.next_into(&mut payload).unwrap();
                    payload.clone()
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(run(Source::noise(3), 7), run(Source::noise(3), 7));
        assert_ne!(run(Source::noise(3), 7), run(Source::noise(4), 7));
        let (one, other) =
            (run(Source::market(3), MARKET_DIMENSION), run(Source::market(3), MARKET_DIMENSION));
        assert_eq!(one, other);
    }
}
