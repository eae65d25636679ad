//! `escapement bundle verify|show|diff|sign-hint`: shows and verifies a bundle, and compares two bundles.
//!
//! ```text
//! $ escapement bundle verify config/example.bundle
//! config/example.bundle: good
//!   name         example (PPO), exported 2026-11-03T14:05:09Z
//!   hash         9f2c...  of bundle.toml
//!   signature    absent
//!   files        policy.pt 35210 bytes, golden.safetensors 37204 bytes: sizes and hashes match
//!   golden       256 vectors on backend native: all within tolerance, the worst at 3.1 % of it
//! $ escapement bundle diff old.bundle new.bundle
//! 511 of 512 observations answered alike; largest difference 0.0125, mean 0.0000031; the first is observation 77
//! $ echo $?
//! 1
//! ```
//!
//! `verify` does everything that `run` does before it arms. `show` verifies files, hashes and signature, and
//! runs nothing. `diff` calls both policies with the same observations: those of both bundles' golden
//! vectors, each by itself, or those of a file, as one episode. `sign-hint` prints the commands that sign the
//! bundle.
//!
//! Exit code 0 when all is well, 1 when two bundles differ, 65 when a bundle is bad.

use super::CommandResult;
use super::confinement::{Confinement, Loader};
use super::exit::{ExitCode, Failure};
use super::npy::Matrix;
use crate::bundle::{
    self, Agreement, AgreementError, Bundle, Manifest, PassedOver, Rows, Served, SignatureState, StateRule,
    Tolerance, Trust, agreement, hex, is_public_key,
};
use crate::policy::{Backend, Policy, Widths};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Verify, show and compare policy bundles
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Do everything that `run` does with a bundle before it arms
    Verify(Verify),
    /// Say what a bundle is
    Show(Show),
    /// Ask two bundles about the same observations
    Diff(Diff),
    /// Print the commands that sign a bundle
    SignHint(SignHint),
}

/// Which bundles are trusted.
#[derive(Debug, clap::Args)]
struct TrustArguments {
    /// A minisign public key whose signatures are good; may be given several times
    #[arg(long = "public-key", value_name = "KEY", value_parser = public_key)]
    public_keys: Vec<String>,
    /// Refuse a bundle without a good signature
    #[arg(long, requires = "public_keys")]
    require_signature: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Verify {
    /// The bundle's directory
    bundle: PathBuf,
    /// What runs the golden vectors: auto, native or torch
    #[arg(long, default_value = "auto", value_parser = proving_backend)]
    backend: Backend,
    #[command(flatten)]
    confinement: Confinement,
    #[command(flatten)]
    trust: TrustArguments,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// The bundle's directory
    bundle: PathBuf,
    #[command(flatten)]
    trust: TrustArguments,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Diff {
    /// One bundle's directory
    a: PathBuf,
    /// The other's
    b: PathBuf,
    /// What runs both: auto, native or torch
    #[arg(long, default_value = "auto", value_parser = proving_backend)]
    backend: Backend,
    /// Ask about these instead, as one episode: a .npy file, float32, [n, observation]
    #[arg(long, value_name = "FILE.npy")]
    observations: Option<PathBuf>,
    #[command(flatten)]
    confinement: Confinement,
    #[command(flatten)]
    trust: TrustArguments,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct SignHint {
    /// The bundle's directory
    bundle: PathBuf,
}

fn public_key(text: &str) -> Result<String, String> {
    if is_public_key(text) {
        Ok(text.to_owned())
    } else {
        Err("allowed: the second line of minisign's .pub file".to_owned())
    }
}

fn proving_backend(text: &str) -> Result<Backend, String> {
    match text.parse()? {
        Backend::Null => Err("the null backend computes nothing that could be compared".to_owned()),
        backend => Ok(backend),
    }
}

impl TrustArguments {
    fn trust(&self) -> Trust {
        Trust { require_signature: self.require_signature, public_keys: self.public_keys.clone() }
    }
}

pub(super) fn run(command: &Command) -> CommandResult {
    match command {
        Command::Verify(arguments) => verify(arguments),
        Command::Show(arguments) => show(arguments),
        Command::Diff(arguments) => diff(arguments),
        Command::SignHint(arguments) => sign_hint(arguments),
    }
}

/// Prints on standard error that `auto` did not take its first choice.
pub(super) fn tell_passed_over(passed_over: Option<&PassedOver>) {
    if let Some(PassedOver { backend, reason }) = passed_over {
        eprintln!("escapement: backend {backend} passed over: {reason}");
    }
}

const ANY_WIDTHS: Widths = Widths { observation: None, action: None };

fn verify(arguments: &Verify) -> CommandResult {
    let bundle = Bundle::open(&arguments.bundle, &arguments.trust.trust())?;
    let (backend, proof, passed_over) = arguments.confinement.run(arguments.backend.into(), |loader| {
        let Served { policy, proof, passed_over, .. } = loader.load(&bundle, ANY_WIDTHS)?;
        Ok((policy.backend(), proof, passed_over))
    })?;
    if arguments.json {
        let mut value = as_json(&bundle);
        value["backend"] = json!(backend);
        value["passed_over"] = json!(passed_over);
        value["golden"] = json!(proof);
        println!("{value:#}");
        return Ok(ExitCode::Ok);
    }
    tell_passed_over(passed_over.as_ref());
    println!("{}: good", arguments.bundle.display());
    print_identity(&bundle);
    let manifest = bundle.manifest();
    let (policy, golden) = (&manifest.policy, &manifest.golden);
    line(
        "files",
        &format!(
            "{} {} bytes, {} {} bytes: sizes and hashes match",
            policy.name, policy.bytes, golden.name, golden.bytes
        ),
    );
    if let Some(proof) = proof {
        line(
            "golden",
            &format!(
                "{} vectors on backend {backend}: all within tolerance, the worst at {:.2} % of it",
                proof.vectors,
                100.0 * proof.worst
            ),
        );
    }
    Ok(ExitCode::Ok)
}

fn line(name: &str, meaning: &str) {
    println!("  {name:<12} {meaning}");
}

fn print_identity(bundle: &Bundle) {
    let manifest = bundle.manifest();
    line("name", &format!("{} ({}), exported {}", manifest.name, manifest.algorithm, manifest.created));
    line("hash", &format!("{} of {}", hex(&bundle.sha256()), bundle::MANIFEST));
    line(
        "signature",
        &match bundle.signature() {
            SignatureState::Absent => "absent".to_owned(),
            SignatureState::Unchecked => "there is one; no key was given to check it with".to_owned(),
            SignatureState::Good { public_key, trusted_comment } => {
                format!("good, by {public_key} ({})", trusted_comment.escape_debug())
            }
        },
    );
}

fn show(arguments: &Show) -> CommandResult {
    let bundle = Bundle::open(&arguments.bundle, &arguments.trust.trust())?;
    if arguments.json {
        println!("{:#}", as_json(&bundle));
        return Ok(ExitCode::Ok);
    }
    let manifest = bundle.manifest();
    println!("{}", arguments.bundle.display());
    print_identity(&bundle);
    line("versions", &versions(manifest));
    let observation = &manifest.observation;
    line(
        "observation",
        &format!(
            "{} features{}; statistics of the training: {}",
            observation.dimension,
            observation.stack.as_ref().map_or(String::new(), |stack| format!(", {} frames", stack.frames)),
            if observation.statistics.is_some() { "yes" } else { "none" },
        ),
    );
    line("action", &format!("{}, {} elements", manifest.action.kind.name(), manifest.action.dimension));
    line(
        "randomness",
        &manifest.noise.map_or("none".to_owned(), |noise| {
            format!("{:?} noise, {} elements", noise.kind, noise.dimension).to_lowercase()
        }),
    );
    if let Some(recurrent) = &manifest.recurrent {
        let states: Vec<_> =
            manifest.states.iter().map(|state| format!("{} {:?}", state.name, state.shape)).collect();
        let rules = (rule(recurrent.on_miss), rule(recurrent.on_gap));
        line("state", &format!("{}; on a miss {}, on a gap {}", states.join(", "), rules.0, rules.1));
    }
    if let Some(safe_default) = &manifest.safe_default {
        line("safe default", &format!("{safe_default:?} is suggested"));
    }
    line("golden", &format!("{} vectors, tolerance {:e}", manifest.golden_vectors, manifest.tolerance));
    if let Some(slo) = &manifest.slo {
        line("claim", &format!("{} us at the {}th percentile", slo.inference_us, slo.percentile));
    }
    Ok(ExitCode::Ok)
}

fn versions(manifest: &Manifest) -> String {
    let versions = &manifest.versions;
    let mut text = format!(
        "exporter {}, python {}, torch {}, numpy {}",
        versions.exporter, versions.python, versions.torch, versions.numpy
    );
    let optional = [
        ("stable-baselines3", &versions.stable_baselines3),
        ("sb3-contrib", &versions.sb3_contrib),
        ("gymnasium", &versions.gymnasium),
    ];
    for (name, version) in optional {
        if let Some(version) = version {
            text += &format!(", {name} {version}");
        }
    }
    text
}

fn rule(rule: StateRule) -> String {
    match rule {
        StateRule::Keep => "kept".to_owned(),
        StateRule::Reset => "reset".to_owned(),
        StateRule::BurnIn(count) => format!("reset, and {count} observations to burn in"),
    }
}

fn as_json(bundle: &Bundle) -> Value {
    let manifest = bundle.manifest();
    let (signature, public_key) = match bundle.signature() {
        SignatureState::Good { public_key, .. } => ("good", Some(public_key)),
        other => (other.name(), None),
    };
    let rules = |rule: StateRule| match rule {
        StateRule::Keep => json!("keep"),
        StateRule::Reset => json!("reset"),
        StateRule::BurnIn(count) => json!({ "burn_in": count }),
    };
    let files = [&manifest.policy, &manifest.golden]
        .map(|file| json!({ "name": file.name, "bytes": file.bytes, "sha256": hex(&file.sha256) }));
    json!({
        "bundle": bundle.path(),
        "sha256": hex(&bundle.sha256()),
        "name": manifest.name,
        "algorithm": manifest.algorithm,
        "created": manifest.created,
        "trained": manifest.trained,
        "versions": manifest.versions,
        "signature": signature,
        "public_key": public_key,
        "files": files,
        "observation": {
            "dimension": manifest.observation.dimension,
            "names": manifest.observation.names,
            "statistics": manifest.observation.statistics.is_some(),
            "frames": manifest.observation.stack.as_ref().map_or(1, |stack| stack.frames),
        },
        "action": {
            "space": manifest.action.kind.name(),
            "dimension": manifest.action.dimension,
            "low": manifest.action.low,
            "high": manifest.action.high,
        },
        "noise": manifest.noise.map(|noise| json!({ "dimension": noise.dimension, "kind": noise.kind })),
        "state": manifest.states.iter().map(|state| json!({ "name": state.name, "shape": state.shape })).collect::<Vec<_>>(),
        "recurrent": manifest.recurrent.map(|recurrent| json!({
            "on_miss": rules(recurrent.on_miss), "on_gap": rules(recurrent.on_gap),
        })),
        "safe_default": manifest.safe_default,
        "golden_vectors": manifest.golden_vectors,
        "tolerance": manifest.tolerance,
        "slo": manifest.slo.map(|slo| json!({ "inference_us": slo.inference_us, "percentile": slo.percentile })),
    })
}

fn diff(arguments: &Diff) -> CommandResult {
    let given = arguments.observations.as_deref().map(Matrix::read).transpose()?;
    if given.as_ref().is_some_and(|matrix| matrix.rows == 0) {
        return Err(Failure::new(ExitCode::Usage, "--observations: there are none in the file"));
    }
    let trust = arguments.trust.trust();
    let bundles = [Bundle::open(&arguments.a, &trust)?, Bundle::open(&arguments.b, &trust)?];
    let found = arguments
        .confinement
        .run(arguments.backend.into(), |loader| compare(arguments, &bundles, loader, given))?;
    tell_difference(arguments, &bundles, &found);
    let agree = found.is_ok_and(|found| found.is_complete());
    Ok(if agree { ExitCode::Ok } else { ExitCode::Negative })
}

/// Compares the answers of both, on a thread that cannot open files. Returns the reason if they cannot be
/// compared.
fn compare(
    arguments: &Diff,
    bundles: &[Bundle; 2],
    loader: Loader,
    given: Option<Matrix>,
) -> Result<Result<Agreement, String>, Failure> {
    let mut policies = Vec::new();
    for bundle in bundles {
        let Served { policy, passed_over, .. } = loader.load(bundle, ANY_WIDTHS)?;
        tell_passed_over(passed_over.as_ref());
        policies.push(policy);
    }
    let [a, b] = policies.as_mut_slice() else { unreachable!("two were loaded") };
    let [first, second] = bundles.each_ref().map(Bundle::manifest);
    if first.action.kind != second.action.kind {
        let (first, second) = (first.action.kind.name(), second.action.kind.name());
        return Ok(Err(format!("the first gives {first} actions, the second {second}")));
    }
    let tolerance = Tolerance::of(first);
    let policies: [&mut dyn Policy; 2] = [a.as_mut(), b.as_mut()];
    let asked = match &given {
        Some(matrix) => {
            let width = first.observation.dimension;
            if matrix.width != width {
                let path = arguments.observations.as_deref().unwrap_or(Path::new(""));
                let message = format!("{}: width {}; the bundle takes {width}", path.display(), matrix.width);
                return Err(Failure::new(ExitCode::Usage, message));
            }
            agreement(policies, matrix.values.chunks_exact(width), Rows::Episode, &tolerance)
        }
        None => {
            let rows = bundles[0].golden().observations().chain(bundles[1].golden().observations());
            agreement(policies, rows, Rows::Independent, &tolerance)
        }
    };
    match asked {
        Ok(found) => Ok(Ok(found)),
        Err(error @ AgreementError::Widths(_)) => Ok(Err(error.to_string())),
        Err(error) => Err(Failure::new(ExitCode::Bundle, error.to_string())),
    }
}

fn tell_difference(arguments: &Diff, bundles: &[Bundle; 2], found: &Result<Agreement, String>) {
    if arguments.json {
        let hashes = bundles.each_ref().map(|bundle| hex(&bundle.sha256()));
        let value = match found {
            Ok(found) => json!({
                "agree": found.is_complete(), "bundles": hashes, "comparable": true, "agreement": found,
            }),
            Err(reason) => {
                json!({ "agree": false, "bundles": hashes, "comparable": false, "reason": reason })
            }
        };
        println!("{value:#}");
        return;
    }
    match found {
        Err(reason) => println!("not to be compared: {reason}"),
        Ok(found) => {
            let first = found
                .first_disagreement
                .map_or(String::new(), |first| format!("; the first is observation {first}"));
            println!(
                "{} of {} observations answered alike; largest difference {}, mean {:e}{first}",
                found.agreed, found.observations, found.largest_difference, found.mean_difference
            );
        }
    }
}

fn sign_hint(arguments: &SignHint) -> CommandResult {
    // A broken bundle should not be signed.
    let bundle = Bundle::open(&arguments.bundle, &Trust::default())?;
    let manifest = arguments.bundle.join(bundle::MANIFEST);
    println!("# once, on the machine that signs: makes escapement.key (keep it) and escapement.pub");
    println!("minisign -G -s escapement.key -p escapement.pub");
    println!("# writes {}", arguments.bundle.join(bundle::SIGNATURE).display());
    println!(
        "minisign -S -s escapement.key -m {} -t 'bundle {} {}'",
        quoted(&manifest),
        bundle.manifest().name,
        hex(&bundle.sha256())
    );
    println!("# and in the agent's configuration, with the second line of escapement.pub");
    println!("[policy]\nrequire_signature = true\npublic_keys = [\"…\"]");
    Ok(ExitCode::Ok)
}

/// Returns a path quoted for a shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}
