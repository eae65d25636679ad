//! Escapement's native backend beside other engines: the same networks, in one run, on one pinned core, one
//! call at a time.
//!
//! `policy MODELS [--core N] [--calls N] [--rate N]...`, where `models.py` wrote MODELS. Every engine must
//! first reproduce PyTorch's output. For bf16 weights the tolerance is that of their rounding. Then the
//! engines take turns, so that a disturbance of the machine affects all of them. With `--rate`, a table for
//! each rate follows: calls so many times a second, with spinning in between. Escapement has two rows there,
//! without and with keep-warm.

mod engine;
#[cfg(feature = "torch")]
mod libtorch;
mod network;
mod onnxruntime;
mod ours;
#[cfg(feature = "rtneural")]
mod rtneural;
mod tract;

use std::path::PathBuf;
use std::time::Duration;

use escapement::denormals::FlushDenormals;

use ort::environment::Environment;

use engine::{Engine, Result};
use escapement_test_support::timing::{Sample, Timer};
use network::{Files, NETWORKS, Network};

/// Turns in which the calls of each engine are split.
const TURNS: usize = 10;
/// How long an engine is measured in one turn of a paced table.
const PACED_TURN: Duration = Duration::from_millis(300);
/// The quiet time before Escapement is kept warm in the paced tables: what `keep_warm_us = "auto"` picks for
/// it.
const KEEP_WARM: Duration = Duration::from_micros(10);

struct Options {
    models: PathBuf,
    core: usize,
    calls: usize,
    /// Calls a second of the paced tables.
    rates: Vec<usize>,
}

fn options() -> Result<Options> {
    let last_core = std::thread::available_parallelism()?.get() - 1;
    let mut options = Options { models: PathBuf::new(), core: last_core, calls: 20_000, rates: Vec::new() };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let number =
            |value: Option<String>| -> Result<usize> { Ok(value.ok_or("a number is missing")?.parse()?) };
        match argument.as_str() {
            "--core" => options.core = number(arguments.next())?,
            "--rate" => options.rates.push(number(arguments.next())?.max(1)),
            "--calls" => options.calls = number(arguments.next())?,
            path => options.models = PathBuf::from(path),
        }
    }
    if !options.models.is_dir() {
        return Err(
            "usage: policy MODELS [--core N] [--calls N] [--rate N]..., where models.py wrote MODELS".into(),
        );
    }
    Ok(options)
}

fn load(environment: &Environment, network: &Network, files: &Files) -> Result<Vec<Box<dyn Engine>>> {
    let mut engines: Vec<Box<dyn Engine>> = vec![
        Box::new(ours::Ours::load(network, files, ours::Weights::Single)?),
        Box::new(ours::Ours::load(network, files, ours::Weights::Fastest)?),
    ];
    #[cfg(feature = "rtneural")]
    for variant in &rtneural::VARIANTS {
        engines.push(Box::new(rtneural::RtNeural::load(variant, network, files)?));
    }
    engines.push(Box::new(onnxruntime::OnnxRuntime::load(environment, network, files)?));
    engines.push(Box::new(tract::Tract::load(network, files)?));
    #[cfg(feature = "torch")]
    engines.push(Box::new(libtorch::LibTorch::load(network, files)?));
    Ok(engines)
}

/// Compares what the engine computes with PyTorch's output.
fn check(engine: &mut dyn Engine, network: &Network, files: &Files) -> Result<()> {
    engine.settle(network)?;
    let (output, expected) = (engine.output()?, engine.expected(network, files));
    let tolerance = engine.tolerance();
    let agrees = |(&a, &b): (&f32, &f32)| (a - b).abs() <= tolerance * b.abs().max(1.0);
    if output.len() != expected.len() || !output.iter().zip(&expected).all(agrees) {
        return Err(
            format!("{} does not compute what PyTorch computed for {}", engine.name(), network.name).into()
        );
    }
    Ok(())
}

/// Measures the engines without pauses and prints their table.
fn back_to_back(timer: &Timer, options: &Options, network: &Network, engines: &mut [Box<dyn Engine>]) {
    let mut samples: Vec<Sample> = engines.iter().map(|_| Sample::with_capacity(options.calls)).collect();
    for _ in 0..TURNS {
        for (engine, sample) in engines.iter_mut().zip(&mut samples) {
            // A failure after the check would be a defect of the engine. It must not count as a fast
            // call.
            timer.sample(sample, options.calls / TURNS, &mut || engine.call().expect("the engine failed"));
        }
    }
    println!("\n{}", network.name);
    let rows: Vec<_> = engines.iter().map(|engine| engine.name()).zip(samples).collect();
    print_table(&rows, rows[0].1.quantile(0.5), rows[0].1.quantile(0.999));
}

/// Measures the engines `rate` times a second and prints their table. Ratios are to Escapement with
/// keep-warm.
fn paced(timer: &Timer, network: &Network, engines: &mut [Box<dyn Engine>], rate: usize) {
    let gap = Duration::from_secs(1) / rate as u32;
    let calls = (PACED_TURN.as_nanos() / gap.as_nanos()).max(1) as usize;
    let mut rows: Vec<(String, Sample)> = Vec::new();
    for turn in 0..TURNS {
        for (index, engine) in engines.iter_mut().enumerate() {
            // Only Escapement has keep-warm, so only it gets two rows: the first two.
            let ways = if index == 0 { &[Some(KEEP_WARM), None][..] } else { &[None] };
            for (row, &keep_warm) in ways.iter().enumerate() {
                let at = if index == 0 { row } else { index + 1 };
                if turn == 0 {
                    let name = engine.name();
                    let name = if keep_warm.is_some() { format!("{name}, kept warm") } else { name };
                    rows.push((name, Sample::with_capacity(TURNS * calls)));
                }
                timer.sample_paced(&mut rows[at].1, calls, gap, keep_warm, &mut || {
                    engine.call().expect("the engine failed");
                });
            }
        }
    }
    println!("\n{}, {rate} a second", network.name);
    print_table(&rows, rows[0].1.quantile(0.5), rows[0].1.quantile(0.999));
}

/// Prints a row for each engine. `p50` and `p999` are what the ratios are to.
fn print_table(rows: &[(String, Sample)], p50: f64, p999: f64) {
    println!(
        "  {:<28} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8} {:>12} {:>8}",
        "engine", "min us", "p50", "p99", "p99.9", "max", ">100 us", "calls", "p50 ratio", "p99.9"
    );
    for (name, sample) in rows {
        let us = |share| sample.quantile(share) / 1e3;
        println!(
            "  {:<28} {:>9.3} {:>9.3} {:>9.3} {:>9.3} {:>9.1} {:>8.3}% {:>8} {:>11.1}x {:>7.1}x",
            name,
            us(0.0),
            us(0.5),
            us(0.99),
            us(0.999),
            us(1.0),
            sample.share_above(1e5) * 100.0,
            sample.len(),
            sample.quantile(0.5) / p50,
            sample.quantile(0.999) / p999,
        );
    }
}

fn main() -> Result<()> {
    let options = options()?;
    let pinned = core_affinity::set_for_current(core_affinity::CoreId { id: options.core });
    let _flush = FlushDenormals::enter();
    let timer = Timer::calibrate();
    println!(
        "core {}{}, empty measurement {:.1} ns (subtracted), {} calls each in {TURNS} turns",
        options.core,
        if pinned { "" } else { " (NOT pinned)" },
        timer.overhead_ns(),
        options.calls
    );
    // A process has one environment. ORT_DYLIB_PATH names its library.
    let environment = ort::environment::init().build()?;
    for network in &NETWORKS {
        let files = Files::new(&options.models, network);
        let mut engines = load(&environment, network, &files)?;
        for engine in &mut engines {
            check(&mut **engine, network, &files)?;
        }
        back_to_back(&timer, &options, network, &mut engines);
        for &rate in &options.rates {
            paced(&timer, network, &mut engines, rate);
        }
    }
    Ok(())
}
