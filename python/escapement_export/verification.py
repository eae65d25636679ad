"""Verifies the written policy before the manifest is written: reads it back and compares it row by row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from numpy.typing import NDArray

from .errors import ExportError
from .golden import Vectors, concatenated
from .layout import Vector
from .samples import Sampler
from .subject import Action, Subject

NEAR_TIE = 1e-5
"""If two scores are this close, relative to max(1, |best|), rounding may decide which is larger."""

GOLDEN_MARGIN = 1e-4
"""The least margin of a golden vector: ten times `NEAR_TIE`, so that rounding decides no action."""

ATTEMPTS = 64


@dataclass(frozen=True)
class Agreement:
    """How well the written policy agrees with the reference.

    `largest` is the largest difference of an action, as a share of the action range (`Action.allowance`).
    `state` is the largest difference of a next state, relative to max(1, |state|). `near_ties` counts
    discrete actions that differ and may differ.
    """

    observations: int
    largest: float
    state: float
    near_ties: int


def run(
    module: torch.jit.ScriptModule, vectors: Vector, noise: Vector | None, state: tuple[Vector, ...]
) -> tuple[Vector, tuple[Vector, ...]]:
    """Calls a bundle's `forward` row by row, as the daemon does.

    Fails if a shape or type is not as promised.
    """
    actions, next_state = [], []
    with torch.no_grad():
        for i in range(len(vectors)):
            inputs = (
                [vectors[i : i + 1]]
                + ([] if noise is None else [noise[i : i + 1]])
                + [part[i] for part in state]
            )
            result = module(*(torch.from_numpy(numpy.ascontiguousarray(part)) for part in inputs))
            parts = result if isinstance(result, tuple) else (result,)
            if len(parts) != 1 + len(state) or any(part.dtype != torch.float32 for part in parts):
                raise ExportError(
                    "the written module does not answer with float32 tensors, an action and each state"
                )
            if any(part.shape != before[i].shape for part, before in zip(parts[1:], state, strict=True)):
                raise ExportError(
                    "a state comes out of the written module with another shape than it went in"
                )
            actions.append(parts[0].numpy())
            next_state.append([part.numpy() for part in parts[1:]])
    columns = tuple(numpy.stack([row[i] for row in next_state]) for i in range(len(state)))
    return numpy.concatenate(actions), columns


def shares(action: Action, got: Vector, expected: Vector) -> NDArray[numpy.float64]:
    """Returns [n]: the largest difference of each row as a share of `Action.allowance`; inf if not finite."""
    difference = numpy.abs(got.astype(numpy.float64) - expected)
    allowance = action.allowance(expected)
    with numpy.errstate(divide="ignore", invalid="ignore"):
        share = numpy.where(difference == 0.0, 0.0, difference / allowance)
    share[~numpy.isfinite(got) | ~numpy.isfinite(expected)] = numpy.inf
    largest: NDArray[numpy.float64] = share.max(axis=1)
    return largest


def compare(
    subject: Subject, module: torch.jit.ScriptModule, vectors: Vectors, tolerance: float
) -> Agreement:
    """Compares the written module with expected actions.

    The error names the first row that differs too much.
    """
    got, next_state = run(module, vectors.observation, vectors.noise, vectors.state)
    if got.shape != vectors.action.shape:
        raise ExportError(
            f"the written module answers {got.shape[1:]} elements, expected {vectors.action.shape[1:]}"
        )
    share = shares(subject.action, got, vectors.action)
    wrong = ~(share <= tolerance)
    near = numpy.zeros_like(wrong)
    if numpy.any(wrong):
        suspects = vectors.take(wrong)
        near[wrong] = subject.margin(suspects.observation, suspects.noise, suspects.state) <= NEAR_TIE
    if numpy.any(wrong & ~near):
        row = int(numpy.argmax(wrong & ~near))
        raise ExportError(
            f"the written module is not the model: for observation {row} of {len(vectors)}, "
            f"{excerpt(vectors.observation[row])}, it answers {excerpt(got[row])} instead of "
            f"{excerpt(vectors.action[row])} (tolerance {tolerance:g} of the action range); "
            "nothing was written"
        )
    largest_state = 0.0
    for after, expected in zip(next_state, vectors.next_state, strict=True):
        error = float(numpy.max(numpy.abs(after - expected) / numpy.maximum(1.0, numpy.abs(expected))))
        largest_state = max(largest_state, error)
    if not largest_state <= tolerance:
        raise ExportError(f"the written module's next state differs from the model's by {largest_state:g}")
    return Agreement(len(vectors), float(share[~wrong].max(initial=0.0)), largest_state, int(near.sum()))


def excerpt(values: Vector) -> str:
    """Returns the first elements of a vector as text."""
    shown = ", ".join(f"{value:.9g}" for value in values[:6])
    return f"[{shown}{', ...' if len(values) > 6 else ''}]"


def expected(subject: Subject, vectors: Vector, noise: Vector | None, state: tuple[Vector, ...]) -> Vectors:
    """Returns rows with expected results. Without noise, a signature with noise gets zero noise."""
    if noise is not None:
        action, next_state = subject.with_noise(vectors, noise, state)
    else:
        action, next_state = subject.reference(vectors, state)
        if subject.signature.noise is not None:
            noise = numpy.zeros((len(vectors), subject.signature.noise.dimension), dtype=numpy.float32)
    return Vectors(vectors, noise, state, action, next_state)


def random_rows(subject: Subject, sampler: Sampler, count: int, with_noise: bool) -> Vectors:
    """Returns random rows with expected results."""
    noise = sampler.noise(subject.signature.noise, count) if with_noise and subject.signature.noise else None
    return expected(subject, sampler.draw(count), noise, sampler.states(subject.signature, count))


def golden_vectors(subject: Subject, sampler: Sampler, count: int) -> Vectors:
    """Returns `count` rows without near ties: edge cases first, then random rows.

    If the signature has noise, half of the rows have noise.
    """
    edges = sampler.edges()[: count // 2]
    parts = [
        without_near_ties(
            subject, expected(subject, edges, None, sampler.states(subject.signature, len(edges)))
        )
    ]
    have = len(parts[0])
    for attempt in range(ATTEMPTS):
        if have >= count:
            break
        noisy = subject.signature.noise is not None and attempt % 2 == 0
        wanted = max(1, (count - have) if attempt else (count // 2 if noisy else count))
        part = without_near_ties(subject, random_rows(subject, sampler, wanted, noisy))
        part = part.take(slice(0, count - have))
        parts.append(part)
        have += len(part)
    if have < count:
        raise ExportError(
            f"only {have} of {count} golden vectors found: the policy hardly distinguishes its actions (best "
            f"two scores within {GOLDEN_MARGIN:g}); is it trained?"
        )
    return concatenated(parts)


def without_near_ties(subject: Subject, vectors: Vectors) -> Vectors:
    """Returns the rows that are finite and not near ties."""
    margin = subject.margin(vectors.observation, vectors.noise, vectors.state)
    finite = numpy.all(numpy.isfinite(vectors.action), axis=1)
    return vectors.take((margin > GOLDEN_MARGIN) & finite)


def load(path: Path) -> torch.jit.ScriptModule:
    """Returns the module in a file."""
    module: torch.jit.ScriptModule = torch.jit.load(path, map_location="cpu")
    return module
