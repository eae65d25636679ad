//! The synthetic market: reproducible, well formed, and of the recording's scale.

use super::super::features::{BOUNDS, NAMES};
use super::*;

const EVENTS: usize = 60_000;

/// Mean and standard deviation of each feature over the recording that the market imitates (30,183
/// observations).
#[rustfmt::skip]
const RECORDED: [(f64, f64); N] = [
    (0.0876, 0.2211), (0.0477, 0.2207), (0.0006, 0.0773), (-0.0215, 0.7302),
    (-0.0209, 0.4768), (-0.0306, 0.1936), (-1.5368, 2.5086), (-1.42, 2.406),
    (0.0062, 0.6543), (-0.0537, 1.2726), (-0.0092, 2.5409), (0.0069, 0.6684),
    (-0.0529, 1.2863), (-0.008, 2.5485), (0.6749, 1.0315), (0.5508, 0.4118),
    (-0.0095, 0.469), (-0.0264, 0.4098), (-0.0335, 0.1778), (0.0344, 0.6476),
    (0.0443, 0.6811), (0.0104, 0.4403), (1.4656, 1.3489), (2.9689, 1.0419),
    (5.2479, 0.4919), (3.1188, 0.8453), (4.4095, 0.553), (0.0284, 0.9994),
    (-0.0293, 0.5803), (2.6487, 2.3634), (3.7298, 2.9787), (1.0013, 1.395),
];

#[test]
fn a_seed_gives_the_same_events_and_another_seed_others() {
    let run = |seed| {
        let mut market = Market::new(seed, 0, RECORDED_EVENTS_PER_S);
        std::array::from_fn::<_, 1000, _>(|_| market.next_event())
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn events_are_well_formed_and_come_in_bursts_at_the_rate_asked_for() {
    for (seed, rate) in [(1, RECORDED_EVENTS_PER_S), (2, 40_000.0)] {
        let mut market = Market::new(seed, 5_000, rate);
        let (mut last_ns, mut short, mut trades) = (5_000, 0, 0);
        for index in 0..EVENTS {
            let ts_ns = match market.next_event() {
                Event::Quote { ts_ns, bid, bid_qty, ask, ask_qty } => {
                    assert!(0.0 < bid && bid < ask, "bid {bid}, ask {ask}");
                    assert!(bid_qty > 0.0 && ask_qty > 0.0);
                    ts_ns
                }
                Event::Trade { ts_ns, price, qty, .. } => {
                    assert!(index > 0, "a market begins with a quote");
                    assert!(price > 0.0 && qty > 0.0);
                    trades += 1;
                    ts_ns
                }
            };
            assert!(ts_ns >= last_ns);
            short += usize::from(((ts_ns - last_ns) as f64) < 0.01e9 / rate);
            last_ns = ts_ns;
        }
        let measured = EVENTS as f64 / (1e-9 * (last_ns - 5_000) as f64);
        assert!((measured / rate - 1.0).abs() < 0.2, "{measured} events/s, asked for {rate}");
        // With independent exponential gaps, one in a hundred would be this short.
        assert!(short > EVENTS / 4, "{short} gaps below a hundredth of the mean");
        assert!((EVENTS / 8..EVENTS / 3).contains(&trades), "{trades} trades");
    }
}

#[test]
fn features_are_of_the_recordings_scale() {
    let mut synthetic = SyntheticObservations::new(1, 0, RECORDED_EVENTS_PER_S);
    let mut out = [0.0; N];
    let (mut sums, mut squares) = ([0.0; N], [0.0; N]);
    for _ in 0..EVENTS {
        synthetic.next_into(&mut out);
        for (index, value) in out.into_iter().map(f64::from).enumerate() {
            assert!((BOUNDS[index].0..=BOUNDS[index].1).contains(&value), "{} is {value}", NAMES[index]);
            sums[index] += value;
            squares[index] += value * value;
        }
    }
    for (index, (recorded_mean, recorded_deviation)) in RECORDED.into_iter().enumerate() {
        let mean = sums[index] / EVENTS as f64;
        let deviation = (squares[index] / EVENTS as f64 - mean * mean).sqrt();
        let name = NAMES[index];
        assert!(
            (mean - recorded_mean).abs() < recorded_deviation,
            "{name}: mean {mean}, recorded {recorded_mean}"
        );
        let ratio = deviation / recorded_deviation;
        assert!((0.25..4.0).contains(&ratio), "{name}: deviation {deviation}, recorded {recorded_deviation}");
    }
}
