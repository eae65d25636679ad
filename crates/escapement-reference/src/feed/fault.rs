//! Faults to order: the frames of a defective feed. Each kind has its own rate and is drawn from a seed.

use super::random::Random;
use escapement_ring::clock::Nanos;
use escapement_ring::wire::ObservationHeader;
use std::collections::BTreeMap;
use std::str::FromStr;

/// How far back the publish stamp of a stale observation is set. Far above any sensible maximum age.
const STALE_BY: Nanos = Nanos::from_millis(10_000);

/// Declares the kinds with their names on the command line and in reports.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal;)*) => {
        /// One kind of fault.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault { $($(#[$doc])* $kind,)* }

        impl Fault {
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }
        }
    };
}

kinds! {
    /// One element is NaN.
    Nan = "nan";
    /// One element is an infinity.
    Inf = "inf";
    /// One element is the largest finite number.
    OutOfRange = "out_of_range";
    /// The sequence number before this observation's is left out.
    Gap = "gap";
    /// The observation is committed twice with the same number.
    Duplicate = "duplicate";
    /// This observation and the next one swap their numbers.
    Reorder = "reorder";
    /// The publish stamp is ten seconds old.
    Stale = "stale";
    /// The checksum does not match.
    Torn = "torn";
}

/// A rate for each kind, as in `--fault nan=0.001,gap=0.01`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FaultRates {
    rates: Vec<(Fault, f64)>,
}

impl FromStr for FaultRates {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut rates = Vec::new();
        for part in text.split(',') {
            let (name, rate) = part.split_once('=').ok_or_else(|| format!("{part:?} is not NAME=RATE"))?;
            let known = || Fault::ALL.iter().map(|fault| fault.name()).collect::<Vec<_>>().join(", ");
            let fault = Fault::ALL
                .iter()
                .find(|fault| fault.name() == name)
                .ok_or_else(|| format!("no fault is called {name:?}; allowed: {}", known()))?;
            match rate.parse() {
                Ok(rate) if (0.0..=1.0).contains(&rate) => rates.push((*fault, rate)),
                _ => return Err(format!("{name} = {rate:?}; allowed: a share from 0 to 1")),
            }
        }
        Ok(Self { rates })
    }
}

/// Draws faults and applies them.
#[derive(Debug)]
pub struct Injector {
    rates: Vec<(Fault, f64)>,
    random: Random,
    /// The number that a reordering keeps for the next observation.
    owed: Option<u64>,
    counts: BTreeMap<&'static str, u64>,
}

/// The faults of one observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drawn {
    bits: u32,
}

impl Drawn {
    pub fn has(self, fault: Fault) -> bool {
        self.bits & 1 << fault as u32 != 0
    }
}

impl Injector {
    /// An injector that has spoiled nothing yet.
    pub fn new(rates: &FaultRates, seed: u64) -> Self {
        // A different stream from that of the market with the same seed.
        let random = Random::new(seed ^ 0x6661_756c_7473);
        Self { rates: rates.rates.clone(), random, owed: None, counts: BTreeMap::new() }
    }

    /// Draws the faults of the next observation.
    pub fn draw(&mut self) -> Drawn {
        let mut drawn = Drawn::default();
        for (fault, rate) in &self.rates {
            // A second reordering before the first is complete would only shift the numbers.
            let possible = *fault != Fault::Reorder || self.owed.is_none();
            if self.random.chance(*rate) && possible {
                drawn.bits |= 1 << *fault as u32;
                *self.counts.entry(fault.name()).or_default() += 1;
            }
        }
        drawn
    }

    /// Spoils one element, if that was drawn.
    pub fn spoil(&mut self, drawn: Drawn, payload: &mut [f32]) {
        for (fault, value) in
            [(Fault::Nan, f32::NAN), (Fault::Inf, f32::INFINITY), (Fault::OutOfRange, f32::MAX)]
        {
            if drawn.has(fault) {
                let at = (self.random.uniform() * payload.len() as f64) as usize;
                payload[at] = value;
            }
        }
    }

    /// Changes the header before it is sealed, and seals it.
    pub fn alter(
        &mut self,
        drawn: Drawn,
        mut header: ObservationHeader,
        payload: &[f32],
    ) -> ObservationHeader {
        if let Some(owed) = self.owed.take() {
            header.sequence = owed;
        } else if drawn.has(Fault::Reorder) {
            self.owed = Some(header.sequence);
            header.sequence = header.sequence.saturating_add(1);
        }
        if drawn.has(Fault::Stale) {
            header.ts_publish_ns = header.ts_publish_ns.saturating_sub(STALE_BY.0);
        }
        let mut header = header.sealed(payload);
        if drawn.has(Fault::Torn) {
            header.checksum ^= 1;
        }
        header
    }

    /// Uncounts a fault that was drawn but could not be applied.
    pub fn retract(&mut self, fault: Fault) {
        if let Some(count) = self.counts.get_mut(fault.name()) {
            *count -= 1;
        }
    }

    /// The number of faults of each kind.
    pub fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn injector(text: &str) -> Injector {
        Injector::new(&text.parse().unwrap(), 1)
    }

    #[test]
    fn rates_are_read_and_bad_ones_refused_with_what_is_allowed() {
        let rates: FaultRates = "nan=0.5,gap=1".parse().unwrap();
        assert_eq!(rates.rates, [(Fault::Nan, 0.5), (Fault::Gap, 1.0)]);
        for (bad, says) in
            [("nan", "NAME=RATE"), ("nan=2", "from 0 to 1"), ("wrong=0.1", "out_of_range"), ("", "NAME=RATE")]
        {
            let error = bad.parse::<FaultRates>().unwrap_err();
            assert!(error.contains(says), "{bad}: {error}");
        }
    }

    #[test]
    fn a_fault_comes_at_its_rate_and_is_counted() {
        let mut injector = injector("torn=0.1");
        let drawn = (0..10_000).filter(|_| injector.draw().has(Fault::Torn)).count();
        assert!((800..1_200).contains(&drawn), "{drawn}");
        assert_eq!(injector.counts()["torn"], drawn as u64);
    }

    #[test]
    fn each_fault_does_what_its_name_says() {
        let payload = [1.0f32; 3];
        let header = ObservationHeader { sequence: 5, ts_publish_ns: u64::MAX, ..Default::default() };
        let altered = |text: &str| {
            let mut injector = injector(text);
            let drawn = injector.draw();
            let mut spoiled = payload;
            injector.spoil(drawn, &mut spoiled);
            (injector.alter(drawn, header, &spoiled), spoiled)
        };
        let (torn, _) = altered("torn=1");
        assert!(!torn.is_whole(&payload));
        let (stale, _) = altered("stale=1");
        assert!(stale.is_whole(&payload) && stale.ts_publish_ns == u64::MAX - STALE_BY.0);
        let (nan, spoiled) = altered("nan=1");
        assert!(nan.is_whole(&spoiled) && spoiled.iter().filter(|value| value.is_nan()).count() == 1);
        assert_eq!(altered("inf=1").1.iter().filter(|value| value.is_infinite()).count(), 1);
        assert_eq!(altered("out_of_range=1").1.iter().filter(|value| **value == f32::MAX).count(), 1);
    }

    #[test]
    fn a_reordering_exchanges_two_numbers() {
        let mut injector = injector("reorder=1");
        let mut next = 10;
        let mut published = Vec::new();
        for _ in 0..4 {
            let drawn = injector.draw();
            let header = ObservationHeader { sequence: next, ..Default::default() };
            let sequence = injector.alter(drawn, header, &[]).sequence;
            // As `Feed` does.
            next = next.max(sequence + 1);
            published.push(sequence);
        }
        assert_eq!(published, [11, 10, 13, 12]);
    }
}
