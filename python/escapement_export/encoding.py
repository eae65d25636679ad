"""The first part of the graph: converts the raw vector to the tensors that a feature extractor takes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layout import ObservationLayout, Segment
from .normalization import Normalization


class Normalizer(nn.Module):
    """Computes clamp(((x - high) - low) * (1 / deviation), +-clip) in float32, as exactly as float64 would.

    The mean is split into the nearest float32 number, `high`, and the rest, `low`. Near the mean the first
    difference is exact (Sterbenz's lemma). So cancellation loses nothing, even if the mean is much larger
    than the deviation.
    """

    def __init__(self, normalization: Normalization, key: str) -> None:
        super().__init__()
        statistics = normalization.statistics[key]
        mean = torch.from_numpy(statistics.mean)[None]
        high = mean.to(torch.float32)
        low = (mean - high.to(torch.float64)).to(torch.float32)
        scale = 1.0 / torch.from_numpy(normalization.deviation(statistics))[None]
        self.register_buffer("high", high)
        self.register_buffer("low", low)
        self.register_buffer("scale", scale.to(torch.float32))
        self.has_low = bool(torch.any(low != 0.0))
        self.clip = normalization.clip

    high: Tensor
    low: Tensor
    scale: Tensor

    def forward(self, values: Tensor) -> Tensor:
        """Normalises raw values [n, k]; returns [n, k]."""
        centered = values - self.high
        if self.has_low:
            centered = centered - self.low
        return torch.clamp(centered * self.scale, -self.clip, self.clip)


class OneHot(nn.Module):
    """Converts indices [n, components] to concatenated one-hot vectors [n, sum of counts]."""

    def __init__(self, nvec: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer(
            "component", torch.cat([torch.full((count,), i) for i, count in enumerate(nvec)])
        )
        self.register_buffer(
            "category", torch.cat([torch.arange(count) for count in nvec])[None].to(torch.float32)
        )
        self.single = len(nvec) == 1

    component: Tensor
    category: Tensor

    def forward(self, indices: Tensor) -> Tensor:
        """Encodes the indices. An index outside its range gives a vector of zeros."""
        spread = indices if self.single else torch.index_select(indices, 1, self.component)
        return torch.eq(spread, self.category).to(torch.float32)


class Encoder(nn.Module):
    """Converts the raw vector [n, dimension] to what Stable-Baselines3 calls a preprocessed observation."""

    def __init__(
        self, layout: ObservationLayout, normalization: Normalization | None, scale_images: bool
    ) -> None:
        super().__init__()
        self.layout = layout
        self.encoders = nn.ModuleDict()
        for position, segment in enumerate(layout.segments):
            if normalization is not None and segment.key in normalization.statistics:
                self.encoders[str(position)] = Normalizer(normalization, segment.key)
            elif segment.kind in ("discrete", "multi_discrete"):
                self.encoders[str(position)] = OneHot(segment.nvec)
        self.scale_images = scale_images

    def forward(self, observation: Tensor) -> Tensor | dict[str, Tensor]:
        """Returns a tensor, or a dict of tensors if the space is a Dict, without the action mask."""
        parts = {
            segment.key: self.encode(str(position), segment, observation)
            for position, segment in enumerate(self.layout.segments)
            if segment.kind != "mask"
        }
        return parts if self.layout.is_dict else parts[""]

    def encode(self, position: str, segment: Segment, observation: Tensor) -> Tensor:
        """Encodes one segment of the vector."""
        values = observation
        if segment.dimension != self.layout.dimension:
            values = observation[:, segment.offset : segment.end]
        if position in self.encoders:
            values = self.encoders[position](values)
        if segment.is_image and self.scale_images:
            values = values / 255.0
        if len(segment.shape) > 1:
            values = values.reshape(-1, *segment.shape)
        return values

    def mask(self, observation: Tensor) -> Tensor:
        """Returns the action mask [n, logits] at the end of the vector: True where an action is allowed."""
        mask = self.layout.segments[-1]
        return observation[:, mask.offset :] > 0.5
