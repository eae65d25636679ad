"""Draws observations to test a policy on: in its training range, at its space's edges and far outside."""

from __future__ import annotations

import numpy
import torch
from numpy.typing import NDArray

from .graph import Noise, Signature
from .layout import ObservationLayout, Segment, Vector

SPREADS = (0.3, 1.0, 3.0, 30.0)
"""Standard deviations of the draws. The last one saturates normalisation and clipping."""

UNBOUNDED = 1e3
"""The value that replaces an infinite bound in the edge cases, in standard deviations."""


class Sampler:
    """Draws observation vectors, noise and states from one seeded generator."""

    def __init__(
        self,
        layout: ObservationLayout,
        statistics: tuple[Vector, Vector] | None,
        recorded: Vector | None,
        seed: int,
    ) -> None:
        self.layout = layout
        self.low, self.high = layout.low, layout.high
        if statistics is None:
            self.mean, self.deviation = self.guessed_statistics()
        else:
            self.mean, self.deviation = (part.astype(numpy.float64) for part in statistics)
        self.recorded = recorded
        self.random = numpy.random.default_rng(seed)

    def guessed_statistics(self) -> tuple[NDArray[numpy.float64], NDArray[numpy.float64]]:
        """Returns the middle of the bounds and a quarter of their range, or 0 and 1 for infinite bounds."""
        wide = 1e6
        bounded = (self.high - self.low) < wide
        low, high = numpy.where(bounded, self.low, -1.0), numpy.where(bounded, self.high, 1.0)
        mean = numpy.where(bounded, 0.5 * (low + high), numpy.clip(0.0, self.low, self.high))
        return mean, numpy.where(bounded, 0.25 * (high - low), 1.0)

    def edges(self) -> Vector:
        """Returns zeros, the mean, the bounds and values far outside: for all elements, then for each."""
        far = UNBOUNDED * numpy.maximum(self.deviation, 1e-3)
        low, high = numpy.maximum(self.low, self.mean - far), numpy.minimum(self.high, self.mean + far)
        rows = [numpy.zeros_like(self.mean), self.mean, low, high]
        for sign in (-100.0, -1.0, -1e-6, 1e-6, 1.0, 100.0):
            rows.append(self.mean + sign * self.deviation)
        for element in range(min(self.layout.dimension, 32)):
            for value in (low[element], high[element]):
                row = self.mean.copy()
                row[element] = value
                rows.append(row)
        return self.valid(numpy.array(rows))

    def draw(self, count: int) -> Vector:
        """Returns `count` observations.

        A quarter are recorded ones, if there are any. The others are Gaussian around the mean, or uniform.
        """
        spread = self.random.choice(SPREADS, size=(count, 1))
        rows = self.mean + spread * self.deviation * self.random.standard_normal(
            (count, self.layout.dimension)
        )
        uniform = (self.random.random(count) < 0.3)[:, None] & numpy.isfinite(self.high - self.low)
        low, high = numpy.where(uniform, self.low, 0.0), numpy.where(uniform, self.high, 0.0)
        rows = numpy.where(uniform, low + (high - low) * self.random.random(rows.shape), rows)
        if self.recorded is not None:
            picked = self.random.random(count) < 0.25
            rows[picked] = self.recorded[self.random.integers(len(self.recorded), size=int(picked.sum()))]
        return self.valid(rows)

    def valid(self, rows: NDArray[numpy.float64]) -> Vector:
        """Brings rows into their space: within bounds, integers if required, masks that allow an action."""
        vectors = numpy.clip(rows, self.low, self.high).astype(numpy.float32)
        # Rounding to float32 may exceed a bound that is not a float32 number.
        vectors = numpy.clip(vectors, numpy.float32(-3e38), numpy.float32(3e38))
        for segment in self.layout.segments:
            part = vectors[:, segment.offset : segment.end]
            if segment.kind == "mask":
                part[:] = self.masks(len(rows), segment)
            elif segment.kind != "box":
                part[:] = self.random.integers(0, segment.high.astype(numpy.int64) + 1, size=part.shape)
            elif not numpy.issubdtype(segment.dtype, numpy.floating):
                part[:] = numpy.rint(part)
        return vectors

    def masks(self, count: int, segment: Segment) -> Vector:
        """Returns random masks that allow at least one action of each component."""
        masks = (self.random.random((count, segment.dimension)) < 0.6).astype(numpy.float32)
        start = 0
        for width in segment.nvec:
            masks[numpy.arange(count), start + self.random.integers(width, size=count)] = 1.0
            start += width
        return masks

    def noise(self, noise: Noise, count: int) -> Vector:
        """Returns independent standard draws [count, dimension]."""
        size = (count, noise.dimension)
        draws = (
            self.random.standard_normal(size) if noise.kind == "gaussian" else self.random.gumbel(size=size)
        )
        return draws.astype(numpy.float32)

    def states(self, signature: Signature, count: int) -> tuple[Vector, ...]:
        """Returns states [count, *shape]: zeros in every fourth row, values from -1 to 1 in the others."""
        drawn = []
        for state in signature.state:
            values = self.random.uniform(-1.0, 1.0, size=(count, *state.shape))
            values[::4] = 0.0
            drawn.append(values.astype(numpy.float32))
        return tuple(drawn)


def batched(states: tuple[Vector, ...]) -> tuple[torch.Tensor, ...]:
    """Converts states [count, layers, 1, units] to [layers, count, units], the form of a batch of an LSTM."""
    return tuple(
        torch.from_numpy(numpy.ascontiguousarray(numpy.moveaxis(state[:, :, 0], 0, 1))) for state in states
    )


def unbatched(state: NDArray[numpy.float32]) -> Vector:
    """Converts states [layers, count, units] to one [layers, 1, units] per row."""
    return numpy.ascontiguousarray(numpy.moveaxis(state, 1, 0)[:, :, None])
