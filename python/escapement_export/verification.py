"""Proof before the manifest: what was written is read again and compared with the reference, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from numpy.typing import NDArray

from .errors import ExportError
from .golden import Vectors, joined
from .layout import Vector
from .samples import Sampler
from .subject import Action, Subject

NEAR_TIE = 1e-5
"""Two scores this close, relative to max(1, |best|), may be told apart either way by rounding."""

GOLDEN_MARGIN = 1e-4
"""Golden vectors keep ten times that distance, so that no backend's rounding can decide one."""

ATTEMPTS = 64


@dataclass(frozen=True)
class Agreement:
    """How well the written policy agrees with the reference.

    `largest` is the largest difference of an action, as a share of the action range (`Action.allowance`), `state` that
    of a next state relative to max(1, |state|); `near_ties` counts discrete actions that differ and may.
    """

    observations: int
    largest: float
    state: float
    near_ties: int


def run(
    module: torch.jit.ScriptModule, vectors: Vector, noise: Vector | None, state: tuple[Vector, ...]
) -> tuple[Vector, tuple[Vector, ...]]:
    """A bundle's `forward`, row by row, as the daemon calls it; checks the shapes and types that it promises."""
    actions, following = [], []
    with torch.no_grad():
        for i in range(len(vectors)):
            inputs = [vectors[i : i + 1]] + ([] if noise is None else [noise[i : i + 1]]) + [part[i] for part in state]
            result = module(*(torch.from_numpy(numpy.ascontiguousarray(part)) for part in inputs))
            parts = result if isinstance(result, tuple) else (result,)
            if len(parts) != 1 + len(state) or any(part.dtype != torch.float32 for part in parts):
                raise ExportError("the written module does not answer with float32 tensors, an action and each state")
            if any(part.shape != before[i].shape for part, before in zip(parts[1:], state, strict=True)):
                raise ExportError("a state comes out of the written module with another shape than it went in")
            actions.append(parts[0].numpy())
            following.append([part.numpy() for part in parts[1:]])
    columns = tuple(numpy.stack([row[i] for row in following]) for i in range(len(state)))
    return numpy.concatenate(actions), columns


def shares(action: Action, got: Vector, expected: Vector) -> NDArray[numpy.float64]:
    """[n]: the largest difference of each row as a share of what a tolerance is multiplied by; inf where not equal."""
    difference = numpy.abs(got.astype(numpy.float64) - expected)
    allowance = action.allowance(expected)
    with numpy.errstate(divide="ignore", invalid="ignore"):
        share = numpy.where(difference == 0.0, 0.0, difference / allowance)
    share[~numpy.isfinite(got) | ~numpy.isfinite(expected)] = numpy.inf
    largest: NDArray[numpy.float64] = share.max(axis=1)
    return largest


def compare(subject: Subject, module: torch.jit.ScriptModule, vectors: Vectors, tolerance: float) -> Agreement:
    """The written module against expected actions. An `ExportError` names the first row that is too far off."""
    got, following = run(module, vectors.observation, vectors.noise, vectors.state)
    if got.shape != vectors.action.shape:
        raise ExportError(f"the written module answers {got.shape[1:]} elements, expected {vectors.action.shape[1:]}")
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
            f"{excerpt(vectors.action[row])} (tolerance {tolerance:g} of the action range); nothing was written"
        )
    largest_state = 0.0
    for after, expected in zip(following, vectors.following, strict=True):
        error = float(numpy.max(numpy.abs(after - expected) / numpy.maximum(1.0, numpy.abs(expected))))
        largest_state = max(largest_state, error)
    if not largest_state <= tolerance:
        raise ExportError(f"the written module's next state differs from the model's by {largest_state:g}")
    return Agreement(len(vectors), float(share[~wrong].max(initial=0.0)), largest_state, int(near.sum()))


def excerpt(values: Vector) -> str:
    """The first elements of a vector."""
    shown = ", ".join(f"{value:.9g}" for value in values[:6])
    return f"[{shown}{', ...' if len(values) > 6 else ''}]"


def expected(subject: Subject, vectors: Vector, noise: Vector | None, state: tuple[Vector, ...]) -> Vectors:
    """Rows with what they must give. Zero noise stands for none where the signature has noise."""
    if noise is not None:
        action, following = subject.with_noise(vectors, noise, state)
    else:
        action, following = subject.reference(vectors, state)
        if subject.signature.noise is not None:
            noise = numpy.zeros((len(vectors), subject.signature.noise.dimension), dtype=numpy.float32)
    return Vectors(vectors, noise, state, action, following)


def drawn(subject: Subject, sampler: Sampler, count: int, with_noise: bool) -> Vectors:
    """Random rows with what they must give."""
    noise = sampler.noise(subject.signature.noise, count) if with_noise and subject.signature.noise else None
    return expected(subject, sampler.draw(count), noise, sampler.states(subject.signature, count))


def golden_vectors(subject: Subject, sampler: Sampler, count: int) -> Vectors:
    """`count` rows: the edge cases first, then draws; half with noise, where there is any. None is a near tie."""
    edges = sampler.edges()[: count // 2]
    parts = [settled(subject, expected(subject, edges, None, sampler.states(subject.signature, len(edges))))]
    have = len(parts[0])
    for attempt in range(ATTEMPTS):
        if have >= count:
            break
        noisy = subject.signature.noise is not None and attempt % 2 == 0
        wanted = max(1, (count - have) if attempt else (count // 2 if noisy else count))
        part = settled(subject, drawn(subject, sampler, wanted, noisy))
        part = part.take(slice(0, count - have))
        parts.append(part)
        have += len(part)
    if have < count:
        raise ExportError(
            f"only {have} of {count} golden vectors found: the policy hardly tells its actions apart (best two scores "
            f"within {GOLDEN_MARGIN:g}); is it trained?"
        )
    return joined(parts)


def settled(subject: Subject, vectors: Vectors) -> Vectors:
    """The rows that are finite and no near ties."""
    margin = subject.margin(vectors.observation, vectors.noise, vectors.state)
    finite = numpy.all(numpy.isfinite(vectors.action), axis=1)
    return vectors.take((margin > GOLDEN_MARGIN) & finite)


def load(path: Path) -> torch.jit.ScriptModule:
    """The module in a file."""
    module: torch.jit.ScriptModule = torch.jit.load(path, map_location="cpu")
    return module
