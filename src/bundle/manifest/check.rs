//! Checks ranges and relations of a manifest's keys, whose types are already right.

use super::raw::{self, Numbers, Rule};
use super::{
    ActionKind, ActionSpace, FileEntry, MAX_BURN_IN, Manifest, Noise, ObservationSpace, Recurrent, Segment,
    SegmentKind, Slo, Stack, State, StateRule, Statistics,
};
use crate::bundle::names::{GOLDEN, POLICY};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// The most elements of an observation or action; as many as a ring's frame holds.
const MAX_DIMENSION: usize = 4096;
/// The most elements of the noise.
const MAX_NOISE: usize = 8192;
/// The most carried states, dimensions of one, and elements of all.
const MAX_STATES: usize = 8;
const MAX_STATE_RANK: usize = 4;
const MAX_STATE_ELEMENTS: usize = 1 << 20;
/// The most categories of one component.
const MAX_CATEGORIES: usize = 1 << 24;
const MAX_FRAMES: usize = 64;
const GOLDEN_VECTORS: RangeInclusive<usize> = 256..=65_536;
const MAX_TOLERANCE: f64 = 0.01;
const MAX_POLICY_BYTES: u64 = 1 << 30;
const MAX_GOLDEN_BYTES: u64 = 256 << 20;
/// The longest name of anything, in bytes.
const MAX_NAME_BYTES: usize = 256;
/// The longest name of a bundle or algorithm, in bytes.
const MAX_TITLE_BYTES: usize = 64;

type Checked<T> = Result<T, String>;

pub(super) fn check(raw: raw::Manifest) -> Checked<Manifest> {
    let raw::Bundle { name, algorithm, created, trained } = raw.bundle;
    ensure(is_bundle_name(&name), || {
        format!(
            "bundle.name = {name:?}; allowed: 1 to {MAX_TITLE_BYTES} of A-Z, a-z, 0-9, '.', '_' and '-', the first a \
             letter or digit"
        )
    })?;
    printable("bundle.algorithm", &algorithm, MAX_TITLE_BYTES)?;
    instant("bundle.created", &created)?;
    trained.as_ref().map_or(Ok(()), |trained| instant("bundle.trained", trained))?;
    versions(&raw.versions)?;
    let (policy, golden) = files(&raw.file)?;
    let observation = observation(raw.observation)?;
    let action = action(raw.action)?;
    let noise = raw.signature.noise.map(noise).transpose()?;
    let states = states(raw.signature.state)?;
    ensure(states.is_empty() == raw.recurrent.is_none(), || {
        "[recurrent] is required with signature.state, and only with it".to_owned()
    })?;
    let recurrent = raw.recurrent.map(recurrent).transpose()?;
    let safe_default = raw.default.map(|default| safe_default(&default.safe_default, &action)).transpose()?;
    let raw::Golden { vectors, tolerance } = raw.golden;
    ensure(GOLDEN_VECTORS.contains(&vectors), || {
        let (low, high) = (GOLDEN_VECTORS.start(), GOLDEN_VECTORS.end());
        format!("golden.vectors = {vectors}; allowed: {low} to {high}")
    })?;
    ensure(tolerance > 0.0 && tolerance <= MAX_TOLERANCE, || {
        format!("golden.tolerance = {tolerance}; allowed: above 0, at most {MAX_TOLERANCE}")
    })?;
    Ok(Manifest {
        name,
        algorithm,
        created,
        trained,
        versions: raw.versions,
        policy,
        golden,
        observation,
        action,
        noise,
        states,
        recurrent,
        safe_default,
        golden_vectors: vectors,
        tolerance,
        slo: raw.slo.map(slo).transpose()?,
    })
}

fn ensure(holds: bool, reason: impl FnOnce() -> String) -> Checked<()> {
    if holds { Ok(()) } else { Err(reason()) }
}

fn is_bundle_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=MAX_TITLE_BYTES).contains(&name.len())
        && name.bytes().all(allowed)
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
}

/// Names are shown on terminals and in logs, so that control characters and long texts are refused.
fn printable(key: &str, text: &str, limit: usize) -> Checked<()> {
    ensure(!text.is_empty() && text.len() <= limit && !text.chars().any(char::is_control), || {
        let shown: String = text.chars().take(40).collect();
        format!("{key} = {shown:?}; allowed: 1 to {limit} bytes without control characters")
    })
}

/// Whether the text has the form of RFC 3339 in UTC.
fn instant(key: &str, text: &str) -> Checked<()> {
    const FORM: &[u8] = b"0000-00-00T00:00:00";
    let fits = |(byte, form): (&u8, &u8)| if *form == b'0' { byte.is_ascii_digit() } else { byte == form };
    let bytes = text.as_bytes();
    let fraction = |rest: &[u8]| match rest {
        [] => true,
        [b'.', digits @ ..] => (1..=9).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    let whole = bytes.len() > FORM.len()
        && bytes.iter().zip(FORM).all(fits)
        && bytes[FORM.len()..].strip_suffix(b"Z").is_some_and(fraction);
    ensure(whole, || {
        let shown: String = text.chars().take(40).collect();
        format!("{key} = {shown:?}; allowed: an instant in UTC as in \"2026-11-03T14:05:09Z\"")
    })
}

fn versions(versions: &raw::Versions) -> Checked<()> {
    let required = [
        ("exporter", Some(&versions.exporter)),
        ("python", Some(&versions.python)),
        ("torch", Some(&versions.torch)),
        ("numpy", Some(&versions.numpy)),
        ("stable_baselines3", versions.stable_baselines3.as_ref()),
        ("sb3_contrib", versions.sb3_contrib.as_ref()),
        ("gymnasium", versions.gymnasium.as_ref()),
    ];
    required.into_iter().try_for_each(|(name, version)| match version {
        Some(version) => printable(&format!("versions.{name}"), version, MAX_NAME_BYTES),
        None => Ok(()),
    })
}

fn files(files: &[raw::File]) -> Checked<(FileEntry, FileEntry)> {
    ensure(files.len() == 2, || {
        format!("[[file]]: {} of them; expected {POLICY} and {GOLDEN}", files.len())
    })?;
    let find = |name: &'static str, limit: u64| {
        let file = files.iter().find(|file| file.name == name).ok_or_else(|| {
            let names: Vec<_> = files.iter().map(|file| file.name.escape_debug().to_string()).collect();
            format!("[[file]]: {name} is not listed; found {names:.200?}; names of other files or with a path are not allowed")
        })?;
        ensure((1..=limit).contains(&file.bytes), || {
            format!("file {name}: bytes = {}; allowed: 1 to {limit}", file.bytes)
        })?;
        let sha256 = hash(&file.sha256)
            .ok_or_else(|| format!("file {name}: sha256 is not 64 lower-case hexadecimal digits"))?;
        Ok::<_, String>(FileEntry { name, bytes: file.bytes, sha256 })
    };
    Ok((find(POLICY, MAX_POLICY_BYTES)?, find(GOLDEN, MAX_GOLDEN_BYTES)?))
}

fn hash(text: &str) -> Option<[u8; 32]> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != 64 || !text.bytes().all(is_digit) {
        return None;
    }
    let mut hash = [0; 32];
    for (index, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(hash)
}

fn dimension(key: &str, dimension: usize, limit: usize) -> Checked<()> {
    ensure((1..=limit).contains(&dimension), || format!("{key} = {dimension}; allowed: 1 to {limit}"))
}

/// One number for each element, none of them NaN.
fn spread(key: &str, numbers: Numbers, dimension: usize) -> Checked<Vec<f64>> {
    let numbers = match numbers {
        Numbers::Every(number) => vec![number; dimension],
        Numbers::Each(numbers) => numbers,
    };
    length(key, numbers.len(), dimension)?;
    match numbers.iter().position(|number| number.is_nan()) {
        Some(index) => Err(format!("{key}[{index}] is not a number")),
        None => Ok(numbers),
    }
}

fn length(key: &str, found: usize, expected: usize) -> Checked<()> {
    ensure(found == expected, || format!("{key} has length {found}; expected {expected}"))
}

fn finite(key: &str, numbers: &[f64], dimension: usize) -> Checked<()> {
    length(key, numbers.len(), dimension)?;
    match numbers.iter().position(|number| !number.is_finite()) {
        Some(index) => Err(format!("{key}[{index}] is not finite")),
        None => Ok(()),
    }
}

fn bounds(table: &str, low: Numbers, high: Numbers, dimension: usize) -> Checked<(Vec<f64>, Vec<f64>)> {
    let low = spread(&format!("{table}.low"), low, dimension)?;
    let high = spread(&format!("{table}.high"), high, dimension)?;
    match low.iter().zip(&high).position(|(low, high)| low > high) {
        Some(index) => Err(format!("{table}.low[{index}] = {} is above {table}.high", low[index])),
        None => Ok((low, high)),
    }
}

fn names(key: &str, names: Option<&Vec<String>>, dimension: usize) -> Checked<()> {
    let Some(names) = names else { return Ok(()) };
    length(key, names.len(), dimension)?;
    let mut seen = BTreeSet::new();
    for (index, name) in names.iter().enumerate() {
        printable(&format!("{key}[{index}]"), name, MAX_NAME_BYTES)?;
        ensure(seen.insert(name), || format!("{key}[{index}] = {name:?} is there twice"))?;
    }
    Ok(())
}

fn categories(key: &str, counts: &[usize]) -> Checked<()> {
    counts.iter().enumerate().try_for_each(|(index, count)| {
        ensure((1..=MAX_CATEGORIES).contains(count), || {
            format!("{key}[{index}] = {count}; allowed: 1 to {MAX_CATEGORIES}")
        })
    })
}

fn observation(raw: raw::Observation) -> Checked<ObservationSpace> {
    let width = raw.dimension;
    dimension("observation.dimension", width, MAX_DIMENSION)?;
    names("observation.names", raw.names.as_ref(), width)?;
    let (low, high) = bounds("observation", raw.low, raw.high, width)?;
    let statistics = match (raw.mean, raw.std) {
        (None, None) => None,
        (Some(mean), Some(std)) => {
            finite("observation.mean", &mean, width)?;
            finite("observation.std", &std, width)?;
            ensure(std.iter().all(|std| *std >= 0.0), || "observation.std: below zero".to_owned())?;
            Some(Statistics { mean, std })
        }
        _ => return Err("observation.mean and observation.std: one without the other".to_owned()),
    };
    let segments = segments(raw.segment, width)?;
    let stack = raw.stack.map(|stack| {
        ensure((2..=MAX_FRAMES).contains(&stack.frames), || {
            format!("observation.stack.frames = {}; allowed: 2 to {MAX_FRAMES}", stack.frames)
        })?;
        finite("observation.stack.fill", &stack.fill, width)?;
        Ok::<_, String>(Stack { frames: stack.frames, fill: stack.fill })
    });
    let stack = stack.transpose()?;
    Ok(ObservationSpace { dimension: width, names: raw.names, low, high, statistics, segments, stack })
}

fn segments(raw: Vec<raw::Segment>, width: usize) -> Checked<Vec<Segment>> {
    let mut due = 0;
    let covered = !raw.is_empty();
    let mut segments = Vec::with_capacity(raw.len().min(width));
    for (index, segment) in raw.into_iter().enumerate() {
        let key = format!("observation.segment[{index}]");
        if !segment.key.is_empty() {
            printable(&format!("{key}.key"), &segment.key, MAX_NAME_BYTES)?;
        }
        dimension(&format!("{key}.dimension"), segment.dimension, width)?;
        ensure(segment.offset == due, || {
            format!("{key}.offset = {}; expected {due}, where the one before it ends", segment.offset)
        })?;
        due += segment.dimension;
        let elements = segment.shape.iter().try_fold(1usize, |product, length| product.checked_mul(*length));
        ensure(segment.shape.len() <= MAX_DIMENSION && elements == Some(segment.dimension), || {
            format!("{key}.shape does not have {} elements", segment.dimension)
        })?;
        let nvec = segment.nvec.unwrap_or_default();
        categories(&format!("{key}.nvec"), &nvec)?;
        let counts = nvec.iter().try_fold(0usize, |sum, count| sum.checked_add(*count));
        let fits = match segment.kind {
            SegmentKind::Box | SegmentKind::MultiBinary => nvec.is_empty(),
            SegmentKind::Discrete => nvec.len() == 1,
            SegmentKind::MultiDiscrete => nvec.len() == segment.dimension,
            SegmentKind::Mask => !nvec.is_empty() && counts == Some(segment.dimension),
        };
        // A stacked vector repeats the components of each frame.
        let repeated = matches!(segment.kind, SegmentKind::Discrete | SegmentKind::MultiDiscrete)
            && !nvec.is_empty()
            && segment.dimension.is_multiple_of(nvec.len());
        ensure(fits || repeated, || format!("{key}.nvec does not fit its kind and dimension"))?;
        segments.push(Segment {
            key: segment.key,
            kind: segment.kind,
            offset: segment.offset,
            dimension: segment.dimension,
            shape: segment.shape,
            nvec,
            normalized: segment.normalized,
        });
    }
    ensure(!covered || due == width, || {
        format!("observation.segment: they cover {due} elements of {width}")
    })?;
    Ok(segments)
}

fn action(raw: raw::Action) -> Checked<ActionSpace> {
    let width = raw.dimension;
    dimension("action.dimension", width, MAX_DIMENSION)?;
    names("action.names", raw.names.as_ref(), width)?;
    let (low, high) = bounds("action", raw.low, raw.high, width)?;
    let kind = match raw.space {
        raw::ActionKind::Box => ActionKind::Box,
        raw::ActionKind::Discrete => ActionKind::Discrete,
        raw::ActionKind::MultiDiscrete => ActionKind::MultiDiscrete,
        raw::ActionKind::MultiBinary => ActionKind::MultiBinary,
    };
    ensure(kind != ActionKind::Discrete || width == 1, || {
        format!("action.dimension = {width}; a discrete action has one element")
    })?;
    let nvec = match (kind, raw.nvec) {
        (ActionKind::Discrete | ActionKind::MultiDiscrete, Some(nvec)) => {
            length("action.nvec", nvec.len(), width)?;
            categories("action.nvec", &nvec)?;
            nvec
        }
        (ActionKind::Box | ActionKind::MultiBinary, None) => Vec::new(),
        (_, None) => return Err(format!("action.nvec is required for space = {:?}", kind.name())),
        (_, Some(_)) => return Err(format!("action.nvec: there is none for space = {:?}", kind.name())),
    };
    let counts: Vec<usize> = if kind == ActionKind::MultiBinary { vec![2; width] } else { nvec.clone() };
    for (index, count) in counts.iter().enumerate() {
        ensure(low[index] == 0.0 && high[index] == (count - 1) as f64, || {
            format!("action.low and action.high of element {index}; expected 0 and {}", count - 1)
        })?;
    }
    Ok(ActionSpace { kind, dimension: width, low, high, nvec, names: raw.names })
}

fn noise(raw: raw::Noise) -> Checked<Noise> {
    dimension("signature.noise.dimension", raw.dimension, MAX_NOISE)?;
    Ok(Noise { dimension: raw.dimension, kind: raw.kind })
}

fn states(raw: Vec<raw::State>) -> Checked<Vec<State>> {
    ensure(raw.len() <= MAX_STATES, || {
        format!("signature.state: {} of them; at most {MAX_STATES}", raw.len())
    })?;
    let mut seen = BTreeSet::new();
    let mut total = 0usize;
    for (index, state) in raw.iter().enumerate() {
        let key = format!("signature.state[{index}]");
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        ensure((1..=64).contains(&state.name.len()) && state.name.bytes().all(plain), || {
            format!("{key}.name; allowed: 1 to 64 of A-Z, a-z, 0-9 and '_'")
        })?;
        ensure(seen.insert(state.name.clone()), || format!("{key}.name = {:?} is there twice", state.name))?;
        let elements = state.shape.iter().try_fold(1usize, |product, length| product.checked_mul(*length));
        let elements = elements.filter(|elements| {
            (1..=MAX_STATE_RANK).contains(&state.shape.len()) && (1..=MAX_STATE_ELEMENTS).contains(elements)
        });
        let elements = elements.ok_or_else(|| {
            format!("{key}.shape; allowed: 1 to {MAX_STATE_RANK} dimensions, at most {MAX_STATE_ELEMENTS} elements")
        })?;
        total += elements;
    }
    ensure(total <= MAX_STATE_ELEMENTS, || {
        format!("signature.state: {total} elements together; at most {MAX_STATE_ELEMENTS}")
    })?;
    Ok(raw.into_iter().map(|state| State { name: state.name, shape: state.shape }).collect())
}

fn recurrent(raw: raw::Recurrent) -> Checked<Recurrent> {
    let rule = |key: &str, rule: Rule| match rule {
        Rule::Keep => Ok(StateRule::Keep),
        Rule::Reset => Ok(StateRule::Reset),
        Rule::BurnIn(count @ 1..=MAX_BURN_IN) => Ok(StateRule::BurnIn(count)),
        Rule::BurnIn(count) => Err(format!("recurrent.{key}.burn_in = {count}; allowed: 1 to {MAX_BURN_IN}")),
    };
    Ok(Recurrent { on_miss: rule("on_miss", raw.on_miss)?, on_gap: rule("on_gap", raw.on_gap)? })
}

fn safe_default(values: &[f64], action: &ActionSpace) -> Checked<Vec<f32>> {
    finite("default.safe_default", values, action.dimension)?;
    let outside =
        (0..values.len()).find(|index| !(action.low[*index]..=action.high[*index]).contains(&values[*index]));
    match outside {
        Some(index) => Err(format!("default.safe_default[{index}] = {} is out of bounds", values[index])),
        None => Ok(values.iter().map(|value| *value as f32).collect()),
    }
}

fn slo(raw: raw::Slo) -> Checked<Slo> {
    ensure(raw.inference_us > 0.0 && raw.inference_us.is_finite(), || {
        format!("slo.inference_us = {}; allowed: above 0", raw.inference_us)
    })?;
    ensure(raw.percentile > 0.0 && raw.percentile <= 100.0, || {
        format!("slo.percentile = {}; allowed: above 0, at most 100", raw.percentile)
    })?;
    Ok(Slo { inference_us: raw.inference_us, percentile: raw.percentile })
}
