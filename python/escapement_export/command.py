"""The command line: exports a saved Stable-Baselines3 model as a bundle.

    export MODEL.zip --algo ppo --vecnormalize STATISTICS.pkl --out agent.bundle

Exit codes: 0 if the bundle was written; 1 if not, with one line that gives the reason; 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy
import torch

from .errors import ExportError
from .export import Exported, Options, export_zip
from .families import FAMILIES
from .layout import Vector


def rule(text: str) -> str | int:
    """Parses `keep`, `reset`, or a number of burn-in observations."""
    return text if text in ("keep", "reset") else int(text)


def numbers(text: str) -> list[float]:
    """Parses comma-separated numbers."""
    return [float(part) for part in text.split(",")]


def names(text: str) -> list[str]:
    """Parses comma-separated names."""
    return [part.strip() for part in text.split(",")]


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    result = argparse.ArgumentParser(
        prog="export",
        description="Export a model saved by Stable-Baselines3 as a policy bundle. Model files are pickles, "
        "which run code when they are read: export only models that you trust.",
    )
    result.add_argument("model", type=Path, metavar="MODEL.zip", help="file written by model.save()")
    result.add_argument(
        "--algo", required=True, metavar="NAME", help=", ".join(name.lower() for name in FAMILIES)
    )
    result.add_argument("--out", required=True, type=Path, metavar="NAME.bundle", help="directory to write")
    result.add_argument(
        "--vecnormalize", type=Path, metavar="FILE.pkl", help="file written by VecNormalize.save()"
    )
    result.add_argument(
        "--frame-stack",
        type=int,
        default=1,
        metavar="N",
        help="number of frames of VecFrameStack (default 1)",
    )
    result.add_argument("--name", help="name of the bundle (default: the directory's name without .bundle)")
    result.add_argument("--observation-names", type=names, metavar="A,B,...", help="a name for each element")
    result.add_argument("--action-names", type=names, metavar="A,B,...", help="a name for each element")
    result.add_argument(
        "--observations",
        type=Path,
        metavar="FILE.npy",
        help="raw observations [n, obs] from training, for the input check's statistics and the comparison",
    )
    result.add_argument("--safe-default", type=numbers, metavar="A,B,...", help="safe default to suggest")
    result.add_argument(
        "--on-miss", type=rule, default="keep", metavar="RULE", help="recurrent: keep, reset or N"
    )
    result.add_argument(
        "--on-gap", type=rule, default="reset", metavar="RULE", help="recurrent: keep, reset or N"
    )
    result.add_argument(
        "--slo-us", type=float, metavar="MICROSECONDS", help="inference time that the bundle claims"
    )
    result.add_argument(
        "--slo-percentile",
        type=float,
        default=99.9,
        metavar="P",
        help="percentile of that claim (default 99.9)",
    )
    result.add_argument(
        "--tolerance", type=float, default=1e-5, help="allowed share of the action range (default 1e-5)"
    )
    result.add_argument(
        "--checks", type=int, default=4096, help="number of observations to compare on (default 4096)"
    )
    result.add_argument("--vectors", type=int, default=512, help="number of golden vectors (default 512)")
    result.add_argument("--overwrite", action="store_true", help="replace an existing bundle")
    return result


def options_of(arguments: argparse.Namespace) -> Options:
    """Converts the parsed arguments to options. Fails if one of them cannot be used."""
    if arguments.checks < 1:
        raise ExportError(f"--checks {arguments.checks}; allowed: 1 and more")
    return Options(
        name=arguments.name,
        observation_names=arguments.observation_names,
        action_names=arguments.action_names,
        recorded=None if arguments.observations is None else load_observations(arguments.observations),
        safe_default=arguments.safe_default,
        on_miss=arguments.on_miss,
        on_gap=arguments.on_gap,
        slo=None if arguments.slo_us is None else (arguments.slo_us, arguments.slo_percentile),
        tolerance=arguments.tolerance,
        checks=arguments.checks,
        vectors=arguments.vectors,
        overwrite=arguments.overwrite,
    )


def load_observations(path: Path) -> Vector:
    """Reads recorded observations from a .npy file."""
    try:
        loaded = numpy.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ExportError(f"{path}: not a .npy file: {error}") from error
    if not isinstance(loaded, numpy.ndarray) or not numpy.issubdtype(loaded.dtype, numpy.number):
        raise ExportError(f"{path}: not an array of numbers")
    return loaded.astype(numpy.float32)


def report(exported: Exported) -> str:
    """Returns a text that names the bundle and its agreement with the model."""
    lines = [f"{exported.path}: {exported.algorithm}, bundle hash {exported.sha256}"]
    for what, agreement in (("model.predict", exported.deterministic), ("with noise", exported.stochastic)):
        if agreement is not None:
            lines.append(
                f"  {what}: {agreement.observations} observations, largest difference "
                f"{agreement.largest:.1e} of the action range, {agreement.near_ties} near ties excluded"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    # `export` is the only command. Its name is optional.
    parsed = parser().parse_args(typed[1:] if typed[:1] == ["export"] else typed)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        exported = export_zip(
            parsed.model,
            parsed.algo,
            parsed.out,
            vec_normalize=parsed.vecnormalize,
            frame_stack=parsed.frame_stack,
            options=options_of(parsed),
        )
    except ExportError as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    print(report(exported))
    return 0
