"""The source of an export: a graph, its spaces, and the reference that it must agree with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import nn

from .errors import ExportError
from .families import action_bounds, algorithm_of, graph_of, model_layout, refuse_convolutions
from .graph import PolicyGraph, Signature
from .layout import ObservationLayout, Vector, layout_of
from .normalization import (
    FrameStack,
    Normalization,
    frame_stack,
    normalization_of,
    normalized_as_in_training,
)
from .samples import batched, unbatched

NUDGES = 32
PERTURBATION = 1e-3
"""How far `ModuleSubject` moves the inputs, relative to max(1, |input|), to test a discrete action."""


@dataclass(frozen=True)
class Action:
    """The action vector. `low` and `high` hold one number per element, `nvec` one count per component."""

    space: str
    low: NDArray[numpy.float64]
    high: NDArray[numpy.float64]
    nvec: list[int]

    @property
    def dimension(self) -> int:
        """Number of elements of the vector."""
        return len(self.low)

    def allowance(self, expected: Vector) -> NDArray[numpy.float64]:
        """Returns the factor of the tolerance, per element.

        It is the range, or max(1, |expected|) if the range is infinite. It is 0 for discrete actions, which
        must be equal.
        """
        if self.space != "box":
            return numpy.zeros(expected.shape)
        extent = self.high - self.low
        return numpy.where(numpy.isfinite(extent), extent, numpy.maximum(1.0, numpy.abs(expected)))


class Subject(Protocol):
    """A policy that can be written as a bundle."""

    algorithm: str
    layout: ObservationLayout
    action: Action
    signature: Signature
    normalization: Normalization | None
    stack: FrameStack | None

    @property
    def graph(self) -> nn.Module:
        """The module to trace. Its `forward` has the signature."""

    def reference(self, vectors: Vector, state: tuple[Vector, ...]) -> tuple[Vector, tuple[Vector, ...]]:
        """Returns the expected deterministic actions [n, act] and next states."""

    def with_noise(
        self, vectors: Vector, noise: Vector, state: tuple[Vector, ...]
    ) -> tuple[Vector, tuple[Vector, ...]]:
        """Returns the expected actions and next states for rows with noise."""

    def margin(
        self, vectors: Vector, noise: Vector | None, state: tuple[Vector, ...]
    ) -> NDArray[numpy.float64]:
        """Returns [n]: how far each decision is from another action; infinite for Box actions."""


def action_of(space: spaces.Space[Any]) -> Action:
    """Returns the action vector of an action space."""
    kind, low, high, nvec = action_bounds(space)
    if numpy.any(numpy.isnan(low)) or numpy.any(numpy.isnan(high)) or numpy.any(low > high):
        raise ExportError(f"action space {space}: the bounds are not in order")
    return Action(kind, low, high, nvec)


class ModelSubject:
    """A Stable-Baselines3 model with its VecNormalize; the reference is `model.predict`."""

    def __init__(self, model: Any, vec_normalize: Any, frames: int) -> None:
        self.model = model
        self.vec_normalize = vec_normalize
        self.algorithm = algorithm_of(model)
        refuse_convolutions(model.policy)
        self.layout = model_layout(model, frames)
        self.stack = frame_stack(frames, self.layout)
        self.normalization = normalization_of(vec_normalize, self.layout, self.stack)
        self.action = action_of(model.action_space)
        self.graph: PolicyGraph = graph_of(model, self.layout, self.normalization)
        self.signature = self.graph.signature

    def reference(self, vectors: Vector, state: tuple[Vector, ...]) -> tuple[Vector, tuple[Vector, ...]]:
        """Returns the results of `model.predict(..., deterministic=True)`.

        `VecNormalize` itself normalises the inputs.
        """
        observations = normalized_as_in_training(self.vec_normalize, self.layout, self.stack, vectors)
        mask = self.layout.mask_of(vectors)
        extra: dict[str, Any] = {}
        if mask is not None:
            extra["action_masks"] = mask
        if state:
            extra["state"] = tuple(part.numpy() for part in batched(state))
            extra["episode_start"] = numpy.zeros(len(vectors), dtype=bool)
        actions, next_state = self.model.predict(observations, deterministic=True, **extra)
        flat = numpy.asarray(actions).reshape(len(vectors), -1).astype(numpy.float32)
        return flat, tuple(unbatched(part) for part in next_state) if state else ()

    def with_noise(
        self, vectors: Vector, noise: Vector, state: tuple[Vector, ...]
    ) -> tuple[Vector, tuple[Vector, ...]]:
        """Returns the results of the untraced graph: `predict` draws its own noise and takes none."""
        with torch.no_grad():
            result = self.graph(torch.from_numpy(vectors), torch.from_numpy(noise), *batched(state))
        if not state:
            return result.numpy(), ()
        return result[0].numpy(), tuple(unbatched(part.numpy()) for part in result[1:])

    def margin(
        self, vectors: Vector, noise: Vector | None, state: tuple[Vector, ...]
    ) -> NDArray[numpy.float64]:
        """Computes the margin from the scores that the graph takes the best of."""
        drawn = None if noise is None else torch.from_numpy(noise)
        with torch.no_grad():
            return self.graph.margin(torch.from_numpy(vectors), drawn, batched(state)).double().numpy()


class ModuleSubject:
    """Any torch module with the signature of a bundle's `forward`. The reference is the module itself."""

    normalization: Normalization | None = None
    stack: FrameStack | None = None

    def __init__(
        self,
        module: nn.Module,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        signature: Signature,
        algorithm: str,
    ) -> None:
        self.algorithm = algorithm
        self.layout = layout_of(observation_space)
        self.action = action_of(action_space)
        self.signature = signature
        self.graph = FlatAction(module, self.action.dimension).eval()

    def call(
        self, vectors: Vector, noise: Vector | None, state: tuple[Vector, ...]
    ) -> tuple[Vector, tuple[Vector, ...]]:
        """Calls the module row by row, as the daemon does."""
        rows = []
        with torch.no_grad():
            for i in range(len(vectors)):
                inputs = [vectors[i : i + 1]] + ([] if noise is None else [noise[i : i + 1]])
                inputs += [part[i] for part in state]
                result = self.graph(*(torch.from_numpy(numpy.ascontiguousarray(part)) for part in inputs))
                rows.append(result if isinstance(result, tuple) else (result,))
        columns = [numpy.stack([row[i].numpy() for row in rows]) for i in range(1 + len(state))]
        return columns[0][:, 0], tuple(columns[1:])

    def reference(self, vectors: Vector, state: tuple[Vector, ...]) -> tuple[Vector, tuple[Vector, ...]]:
        """Returns the results of the module with zero noise."""
        noise = self.signature.noise
        zeros = None if noise is None else numpy.zeros((len(vectors), noise.dimension), dtype=numpy.float32)
        return self.call(vectors, zeros, state)

    def with_noise(
        self, vectors: Vector, noise: Vector, state: tuple[Vector, ...]
    ) -> tuple[Vector, tuple[Vector, ...]]:
        """Returns the results of the module with noise."""
        return self.call(vectors, noise, state)

    def margin(
        self, vectors: Vector, noise: Vector | None, state: tuple[Vector, ...]
    ) -> NDArray[numpy.float64]:
        """Returns infinity for stable rows and 0 for the others.

        The scores inside a module are not visible. So a row counts as stable if many small changes of its
        inputs leave the action unchanged.
        """
        if self.action.space == "box":
            return numpy.full(len(vectors), numpy.inf)
        random = numpy.random.default_rng(0)
        zeros = noise
        if noise is None and self.signature.noise is not None:
            zeros = numpy.zeros((len(vectors), self.signature.noise.dimension), dtype=numpy.float32)
        settled, _ = self.call(vectors, zeros, state)
        stable = numpy.ones(len(vectors), dtype=bool)
        for _ in range(NUDGES):
            nudge = random.choice([-PERTURBATION, PERTURBATION], size=vectors.shape)
            nudged = vectors + (nudge * numpy.maximum(1.0, numpy.abs(vectors))).astype(numpy.float32)
            # Indices and masks are not moved: they have no values close to each other.
            for segment in self.layout.segments:
                if segment.kind != "box":
                    nudged[:, segment.offset : segment.end] = vectors[:, segment.offset : segment.end]
            stable &= numpy.all(self.call(nudged, zeros, state)[0] == settled, axis=1)
        return numpy.where(stable, numpy.inf, 0.0)


class FlatAction(nn.Module):
    """Wraps a module so that its action has the type float32 and the shape [1, act]."""

    def __init__(self, module: nn.Module, dimension: int) -> None:
        super().__init__()
        self.module = module
        self.dimension = dimension

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Returns the module's result with its first tensor converted."""
        result = self.module(*inputs)
        if isinstance(result, tuple):
            return (self.flat(result[0]), *result[1:])
        return self.flat(result)

    def flat(self, action: torch.Tensor) -> torch.Tensor:
        """Converts an action of any shape. Fails if the number of elements is wrong."""
        if action.numel() != self.dimension:
            raise ExportError(
                f"the module's action has {action.numel()} elements, the action space {self.dimension}"
            )
        return action.reshape(1, self.dimension).to(torch.float32)
