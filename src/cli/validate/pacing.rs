//! How the paced calls are paced: the arguments, and what they mean.

use crate::cli::attach::install_stop_signals;
use crate::cli::exit::{ExitCode, Failure};
use crate::latency::{ArrivalSource, Pacing};
use escapement_engine::KeepWarm;
use escapement_reference::demo::FeedBeside;
use escapement_reference::feed::Arrivals;
use escapement_reference::stop::StopSignals;
use escapement_ring::clock::Nanos;
use std::num::NonZeroU64;

/// Observations a second, if nothing else is said.
const DEFAULT_RATE: NonZeroU64 = NonZeroU64::new(1_000).expect("not zero");
/// The paced calls take this long, if their number is not given, unless there are [`MOST`] before.
const SPAN: Nanos = Nanos::from_millis(10_000);
const MOST: usize = 10_000;

/// How observations arrive, and what is done in between.
#[derive(Debug, clap::Args)]
pub(super) struct PacingArguments {
    /// Paced calls: this many observations a second, evenly [default: 1000]
    #[arg(long, value_name = "N", value_parser = rate, conflicts_with = "gaps")]
    rate: Option<NonZeroU64>,
    /// Paced calls: poisson:N, N a second at random; or a file, .obs or one gap a line in microseconds
    #[arg(long, value_name = "poisson:N|FILE")]
    gaps: Option<String>,
    /// Paced calls [default: as many as arrive in 10 s, at most 10000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    paced_trials: Option<u32>,
    /// Calls while no observation waits: off, auto, or after so many microseconds without work
    #[arg(long, value_name = "off|auto|US", value_parser = keep_warm, default_value = "auto")]
    keep_warm: KeepWarm,
    /// Take the paced observations from a feed in a process of its own, through shared memory
    #[arg(long, conflicts_with_all = ["gaps", "observations"])]
    feed: bool,
}

/// A feed's process, and the signals that end it in order.
pub(super) struct RunningFeed {
    _feed: FeedBeside,
    pub(super) stop: Option<StopSignals>,
}

impl PacingArguments {
    /// Builds the pacing, and starts the feed if there is to be one. `width` is that of an observation, and
    /// `core` the one that the feed must leave alone.
    pub(super) fn start(
        &self,
        width: Option<usize>,
        core: Option<usize>,
    ) -> Result<(Pacing, Option<RunningFeed>), Failure> {
        let arrivals = match &self.gaps {
            Some(gaps) => Arrivals::parse(gaps).map_err(|error| {
                let Failure { code, message } = error.into();
                Failure::new(code, format!("--gaps: {message}"))
            })?,
            None => Arrivals::Even(self.rate.unwrap_or(DEFAULT_RATE)),
        };
        let calls = match self.paced_trials {
            Some(calls) => calls as usize,
            None => arrivals.within(SPAN, MOST),
        };
        let words = arrivals.to_string();
        let (true, Arrivals::Even(rate)) = (self.feed, &arrivals) else {
            return Ok((Pacing::scheduled(arrivals.times(calls), words, self.keep_warm), None));
        };
        let Some(width) = width else {
            let message = "--feed: the policy does not say how wide an observation is; say --dimension N";
            return Err(Failure::new(ExitCode::Usage, message));
        };
        let mut stop = install_stop_signals()?;
        let feed = FeedBeside::start(width, *rate, core, &mut stop)?;
        let (ring, header) = feed.attach()?;
        let gap = Nanos(1_000_000_000 / rate.get());
        let source = ArrivalSource::Fed { ring, header, calls: calls as u64, gap };
        let running = RunningFeed { _feed: feed, stop: Some(stop) };
        Ok((Pacing { source, words, keep_warm: self.keep_warm }, Some(running)))
    }
}

fn rate(text: &str) -> Result<NonZeroU64, String> {
    match text.parse() {
        Ok(rate @ 1..=Arrivals::MAX_RATE) => Ok(NonZeroU64::new(rate).expect("the range begins at 1")),
        _ => Err(format!("allowed: a whole number from 1 to {}", Arrivals::MAX_RATE)),
    }
}

/// The same values as `engine.keep_warm_us`, and the word `off`.
fn keep_warm(text: &str) -> Result<KeepWarm, String> {
    match (text, text.parse::<u64>()) {
        ("off", _) | (_, Ok(0)) => Ok(KeepWarm::Off),
        ("auto", _) => Ok(KeepWarm::Auto),
        (_, Ok(micros @ 1..=1_000_000)) => Ok(KeepWarm::Every(Nanos::from_micros(micros))),
        _ => Err("allowed: off, auto, or microseconds from 0 (off) to 1000000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_checked() {
        assert_eq!(keep_warm("off"), Ok(KeepWarm::Off));
        assert_eq!(keep_warm("0"), Ok(KeepWarm::Off));
        assert_eq!(keep_warm("auto"), Ok(KeepWarm::Auto));
        assert_eq!(keep_warm("20"), Ok(KeepWarm::Every(Nanos(20_000))));
        for bad in ["on", "-1", "1.5", "1000001", ""] {
            assert!(keep_warm(bad).is_err(), "{bad}");
        }
        assert_eq!(rate("1000000").map(NonZeroU64::get), Ok(1_000_000));
        for bad in ["0", "-1", "max", "1000001", ""] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_default_ends_after_ten_seconds_or_ten_thousand_calls() {
        let calls = |rate, paced_trials| {
            let arguments = PacingArguments {
                rate: NonZeroU64::new(rate),
                gaps: None,
                paced_trials,
                keep_warm: KeepWarm::Off,
                feed: false,
            };
            let (pacing, _) = arguments.start(None, None).expect("it is plain");
            match pacing.source {
                ArrivalSource::Scheduled(times) => times.len(),
                ArrivalSource::Fed { .. } => panic!("there is no feed"),
            }
        };
        assert_eq!(calls(1, None), 10);
        assert_eq!(calls(1_000, None), 10_000);
        assert_eq!(calls(50_000, None), 10_000);
        assert_eq!(calls(50_000, Some(3)), 3);
    }
}
