"""The layout of an observation of a gymnasium space in the flat float32 vector that a feed publishes.

Box, Discrete, MultiDiscrete and MultiBinary give one segment. A Dict gives one for each key, in sorted order.
An action mask is one more segment at the end. `docs/BUNDLE.md`, "Observations", is the specification.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy
from gymnasium import spaces
from numpy.typing import NDArray

from .errors import ExportError

Vector = NDArray[numpy.float32]
ModelObservation = NDArray[Any] | dict[str, NDArray[Any]]
"""The argument of `model.predict`: an array with a batch dimension, or one such array for each key."""

MAXIMUM_DIMENSION = 4096
MASK_KEY = "action_mask"


@dataclass(frozen=True)
class Segment:
    """A contiguous part of the observation vector.

    `low` and `high` hold one float64 per element. `nvec` holds the counts of the kinds `discrete`,
    `multi_discrete` and `mask`.
    """

    key: str
    kind: str
    offset: int
    dimension: int
    shape: tuple[int, ...]
    low: NDArray[numpy.float64]
    high: NDArray[numpy.float64]
    dtype: numpy.dtype[Any]
    nvec: tuple[int, ...] = ()
    is_image: bool = False

    @property
    def end(self) -> int:
        """One past the last element."""
        return self.offset + self.dimension


@dataclass(frozen=True)
class ObservationLayout:
    """The segments of an observation vector, in order and without gaps."""

    segments: tuple[Segment, ...]
    is_dict: bool

    @property
    def dimension(self) -> int:
        """Number of elements of the whole vector."""
        return self.segments[-1].end

    @property
    def low(self) -> NDArray[numpy.float64]:
        """Lower bound of each element."""
        return numpy.concatenate([segment.low for segment in self.segments])

    @property
    def high(self) -> NDArray[numpy.float64]:
        """Upper bound of each element."""
        return numpy.concatenate([segment.high for segment in self.segments])

    @property
    def mask(self) -> Segment | None:
        """The action mask, if the policy takes one."""
        last = self.segments[-1]
        return last if last.kind == "mask" else None

    def to_model(self, vectors: Vector) -> ModelObservation:
        """Converts vectors [n, dimension] to the batch for `model.predict`, without the action mask."""
        parts = {
            segment.key: vectors[:, segment.offset : segment.end]
            .reshape(len(vectors), *segment.shape)
            .astype(segment.dtype)
            for segment in self.segments
            if segment.kind != "mask"
        }
        return parts if self.is_dict else parts[""]

    def mask_of(self, vectors: Vector) -> NDArray[numpy.bool_] | None:
        """Returns the action masks of vectors [n, dimension], as MaskablePPO takes them."""
        return None if self.mask is None else vectors[:, self.mask.offset :] > 0.5

    def with_mask(self, nvec: tuple[int, ...]) -> ObservationLayout:
        """Returns the same layout, followed by an action mask of sum(nvec) elements."""
        width = sum(nvec)
        mask = Segment(
            key=MASK_KEY,
            kind="mask",
            offset=self.dimension,
            dimension=width,
            shape=(width,),
            low=numpy.zeros(width),
            high=numpy.ones(width),
            dtype=numpy.dtype(numpy.float32),
            nvec=nvec,
        )
        return check_dimension(ObservationLayout((*self.segments, mask), self.is_dict))

    def with_bounds(self, low: NDArray[numpy.float64], high: NDArray[numpy.float64]) -> ObservationLayout:
        """Returns the same layout with other bounds, one per element."""
        segments = tuple(
            replace(segment, low=low[segment.offset : segment.end], high=high[segment.offset : segment.end])
            for segment in self.segments
        )
        return ObservationLayout(segments, self.is_dict)


def layout_of(space: spaces.Space[Any]) -> ObservationLayout:
    """Returns the layout of an observation space. Fails if a part of the space is not supported."""
    if not isinstance(space, spaces.Dict):
        return check_dimension(ObservationLayout((segment_of("", space, 0),), is_dict=False))
    segments: list[Segment] = []
    for key in sorted(space.spaces):
        offset = segments[-1].end if segments else 0
        if key == MASK_KEY:
            raise ExportError(f"observation key {key!r} is taken by the mask of MaskablePPO; rename it")
        segments.append(segment_of(key, space.spaces[key], offset))
    if not segments:
        raise ExportError("the observation space is an empty Dict")
    return check_dimension(ObservationLayout(tuple(segments), is_dict=True))


def check_dimension(layout: ObservationLayout) -> ObservationLayout:
    """Returns the layout. Fails if the vector does not fit into a slot of a ring."""
    if not 1 <= layout.dimension <= MAXIMUM_DIMENSION:
        raise ExportError(
            f"the observation has {layout.dimension} elements; allowed: 1 to {MAXIMUM_DIMENSION}"
        )
    return layout


def segment_of(key: str, space: spaces.Space[Any], offset: int) -> Segment:
    """Returns one space as a segment at `offset`."""
    name = f"observation key {key!r}: " if key else "observation space: "
    if isinstance(space, spaces.Box):
        return Segment(
            key=key,
            kind="box",
            offset=offset,
            dimension=int(numpy.prod(space.shape, dtype=numpy.int64)),
            shape=tuple(space.shape),
            low=space.low.astype(numpy.float64).reshape(-1),
            high=space.high.astype(numpy.float64).reshape(-1),
            dtype=space.dtype or numpy.dtype(numpy.float32),
            is_image=is_image(space),
        )
    if isinstance(space, spaces.Discrete):
        if int(space.start) != 0:
            raise ExportError(
                f"{name}{space} starts at {space.start}; Stable-Baselines3 encodes indices from 0 only"
            )
        return discrete(key, "discrete", offset, (), (int(space.n),))
    if isinstance(space, spaces.MultiDiscrete):
        counts = numpy.asarray(space.nvec)
        if counts.ndim != 1 or numpy.any(numpy.asarray(space.start) != 0):
            raise ExportError(f"{name}{space} has more than one axis or does not start at 0; flatten it")
        return discrete(key, "multi_discrete", offset, counts.shape, tuple(int(count) for count in counts))
    if isinstance(space, spaces.MultiBinary):
        width = int(numpy.prod(space.shape, dtype=numpy.int64))
        segment = discrete(key, "multi_binary", offset, tuple(space.shape), (2,) * width)
        return replace(segment, nvec=(), dtype=numpy.dtype(numpy.int8))
    raise ExportError(
        f"{name}{type(space).__name__} cannot be exported; Box, Discrete, MultiDiscrete, MultiBinary can"
    )


def discrete(key: str, kind: str, offset: int, shape: tuple[int, ...], nvec: tuple[int, ...]) -> Segment:
    """Returns a segment of indices, each from 0 to its count - 1."""
    return Segment(
        key=key,
        kind=kind,
        offset=offset,
        dimension=len(nvec),
        shape=shape,
        low=numpy.zeros(len(nvec)),
        high=numpy.array(nvec, dtype=numpy.float64) - 1.0,
        dtype=numpy.dtype(numpy.int64),
        nvec=nvec,
    )


def is_image(space: spaces.Box) -> bool:
    """Whether Stable-Baselines3 treats a space as an image: three axes of uint8 from 0 to 255."""
    return (
        space.dtype == numpy.uint8
        and len(space.shape) == 3
        and bool(numpy.all(space.low == 0))
        and bool(numpy.all(space.high == 255))
    )


def flatten(observation: ModelObservation | Mapping[str, Any] | Any, layout: ObservationLayout) -> Vector:
    """Returns the vector of one observation, which has no batch dimension and no action mask."""
    segments = [segment for segment in layout.segments if segment.kind != "mask"]
    parts = [observation[segment.key] for segment in segments] if layout.is_dict else [observation]
    return numpy.concatenate([numpy.asarray(part, dtype=numpy.float32).reshape(-1) for part in parts])
