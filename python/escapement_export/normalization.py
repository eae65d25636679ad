"""VecNormalize and VecFrameStack: the wrappers between an environment's observation and the model.

A model may have been trained with VecNormalize(VecFrameStack(env)) or with VecFrameStack(VecNormalize(env)).
The first keeps statistics for each element of the stacked observation, the second for one frame. The shapes
of the statistics show which one was used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from .errors import ExportError
from .layout import ModelObservation, ObservationLayout, Segment, Vector


@dataclass(frozen=True)
class Statistics:
    """Mean and variance of each element of one segment, for one frame or for the whole stack."""

    mean: NDArray[numpy.float64]
    variance: NDArray[numpy.float64]
    per_frame: bool


@dataclass(frozen=True)
class Normalization:
    """The function of VecNormalize: clip((observation - mean) / sqrt(variance + epsilon), +-clip).

    `statistics` are by segment key.
    """

    statistics: dict[str, Statistics]
    epsilon: float
    clip: float

    def deviation(self, statistics: Statistics) -> NDArray[numpy.float64]:
        """Returns the divisor of the difference from the mean."""
        return numpy.sqrt(statistics.variance + self.epsilon)


@dataclass(frozen=True)
class FrameStack:
    """VecFrameStack: `frames` observations along the last axis of each segment, the oldest first."""

    frames: int

    def unstack(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """Returns the frames of an array [..., frames * k], each [..., k]."""
        return numpy.split(values, self.frames, axis=-1)

    def tile(self, frame: NDArray[Any]) -> NDArray[Any]:
        """Repeats an array [..., k] for each frame; returns [..., frames * k]."""
        return numpy.concatenate([frame] * self.frames, axis=-1)


def frame_stack(frames: int, layout: ObservationLayout) -> FrameStack | None:
    """Returns the stack, or None for one frame. Fails if the layout cannot be a stack of so many frames."""
    if frames == 1:
        return None
    if not 2 <= frames <= 64:
        raise ExportError(f"--frame-stack {frames}; allowed: 1 to 64")
    for segment in layout.segments:
        if segment.kind != "box" or segment.is_image or not segment.shape or segment.shape[-1] % frames:
            what = f"{segment.kind}{list(segment.shape)}" + (" image" if segment.is_image else "")
            raise ExportError(
                f"--frame-stack {frames} does not fit {segment.key or 'the observation'}: {what}"
            )
    return FrameStack(frames)


def unrepeated_bounds(layout: ObservationLayout, stack: FrameStack) -> ObservationLayout:
    """Returns the layout with the bounds of each element in the place of that element.

    VecFrameStack concatenates frames, [a, b, a, b]. But it builds the bounds of its space with
    `numpy.repeat`, [a, a, b, b].
    """
    bounds = []
    for side in ("low", "high"):
        parts = []
        for segment in layout.segments:
            repeated = getattr(segment, side).reshape(segment.shape)
            parts.append(stack.tile(repeated[..., :: stack.frames]).reshape(-1))
        bounds.append(numpy.concatenate(parts))
    return layout.with_bounds(bounds[0], bounds[1])


def normalization_of(
    vec_normalize: Any, layout: ObservationLayout, stack: FrameStack | None
) -> Normalization | None:
    """Returns the observation statistics of a `VecNormalize`, checked against the layout.

    Returns None if it does not normalise observations.
    """
    if vec_normalize is None or not vec_normalize.norm_obs:
        return None
    running = vec_normalize.obs_rms
    by_key = running if isinstance(running, dict) else {"": running}
    boxes = {segment.key: segment for segment in layout.segments if segment.kind == "box"}
    statistics = {}
    for key in by_key if vec_normalize.norm_obs_keys is None else vec_normalize.norm_obs_keys:
        name = f"key {key!r}" if key else "the observation"
        if key not in boxes:
            raise ExportError(
                f"VecNormalize normalises {name}, which is not a Box of the model's observation space"
            )
        statistics[key] = statistics_of(by_key[key], boxes[key], stack, name)
    return Normalization(statistics, float(vec_normalize.epsilon), float(vec_normalize.clip_obs))


def statistics_of(running: Any, segment: Segment, stack: FrameStack | None, name: str) -> Statistics:
    """Returns mean and variance of one segment, repeated for each frame if they are those of one frame."""
    mean = numpy.asarray(running.mean, dtype=numpy.float64)
    variance = numpy.asarray(running.var, dtype=numpy.float64)
    if not (
        numpy.all(numpy.isfinite(mean)) and numpy.all(numpy.isfinite(variance)) and numpy.all(variance >= 0)
    ):
        raise ExportError(f"VecNormalize's statistics of {name} are not finite")
    if mean.shape == segment.shape:
        return Statistics(mean.reshape(-1), variance.reshape(-1), per_frame=False)
    if stack is not None and stack.tile(mean).shape == segment.shape:
        return Statistics(stack.tile(mean).reshape(-1), stack.tile(variance).reshape(-1), per_frame=True)
    hint = "" if stack is not None else "; if it was stacked, pass --frame-stack N"
    raise ExportError(
        f"VecNormalize keeps statistics of shape {list(mean.shape)} for {name}, the model takes "
        f"{list(segment.shape)}{hint}"
    )


def normalized_as_in_training(
    vec_normalize: Any, layout: ObservationLayout, stack: FrameStack | None, vectors: Vector
) -> ModelObservation:
    """Converts raw vectors [n, dimension] to the model's observations.

    `VecNormalize` itself normalises them, in float64. The exported graph is compared with this reference, so
    the two share no arithmetic.
    """
    observations = layout.to_model(vectors)
    if vec_normalize is None or not vec_normalize.norm_obs:
        return observations
    running = vec_normalize.obs_rms
    first = next(iter(running.values())) if isinstance(running, dict) else running
    key = next(iter(running)) if isinstance(running, dict) else ""
    shape = next(segment.shape for segment in layout.segments if segment.key == key)
    if stack is None or numpy.shape(first.mean) == shape:
        normalized: ModelObservation = vec_normalize.normalize_obs(observations)
        return normalized
    if not isinstance(observations, dict):
        return numpy.concatenate(
            [vec_normalize.normalize_obs(frame) for frame in stack.unstack(observations)], axis=-1
        )
    split = {name: stack.unstack(values) for name, values in observations.items()}
    frames = [
        vec_normalize.normalize_obs({name: parts[i] for name, parts in split.items()})
        for i in range(stack.frames)
    ]
    return {name: numpy.concatenate([frame[name] for frame in frames], axis=-1) for name in observations}


def training_statistics(
    layout: ObservationLayout, normalization: Normalization | None, recorded: Vector | None
) -> tuple[Vector, Vector] | None:
    """Returns mean and standard deviation of each raw element, or None if some are not known.

    Elements that VecNormalize normalises have its statistics. The others have those of the recorded
    observations. Without recorded observations, indices and masks get the middle and half the width of their
    bounds: their distribution is not worth checking. If any other element is left, the result is None.
    """
    if recorded is not None:
        mean = recorded.mean(axis=0, dtype=numpy.float64)
        deviation = recorded.std(axis=0, dtype=numpy.float64)
    elif normalization is None or any(
        segment.kind == "box" and segment.key not in normalization.statistics for segment in layout.segments
    ):
        return None
    else:
        mean, deviation = numpy.zeros(layout.dimension), numpy.zeros(layout.dimension)
    for segment in layout.segments:
        if recorded is None and segment.kind != "box":
            mean[segment.offset : segment.end] = 0.5 * (segment.low + segment.high)
            deviation[segment.offset : segment.end] = 0.5 * (segment.high - segment.low)
        if normalization is not None and segment.key in normalization.statistics:
            statistics = normalization.statistics[segment.key]
            mean[segment.offset : segment.end] = statistics.mean
            deviation[segment.offset : segment.end] = numpy.sqrt(statistics.variance)
    return mean.astype(numpy.float32), deviation.astype(numpy.float32)


def stack_fill(layout: ObservationLayout, normalization: Normalization | None) -> Vector:
    """Returns the values of frames that do not exist yet.

    These are zeros, or the mean if each frame was normalised before it was stacked.
    """
    fill = numpy.zeros(layout.dimension, dtype=numpy.float32)
    for segment in layout.segments:
        statistics = normalization.statistics.get(segment.key) if normalization is not None else None
        if statistics is not None and statistics.per_frame:
            fill[segment.offset : segment.end] = statistics.mean.astype(numpy.float32)
    return fill
