//! Escapement's native backend beside other engines: the same networks, in one run, on one pinned core, one
//! call at a time.
//!
//! `policy MODELS [--core N] [--calls N]`, where `models.py` wrote MODELS. Every engine must first reproduce
//! PyTorch's output. For bf16 weights the tolerance is that of their rounding. Then the engines take turns,
//! so that a disturbance of the machine affects all of them.

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

use escapement::denormals::FlushDenormals;

use ort::environment::Environment;

use engine::{Engine, Result};
use escapement_test_support::timing::{Sample, Timer};
use network::{Files, NETWORKS, Network};

/// Turns in which the calls of each engine are split.
const TURNS: usize = 10;

struct Options {
    models: PathBuf,
    core: usize,
    calls: usize,
}

fn options() -> Result<Options> {
    let last_core = std::thread::available_parallelism()?.get() - 1;
    let mut options = Options { models: PathBuf::new(), core: last_core, calls: 20_000 };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let number =
            |value: Option<String>| -> Result<usize> { Ok(value.ok_or("a number is missing")?.parse()?) };
        match argument.as_str() {
            "--core" => options.core = number(arguments.next())?,
            "--calls" => options.calls = number(arguments.next())?,
            path => options.models = PathBuf::from(path),
        }
    }
    if !options.models.is_dir() {
        return Err("usage: policy MODELS [--core N] [--calls N], where models.py wrote MODELS".into());
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
        let mut samples: Vec<Sample> = engines.iter().map(|_| Sample::with_capacity(options.calls)).collect();
        for _ in 0..TURNS {
            for (engine, sample) in engines.iter_mut().zip(&mut samples) {
                // A failure after the check would be a defect of the engine. It must not count as a fast
                // call.
                timer
                    .sample(sample, options.calls / TURNS, &mut || engine.call().expect("the engine failed"));
            }
        }
        println!("\n{}", network.name);
        println!(
            "  {:<28} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8} {:>12} {:>8}",
            "engine", "min us", "p50", "p99", "p99.9", "max", "calls", "p50 ratio", "p99.9"
        );
        let (p50, tail) = (samples[0].quantile(0.5), samples[0].quantile(0.999));
        for (engine, sample) in engines.iter().zip(&samples) {
            let us = |share| sample.quantile(share) / 1e3;
            println!(
                "  {:<28} {:>9.3} {:>9.3} {:>9.3} {:>9.3} {:>9.1} {:>8} {:>11.1}x {:>7.1}x",
                engine.name(),
                us(0.0),
                us(0.5),
                us(0.99),
                us(0.999),
                us(1.0),
                sample.len(),
                sample.quantile(0.5) / p50,
                sample.quantile(0.999) / tail,
            );
        }
    }
    Ok(())
}
