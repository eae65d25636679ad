"""VecNormalize and VecFrameStack: what lies between an environment's observation and the model.

The model may have been trained behind VecNormalize(VecFrameStack(env)) or behind VecFrameStack(VecNormalize(env)). The
first keeps statistics for each element of the stacked observation, the second for one frame; the shapes tell which.
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
    """What VecNormalize does: clip((observation - mean) / sqrt(variance + epsilon), +-clip), by segment key."""

    statistics: dict[str, Statistics]
    epsilon: float
    clip: float

    def deviation(self, statistics: Statistics) -> NDArray[numpy.float64]:
        """What a difference from the mean is divided by."""
        return numpy.sqrt(statistics.variance + self.epsilon)


@dataclass(frozen=True)
class FrameStack:
    """VecFrameStack: `frames` observations along the last axis of each segment, the oldest first."""

    frames: int

    def unstack(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """The frames of an array [..., frames * k], each [..., k]."""
        return numpy.split(values, self.frames, axis=-1)

    def tile(self, frame: NDArray[Any]) -> NDArray[Any]:
        """An array [..., k] as the array [..., frames * k] of as many equal frames."""
        return numpy.concatenate([frame] * self.frames, axis=-1)


def frame_stack(frames: int, layout: ObservationLayout) -> FrameStack | None:
    """The stack, where there is more than one frame, or an `ExportError` where the layout cannot be one."""
    if frames == 1:
        return None
    if not 2 <= frames <= 64:
        raise ExportError(f"--frame-stack {frames}; allowed: 1 to 64")
    for segment in layout.segments:
        if segment.kind != "box" or segment.is_image or not segment.shape or segment.shape[-1] % frames:
            what = f"{segment.kind}{list(segment.shape)}" + (" image" if segment.is_image else "")
            raise ExportError(f"--frame-stack {frames} does not fit {segment.key or 'the observation'}: {what}")
    return FrameStack(frames)


def unrepeated_bounds(layout: ObservationLayout, stack: FrameStack) -> ObservationLayout:
    """The layout with bounds that belong to the elements they stand at.

    VecFrameStack concatenates frames, [a, b, a, b], but makes its space's bounds with `numpy.repeat`, [a, a, b, b].
    """
    bounds = []
    for side in ("low", "high"):
        parts = []
        for segment in layout.segments:
            repeated = getattr(segment, side).reshape(segment.shape)
            parts.append(stack.tile(repeated[..., :: stack.frames]).reshape(-1))
        bounds.append(numpy.concatenate(parts))
    return layout.with_bounds(bounds[0], bounds[1])


def normalization_of(vec_normalize: Any, layout: ObservationLayout, stack: FrameStack | None) -> Normalization | None:
    """The observation statistics of a `VecNormalize`, checked against the layout. None where it leaves observations."""
    if vec_normalize is None or not vec_normalize.norm_obs:
        return None
    running = vec_normalize.obs_rms
    by_key = running if isinstance(running, dict) else {"": running}
    boxes = {segment.key: segment for segment in layout.segments if segment.kind == "box"}
    statistics = {}
    for key in by_key if vec_normalize.norm_obs_keys is None else vec_normalize.norm_obs_keys:
        name = f"key {key!r}" if key else "the observation"
        if key not in boxes:
            raise ExportError(f"VecNormalize normalises {name}, which is no Box of the model's observation space")
        statistics[key] = statistics_of(by_key[key], boxes[key], stack, name)
    return Normalization(statistics, float(vec_normalize.epsilon), float(vec_normalize.clip_obs))


def statistics_of(running: Any, segment: Segment, stack: FrameStack | None, name: str) -> Statistics:
    """The running mean and variance of one segment, spread over the stack where they were kept for one frame."""
    mean = numpy.asarray(running.mean, dtype=numpy.float64)
    variance = numpy.asarray(running.var, dtype=numpy.float64)
    if not (numpy.all(numpy.isfinite(mean)) and numpy.all(numpy.isfinite(variance)) and numpy.all(variance >= 0)):
        raise ExportError(f"VecNormalize's statistics of {name} are not finite")
    if mean.shape == segment.shape:
        return Statistics(mean.reshape(-1), variance.reshape(-1), per_frame=False)
    if stack is not None and stack.tile(mean).shape == segment.shape:
        return Statistics(stack.tile(mean).reshape(-1), stack.tile(variance).reshape(-1), per_frame=True)
    hint = "" if stack is not None else "; was it stacked? then say --frame-stack N"
    raise ExportError(
        f"VecNormalize keeps statistics of shape {list(mean.shape)} for {name}, the model takes "
        f"{list(segment.shape)}{hint}"
    )


def normalized_as_in_training(
    vec_normalize: Any, layout: ObservationLayout, stack: FrameStack | None, vectors: Vector
) -> ModelObservation:
    """Raw vectors [n, dimension] as the model's observations, normalised by `VecNormalize` itself, in float64.

    This is the reference that the exported graph is compared with, so it shares no arithmetic with the graph.
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
        return numpy.concatenate([vec_normalize.normalize_obs(frame) for frame in stack.unstack(observations)], axis=-1)
    split = {name: stack.unstack(values) for name, values in observations.items()}
    frames = [
        vec_normalize.normalize_obs({name: parts[i] for name, parts in split.items()}) for i in range(stack.frames)
    ]
    return {name: numpy.concatenate([frame[name] for frame in frames], axis=-1) for name in observations}


def training_statistics(
    layout: ObservationLayout, normalization: Normalization | None, recorded: Vector | None
) -> tuple[Vector, Vector] | None:
    """Mean and standard deviation of each raw element: VecNormalize's, or of recorded observations, or none.

    Elements that VecNormalize leaves alone come from the recorded observations. Without those, indices and masks, which
    have bounds and no distribution worth guarding, get the middle and half the width of theirs; other elements leave
    the vector incomplete, and then there is none.
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
    """What stands for frames that do not exist yet: the mean where each frame was normalised before it was stacked."""
    fill = numpy.zeros(layout.dimension, dtype=numpy.float32)
    for segment in layout.segments:
        statistics = normalization.statistics.get(segment.key) if normalization is not None else None
        if statistics is not None and statistics.per_frame:
            fill[segment.offset : segment.end] = statistics.mean.astype(numpy.float32)
    return fill
