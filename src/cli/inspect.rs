//! `escapement inspect POLICY`: prints the native engine's plan for a policy, or what stopped the lowering.
//!
//! ```text
//! $ escapement inspect config/example.bundle
//! config/example.bundle/policy.pt: 32 -> 3, avx512, f32 weights
//!   #  operator      fused  kernel           inputs         output  mul-adds  weight B  place
//!   0  torch.sub            binary (avx512)  [1,32] [1,32]  [32]    0         0         code/…/___torch_mangle_0.py:6
//!   1  torch.mul            binary (avx512)  [1,32] [1,32]  [32]    0         0         code/…/___torch_mangle_0.py:7
//!   2  torch.clamp          unary (avx512)   [1,32]         [32]    0         0         code/…/___torch_mangle_0.py:7
//!   3  torch.linear  tanh   dense (avx512)   [1,32]         [64]    2048      8512      code/…/___torch_mangle_0.py:8
//!   4  torch.linear  tanh   dense (avx512)   [1,64]         [64]    4096      16704     code/…/___torch_mangle_0.py:10
//!   5  torch.linear  clamp  dense (avx512)   [1,64]         [3]     192       832       code/…/___torch_mangle_0.py:12
//! 6336 multiply-adds, 26048 bytes of weights, 976 bytes of buffers
//! golden vectors: 512 agree, the worst at 1.19 % of the tolerance
//! one call: 301 ns at the median of 20000; 36 % of the multiply-add limit, 68 % of the load limit
//! ```
//!
//! The limits are those of the core, measured in the same run: multiply-adds from registers, and loads from
//! the cache level that the weights fit in. With `--weights bf16`, it shows the plan that would serve, the
//! kernels that were measured for it, and whether the bundle's golden vectors allow it:
//!
//! ```text
//! weights: f32 (avx512): 0.29 us; bf16 (widened, avx512) 0.31; bf16 (widened, avx2) 0.45
//! ```
//!
//! A refused file ends with exit code 65. Standard output shows the file, line and operator that stopped the
//! lowering, and whether libtorch may run it. With `--json`, `"lowered"` is `true` for a plan and `false` for
//! a refusal.

use super::CommandResult;
use super::exit::{ExitCode, Failure};
use crate::bundle::{Candidate, Proof, Trust, Weighed, weigh};
use crate::latency::measure_back_to_back;
use crate::policy::{Policy, WeightChoice, Weights, Widths};
use escapement_engine::synthetic_observations;
use escapement_native::{Description, Native, Place, Refusal, RefusalKind, StepDescription};
use escapement_ring::clock::{Clock, MachineClock, MonotonicClock};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Show the plan of the native engine for a policy
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// A TorchScript file, or a bundle directory
    policy: PathBuf,
    /// Elements of one observation, where the file does not say
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    dimension: Option<u16>,
    /// How weights are held: f32, bf16, or one kernel by name, like bf16_avx512
    #[arg(long, default_value = "f32")]
    weights: Weights,
    /// Print the plan as JSON
    #[arg(long)]
    json: bool,
}

/// Calls whose median is printed under the plan.
const CALLS: u64 = 20_000;

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    let candidate = Candidate::read(&arguments.policy, &Trust::default())?;
    let manifest = candidate.manifest();
    let observation =
        arguments.dimension.map(usize::from).or(manifest.map(|manifest| manifest.observation.dimension));
    let file = candidate.policy_file();
    let vectors = match &candidate {
        Candidate::Bundle(bundle) => Some(bundle.golden()),
        Candidate::Unproven(_) => None,
    };
    let widths = Widths { observation, action: None };
    let weighed = match weigh(file, vectors, arguments.weights, widths, &MonotonicClock)? {
        Ok(weighed) => weighed,
        Err(refusal) => return Err(refused(arguments, file.path(), refusal)),
    };
    let Weighed { mut policy, proof, choice } = weighed;
    let plan = policy.describe();
    let golden = Golden::of(proof);
    let speed = measure(&mut policy, &plan)?;
    if arguments.json {
        let mut json = serde_json::to_value(&plan).expect("a plan is plain data");
        json["policy"] = json!(file.path());
        json["lowered"] = json!(true);
        json["golden"] = golden.as_json();
        json["candidates"] = candidates(&choice);
        json["speed"] = serde_json::to_value(&speed).expect("figures are plain numbers");
        println!("{json:#}");
        return Ok(ExitCode::Ok);
    }
    let states = match plan.states.len() {
        0 => String::new(),
        _ => format!(", carried states {}", shapes(&plan.states)),
    };
    println!(
        "{}: {} -> {}{states}, {}, {} weights",
        file.path().display(),
        plan.observation,
        plan.action,
        plan.isa,
        plan.precision
    );
    print_steps(&plan.steps);
    println!(
        "{} multiply-adds, {} bytes of weights, {} bytes of buffers",
        plan.multiply_adds, plan.weight_bytes, plan.arena_bytes
    );
    if !choice.candidates.is_empty() {
        println!("weights: {choice}");
    }
    println!("golden vectors: {}", golden.as_text(arguments.weights));
    let of_limits = match (speed.multiply_add_fraction, speed.load_fraction) {
        (Some(multiply), Some(load)) => format!(
            "; {:.0} % of the multiply-add limit, {:.0} % of the load limit",
            100.0 * multiply,
            100.0 * load
        ),
        _ => String::new(),
    };
    println!("one call: {} ns at the median of {}{of_limits}", speed.p50_ns, speed.calls);
    Ok(ExitCode::Ok)
}

/// Prints what stopped the lowering in full on standard output, before the line that every failure gets.
fn refused(arguments: &Arguments, path: &Path, refusal: Refusal) -> Failure {
    let unsupported = refusal.kind == RefusalKind::Unsupported;
    let torch = cfg!(feature = "torch");
    if arguments.json {
        let json = json!({
            "policy": path,
            "lowered": false,
            "refused": &refusal,
            "torch": if unsupported { json!({ "built_in": torch }) } else { Value::Null },
        });
        println!("{json:#}");
    } else {
        println!("{}: not lowered", path.display());
        if let Some(Place { file, line, operator }) = &refusal.place {
            println!("  file      {file}");
            println!("  line      {line}");
            println!("  operator  {operator}");
        }
        println!("  reason    {}", refusal.reason);
        if unsupported {
            println!(
                "  torch     may run it: {}",
                if torch {
                    "built in, and what `auto` takes"
                } else {
                    "run scripts/libtorch.sh, then build with --features torch"
                }
            );
        }
    }
    refusal.at(path).into()
}

/// The result of the golden vectors with these weights.
enum Golden {
    /// There are no golden vectors: the file has no bundle.
    None,
    Agrees(Proof),
    Refuses(String),
}

/// The kernels that were measured.
fn candidates(choice: &WeightChoice) -> Value {
    let each = choice.candidates.iter();
    each.map(|it| json!({ "kernel": it.kernel.name(), "ns": it.ns, "refused": it.refused })).collect()
}

impl Golden {
    fn of(proof: Option<Result<Proof, String>>) -> Self {
        match proof {
            None => Self::None,
            Some(Ok(proof)) => Self::Agrees(proof),
            Some(Err(reason)) => Self::Refuses(reason),
        }
    }

    fn as_json(&self) -> Value {
        match self {
            Self::None => Value::Null,
            Self::Agrees(proof) => {
                json!({ "agrees": true, "vectors": proof.vectors, "worst": proof.worst })
            }
            Self::Refuses(reason) => json!({ "agrees": false, "reason": reason }),
        }
    }

    fn as_text(&self, weights: Weights) -> String {
        match self {
            Self::None if weights.are_rounded() => {
                format!("none, so that `run` refuses {} weights; only a bundle has any", weights.name())
            }
            Self::None => "none: a file that stands alone is unproven".to_owned(),
            Self::Agrees(proof) => {
                format!("{} agree, the worst at {:.2} % of the tolerance", proof.vectors, 100.0 * proof.worst)
            }
            Self::Refuses(reason) => format!("refused; {reason}"),
        }
    }
}

/// How fast the plan runs, and its share of the core's limits.
#[derive(serde::Serialize)]
struct Speed {
    calls: u64,
    p50_ns: u64,
    multiply_add_fraction: Option<f64>,
    load_fraction: Option<f64>,
}

fn measure(policy: &mut Native, plan: &Description) -> Result<Speed, Failure> {
    let mut clock = MachineClock::new();
    let observations = synthetic_observations(policy.dimensions().observation, 64);
    let p50_ns = measure_back_to_back(policy, &mut clock, &observations, CALLS)
        .map_err(|error| Failure::new(ExitCode::Bundle, error.to_string()))?
        .inference
        .quantile_ns(0.5);
    let (multiply_add_fraction, load_fraction) = fractions(&clock, plan, p50_ns).unzip();
    Ok(Speed { calls: CALLS, p50_ns, multiply_add_fraction, load_fraction })
}

#[cfg(target_arch = "x86_64")]
fn fractions(clock: &MachineClock, plan: &Description, p50_ns: u64) -> Option<(f64, f64)> {
    let limits = escapement_native::kernels::CoreLimits::measure(|call| {
        let begun = clock.now();
        call();
        clock.now().since(begun).0.max(1) as f64
    })?;
    let nanos = p50_ns.max(1) as f64;
    Some((
        limits.multiply_fraction(plan.multiply_adds, nanos),
        limits.load_fraction(plan.weight_bytes, nanos),
    ))
}

#[cfg(not(target_arch = "x86_64"))]
fn fractions(_clock: &MachineClock, _plan: &Description, _p50_ns: u64) -> Option<(f64, f64)> {
    None
}

fn print_steps(steps: &[StepDescription]) {
    let headings = ["#", "operator", "fused", "kernel", "inputs", "output", "mul-adds", "weight B", "place"]
        .map(str::to_owned);
    let mut rows = vec![headings];
    rows.extend(steps.iter().enumerate().map(|(index, step)| {
        [
            index.to_string(),
            step.operator.clone(),
            step.fused.join(" "),
            step.kernel.clone(),
            shapes(&step.inputs),
            shape(&step.outputs),
            step.multiply_adds.to_string(),
            step.weight_bytes.to_string(),
            step.place.clone(),
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("  {}", cells.join("  ").trim_end());
    }
}

fn shape(lengths: &[usize]) -> String {
    let lengths: Vec<String> = lengths.iter().map(usize::to_string).collect();
    format!("[{}]", lengths.join(","))
}

fn shapes(all: &[Vec<usize>]) -> String {
    all.iter().map(|lengths| shape(lengths)).collect::<Vec<_>>().join(" ")
}
