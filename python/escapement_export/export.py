"""Writes bundles from a model in memory, from a saved model, or from any torch module."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy
import torch
from gymnasium import spaces
from torch import nn

from . import golden, graph, loading, manifest, verification
from .errors import ExportError
from .graph import Noise, Signature, State
from .layout import Vector
from .normalization import stack_fill, training_statistics
from .samples import Sampler
from .subject import Action, ModelSubject, ModuleSubject, Subject
from .verification import Agreement

SUFFIX = ".bundle"


@dataclass(frozen=True)
class Options:
    """Options of an export. Without `name`, the bundle gets the name of its directory."""

    name: str | None = None
    observation_names: Sequence[str] | None = None
    action_names: Sequence[str] | None = None
    recorded: Vector | None = None
    """Raw observations [n, dimension] from training, for the input check's statistics and the comparison."""
    safe_default: Sequence[float] | None = None
    on_miss: str | int = "keep"
    """For recurrent policies: "keep", "reset", or a number of burn-in observations."""
    on_gap: str | int = "reset"
    slo: tuple[float, float] | None = None
    """(inference time in microseconds, percentile)"""
    trained: str | None = None
    tolerance: float = 1e-5
    checks: int = 4096
    vectors: int = 512
    seed: int = 0
    overwrite: bool = False


@dataclass(frozen=True)
class Exported:
    """A bundle that was written, and how well it agrees with its source."""

    path: Path
    algorithm: str
    deterministic: Agreement
    stochastic: Agreement | None
    sha256: str


def export_model(
    model: Any,
    out: str | Path,
    *,
    vec_normalize: Any = None,
    frame_stack: int = 1,
    options: Options | None = None,
) -> Exported:
    """Writes a Stable-Baselines3 or sb3-contrib model as a bundle.

    `vec_normalize` is the `VecNormalize` of the training: its statistics become a part of the policy. Without
    the argument, the `VecNormalize` of the model's environment is used, if the model still has one.
    `frame_stack` is the number of frames of VecFrameStack.
    """
    if vec_normalize is None and hasattr(model, "get_vec_normalize_env"):
        vec_normalize = model.get_vec_normalize_env()
    return write_bundle(ModelSubject(model, vec_normalize, frame_stack), Path(out), options or Options())


def export_zip(
    path: str | Path,
    algorithm: str,
    out: str | Path,
    *,
    vec_normalize: str | Path | None = None,
    frame_stack: int = 1,
    options: Options | None = None,
) -> Exported:
    """Writes a saved model, and the `VecNormalize` saved with it, as a bundle.

    Both files are pickles, which run code when they are read. The caller must trust them.
    """
    statistics = None if vec_normalize is None else loading.load_vec_normalize(Path(vec_normalize))
    model = loading.load_model(Path(path), loading.algorithm_name(algorithm))
    options = options or Options()
    if options.trained is None:
        options = replace(options, trained=loading.written_at(Path(path)))
    return write_bundle(ModelSubject(model, statistics, frame_stack), Path(out), options)


def export_module(
    module: nn.Module,
    out: str | Path,
    *,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    noise: Noise | None = None,
    state: Sequence[State] = (),
    algorithm: str = "module",
    options: Options | None = None,
) -> Exported:
    """Writes any torch module as a bundle.

    Its `forward` takes (observation [1, obs], noise [1, k] if `noise` is given, each of `state`). It returns
    the action to send, or (action, each next state). It is traced, so it must not branch on data.
    """
    subject = ModuleSubject(
        module, observation_space, action_space, Signature(noise, tuple(state)), algorithm
    )
    return write_bundle(subject, Path(out), options or Options())


def write_bundle(subject: Subject, out: Path, options: Options) -> Exported:
    """Writes the policy, reads it back and compares it.

    Only then writes the manifest and names the directory.
    """
    options = replace(options, name=manifest.check_name(options.name or out.name.removesuffix(SUFFIX)))
    check_options(subject, out, options)
    statistics = training_statistics(subject.layout, subject.normalization, options.recorded)
    sampler = Sampler(subject.layout, statistics, options.recorded, options.seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        policy = partial / "policy.pt"
        example = torch.from_numpy(sampler.edges()[:1].copy())
        graph.save(frozen(subject, example), policy)
        written = verification.load(policy)
        rows = verification.random_rows(subject, sampler, options.checks, with_noise=False)
        deterministic = verification.compare(subject, written, rows, options.tolerance)
        stochastic = None
        if subject.signature.noise is not None:
            rows = verification.random_rows(subject, sampler, max(256, options.checks // 4), with_noise=True)
            stochastic = verification.compare(subject, written, rows, options.tolerance)
        vectors = verification.golden_vectors(subject, sampler, options.vectors)
        verification.compare(subject, written, vectors, options.tolerance)
        golden.write(
            partial / "golden.safetensors", vectors, tuple(state.name for state in subject.signature.state)
        )
        text = manifest.with_hash(manifest.to_toml(document(subject, options, statistics, partial)))
        (partial / "bundle.toml").write_text(text, encoding="utf-8")
        partial.chmod(0o755)
        install(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    sha256 = str(manifest.file_entry(out / "bundle.toml")["sha256"])
    return Exported(out, subject.algorithm, deterministic, stochastic, sha256)


def frozen(subject: Subject, example: torch.Tensor) -> torch.jit.ScriptModule:
    """Returns the subject's frozen TorchScript. Fails with the reason that the module gave."""
    try:
        return graph.freeze(subject.graph, subject.signature, example)
    except ExportError:
        raise
    except Exception as error:
        # A user's module may raise any exception, also because it is traced.
        reason = str(error).strip().splitlines() or [""]
        raise ExportError(f"the policy cannot be traced: {type(error).__name__}: {reason[0]}") from error


def install(partial: Path, out: Path) -> None:
    """Gives the complete directory its name.

    An existing bundle is moved away before that and removed after it.
    """
    if not out.exists():
        partial.rename(out)
        return
    replaced = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    os.replace(out, replaced)
    partial.rename(out)
    shutil.rmtree(replaced)


def check_options(subject: Subject, out: Path, options: Options) -> None:
    """Fails if the manifest could not hold the options. Runs before anything is computed."""
    if out.exists() and not options.overwrite:
        raise ExportError(f"{out} exists; remove it, or pass --overwrite")
    if out.exists() and not (out / "bundle.toml").is_file():
        raise ExportError(f"{out} exists and is not a bundle; it is not overwritten")
    if not 256 <= options.vectors <= 65536:
        raise ExportError(f"{options.vectors} golden vectors; allowed: 256 to 65536")
    if not 0.0 < options.tolerance <= 0.01:
        raise ExportError(f"tolerance {options.tolerance:g}; allowed: above 0, at most 0.01")
    dimension = subject.layout.dimension
    for what, names, expected in (
        ("observation", options.observation_names, dimension),
        ("action", options.action_names, subject.action.dimension),
    ):
        if names is not None and (len(names) != expected or len(set(names)) != expected):
            raise ExportError(f"{len(set(names))} different {what} names for {expected} elements")
    recorded = options.recorded
    if recorded is not None and (recorded.ndim != 2 or recorded.shape[1] != dimension or not len(recorded)):
        raise ExportError(f"recorded observations of shape {list(recorded.shape)}; expected [n, {dimension}]")
    if recorded is not None and not numpy.all(numpy.isfinite(recorded)):
        raise ExportError("recorded observations that are not finite")
    if options.slo is not None and not (options.slo[0] > 0.0 and 0.0 < options.slo[1] <= 100.0):
        raise ExportError(
            f"an SLO of {options.slo[0]:g} us at percentile {options.slo[1]:g}; allowed: a time above 0, a "
            "percentile above 0 and at most 100"
        )
    if options.safe_default is not None:
        check_safe_default(options.safe_default, subject.action)


def check_safe_default(values: Sequence[float], action: Action) -> None:
    """Fails if a safe default lies outside the action space."""
    default = numpy.asarray(values, dtype=numpy.float64)
    if default.shape != (action.dimension,):
        raise ExportError(f"a safe default of {default.size} elements for {action.dimension} actions")
    whole = action.space == "box" or numpy.all(default == numpy.rint(default))
    if not whole or not numpy.all((default >= action.low) & (default <= action.high)):
        raise ExportError(f"the safe default {list(values)} lies outside the action space")


def document(
    subject: Subject, options: Options, statistics: tuple[Vector, Vector] | None, directory: Path
) -> dict[str, Any]:
    """Returns the manifest as nested tables, in the order of `docs/BUNDLE.md`."""
    bundle: dict[str, Any] = {
        "name": options.name,
        "algorithm": subject.algorithm,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if options.trained is not None:
        bundle["trained"] = options.trained
    files = [manifest.file_entry(directory / name) for name in ("policy.pt", "golden.safetensors")]
    content: dict[str, Any] = {"format": 1, "bundle": bundle, "versions": manifest.versions(), "file": files}
    content["observation"] = observation_table(subject, options, statistics)
    content["action"] = action_table(subject.action, options)
    content["signature"] = signature_table(subject.signature)
    if subject.signature.state:
        content["recurrent"] = {"on_miss": rule(options.on_miss), "on_gap": rule(options.on_gap)}
    default = options.safe_default
    if default is None and subject.action.space == "box":
        default = list(numpy.clip(0.0, subject.action.low, subject.action.high))
    if default is not None:
        content["default"] = {"safe_default": [float(value) for value in default]}
    content["golden"] = {"vectors": options.vectors, "tolerance": options.tolerance}
    if options.slo is not None:
        content["slo"] = {"inference_us": float(options.slo[0]), "percentile": float(options.slo[1])}
    return content


def observation_table(
    subject: Subject, options: Options, statistics: tuple[Vector, Vector] | None
) -> dict[str, Any]:
    """Returns `[observation]` with its nested tables."""
    layout = subject.layout
    table: dict[str, Any] = {"dimension": layout.dimension}
    if options.observation_names is not None:
        table["names"] = list(options.observation_names)
    table["low"], table["high"] = manifest.compact(layout.low), manifest.compact(layout.high)
    if statistics is not None:
        table["mean"], table["std"] = statistics
    table["segment"] = []
    for segment in layout.segments:
        normalized = subject.normalization is not None and segment.key in subject.normalization.statistics
        entry: dict[str, Any] = {
            "key": segment.key,
            "kind": segment.kind,
            "offset": segment.offset,
            "dimension": segment.dimension,
            "shape": list(segment.shape),
        }
        if segment.nvec:
            entry["nvec"] = list(segment.nvec)
        table["segment"].append({**entry, "normalized": normalized})
    if subject.stack is not None:
        table["stack"] = {"frames": subject.stack.frames, "fill": stack_fill(layout, subject.normalization)}
    return table


def action_table(action: Action, options: Options) -> dict[str, Any]:
    """Returns `[action]`."""
    table: dict[str, Any] = {"space": action.space, "dimension": action.dimension}
    table["low"], table["high"] = manifest.compact(action.low), manifest.compact(action.high)
    if action.nvec:
        table["nvec"] = action.nvec
    if options.action_names is not None:
        table["names"] = list(options.action_names)
    return table


def signature_table(signature: Signature) -> dict[str, Any]:
    """Returns `[signature]`, which may be empty."""
    table: dict[str, Any] = {}
    if signature.noise is not None:
        table["noise"] = manifest.Inline(dimension=signature.noise.dimension, kind=signature.noise.kind)
    if signature.state:
        table["state"] = [
            manifest.Inline(name=state.name, shape=list(state.shape)) for state in signature.state
        ]
    return table


def rule(value: str | int) -> Any:
    """Returns a rule for recurrent state in the notation of `[recurrent]`."""
    if value in ("keep", "reset"):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 100000:
        return manifest.Inline(burn_in=value)
    raise ExportError(
        f"recurrent rule {value!r}; allowed: keep, reset, or 1 to 100000 observations of burn-in"
    )
