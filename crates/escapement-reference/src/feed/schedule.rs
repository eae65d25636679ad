//! When each observation is due. The schedule is an open loop: it is fixed before the first observation is
//! published. A feed that falls behind does not delay it, and the feed's lag is measured against it.

use escapement_ring::clock::Nanos;
use std::num::NonZeroU64;
use std::str::FromStr;

/// Observations a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// Each observation right after the one before.
    Max,
    /// This many a second.
    PerSecond(NonZeroU64),
}

/// The highest rate allowed: one observation a nanosecond.
const MAX_RATE: u64 = 1_000_000_000;

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self::Max);
        }
        match text.parse() {
            Ok(rate @ 1..=MAX_RATE) => {
                Ok(Self::PerSecond(NonZeroU64::new(rate).expect("the range begins at 1")))
            }
            _ => Err("allowed: a whole number from 1 to 1000000000, or max".to_owned()),
        }
    }
}

/// The speed of recorded time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Recorded times are ignored: each observation right after the one before.
    Max,
    /// Recorded time passes this many times faster.
    Times(f64),
}

impl FromStr for Pace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self::Max);
        }
        match text.parse() {
            Ok(times) if (1e-3..=1e6).contains(&times) => Ok(Self::Times(times)),
            _ => Err("allowed: a number from 0.001 to 1000000, or max".to_owned()),
        }
    }
}

/// The rule that says when each observation is due.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Schedule {
    /// Groups of `burst` observations back to back. The groups are evenly spaced, so that the mean rate is
    /// `rate`.
    Even {
        /// Observations a second.
        rate: Rate,
        /// Observations of one group.
        burst: NonZeroU64,
    },
    /// At the source's own times.
    AsTimed {
        /// How many times faster.
        pace: Pace,
    },
}

impl Schedule {
    /// The time from the start at which observation `index` is due. `since_first` is the source's own time
    /// since its first observation.
    pub fn due(&self, index: u64, since_first: Nanos) -> Nanos {
        match *self {
            Self::Even { rate: Rate::Max, .. } | Self::AsTimed { pace: Pace::Max } => Nanos(0),
            Self::Even { rate: Rate::PerSecond(rate), burst } => {
                let first_of_burst = index - index % burst;
                // 128 bits, so that nothing is rounded. A sum of rounded periods would drift off the rate.
                let due = u128::from(first_of_burst) * 1_000_000_000 / u128::from(rate.get());
                Nanos(u64::try_from(due).unwrap_or(u64::MAX))
            }
            Self::AsTimed { pace: Pace::Times(times) } => Nanos((since_first.0 as f64 / times) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn even(rate: u64, burst: u64) -> Schedule {
        let nonzero = |number| NonZeroU64::new(number).unwrap();
        Schedule::Even { rate: Rate::PerSecond(nonzero(rate)), burst: nonzero(burst) }
    }

    fn dues(schedule: Schedule, count: u64) -> Vec<u64> {
        (0..count).map(|index| schedule.due(index, Nanos(0)).0).collect()
    }

    #[test]
    fn evenly_spaced_and_in_bursts() {
        assert_eq!(dues(even(1_000_000, 1), 4), [0, 1_000, 2_000, 3_000]);
        assert_eq!(dues(even(1_000_000, 3), 7), [0, 0, 0, 3_000, 3_000, 3_000, 6_000]);
    }

    #[test]
    fn a_rate_that_does_not_divide_a_second_does_not_drift() {
        assert_eq!(even(3, 1).due(3_000_000_000, Nanos(0)), Nanos(1_000_000_000_000_000_000));
    }

    #[test]
    fn recorded_time_is_scaled() {
        let at = |pace| Schedule::AsTimed { pace }.due(5, Nanos(1_000));
        assert_eq!(at(Pace::Times(1.0)), Nanos(1_000));
        assert_eq!(at(Pace::Times(10.0)), Nanos(100));
        assert_eq!(at(Pace::Times(0.5)), Nanos(2_000));
        assert_eq!(at(Pace::Max), Nanos(0));
    }

    #[test]
    fn what_is_typed_is_checked() {
        assert_eq!("max".parse(), Ok(Rate::Max));
        assert_eq!("40000".parse(), Ok(Rate::PerSecond(NonZeroU64::new(40_000).unwrap())));
        assert_eq!("2.5".parse(), Ok(Pace::Times(2.5)));
        for bad in ["0", "-1", "fast", "1.5", "1000000001", ""] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
        for bad in ["0", "-1", "NaN", "inf", "slow", "1e7"] {
            assert!(bad.parse::<Pace>().is_err(), "{bad}");
        }
    }

    proptest! {
        /// Due times never decrease, and the mean rate is the one asked for.
        #[test]
        fn the_schedule_goes_forwards_at_its_rate(
            rate in 1u64..2_000_000,
            burst in 1u64..50,
            index in 0u64..1_000_000_000,
        ) {
            let schedule = even(rate, burst);
            let (this, next) = (schedule.due(index, Nanos(0)).0, schedule.due(index + 1, Nanos(0)).0);
            prop_assert!(next >= this);
            let exact = u128::from(index) * 1_000_000_000 / u128::from(rate);
            let period = u128::from(burst) * 1_000_000_000 / u128::from(rate) + 1;
            prop_assert!(u128::from(this) <= exact && exact - u128::from(this) <= period);
        }
    }
}
