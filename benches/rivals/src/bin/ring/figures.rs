//! Figures of many short repetitions, and the tables they end in.

use hdrhistogram::Histogram;

/// What one repetition of a round-trip run found; half round trips, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub struct RoundTrip {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
    pub count: u64,
    /// Median of the means of short blocks, which resolve finer than the counter. They include the bench's
    /// own work between two round trips, which is the same for every ring.
    pub block: f64,
}

impl RoundTrip {
    /// Halves what the histogram of whole round trips says.
    pub fn of(whole: &Histogram<u64>, block_means: Vec<f64>) -> Self {
        let half = |nanos: u64| nanos as f64 / 2.0;
        Self {
            p50: half(whole.value_at_quantile(0.5)),
            p99: half(whole.value_at_quantile(0.99)),
            p999: half(whole.value_at_quantile(0.999)),
            max: half(whole.max()),
            count: whole.len(),
            block: median(block_means) / 2.0,
        }
    }
}

/// An empty histogram of whole round trips.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 10_000_000_000, 3).expect("allowed bounds")
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    assert!(!values.is_empty());
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints throughputs, in messages per second, each with its ratio to the first row's.
pub fn print_throughput(rows: &[(String, Vec<f64>)]) {
    println!("\n| ring | median, M messages/s | best | worst | ours : this (median) | ours : this (best) |");
    println!("|---|---|---|---|---|---|");
    let best = |values: &[f64]| values.iter().copied().fold(f64::MIN, f64::max);
    let worst = |values: &[f64]| values.iter().copied().fold(f64::MAX, f64::min);
    let ours = &rows[0].1;
    for (name, values) in rows {
        println!(
            "| {name} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} |",
            median(values.clone()) / 1e6,
            best(values) / 1e6,
            worst(values) / 1e6,
            median(ours.clone()) / median(values.clone()),
            best(ours) / best(values),
        );
    }
}

/// Prints half round trips, each with its ratio to the first row's. Every percentile is the median over the
/// repetitions; the maximum and the count are those of all repetitions together.
pub fn print_round_trip(rows: &[(String, Vec<RoundTrip>)]) {
    println!(
        "\n| ring | p50, ns | p99 | p99.9 | max | count | blocks of 32 | best | \
         this : ours (p50) | (blocks) |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let over = |runs: &[RoundTrip], field: fn(&RoundTrip) -> f64| median(runs.iter().map(field).collect());
    let best = |runs: &[RoundTrip]| runs.iter().map(|run| run.block).fold(f64::MAX, f64::min);
    let ours = &rows[0].1;
    for (name, runs) in rows {
        println!(
            "| {name} | {:.0} | {:.0} | {:.0} | {:.0} | {} | {:.1} | {:.1} | {:.2} | {:.2} |",
            over(runs, |run| run.p50),
            over(runs, |run| run.p99),
            over(runs, |run| run.p999),
            runs.iter().map(|run| run.max).fold(0.0, f64::max),
            runs.iter().map(|run| run.count).sum::<u64>(),
            over(runs, |run| run.block),
            best(runs),
            over(runs, |run| run.p50) / over(ours, |run| run.p50),
            over(runs, |run| run.block) / over(ours, |run| run.block),
        );
    }
}
