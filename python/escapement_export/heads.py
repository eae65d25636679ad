"""The last part of the graph: converts the network's outputs to the action to send, with or without noise.

Zero noise gives the deterministic action. The `margin` of a head is the distance of its decision from another
decision. Rounding may decide a near tie either way, so rows with a near tie prove nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy
import torch
from gymnasium import spaces
from torch import Tensor, nn

MASKED_LOGIT = -1e8
"""The logit that sb3-contrib gives to an action that the mask forbids."""


class Bounds(nn.Module):
    """Brings a Box action into its space: unscales it if it was squashed to [-1, 1], else clips it."""

    def __init__(self, space: spaces.Box, squashed: bool) -> None:
        super().__init__()
        low = torch.from_numpy(space.low.reshape(1, -1).astype(numpy.float64))
        high = torch.from_numpy(space.high.reshape(1, -1).astype(numpy.float64))
        self.squashed = squashed
        self.is_identity = bool(torch.all(torch.isinf(low)) and torch.all(torch.isinf(high)))
        self.is_uniform = bool(torch.all(low == low[0, 0]) and torch.all(high == high[0, 0]))
        self.uniform = (float(low[0, 0]), float(high[0, 0]))
        self.register_buffer("low", low.to(torch.float32))
        self.register_buffer("high", high.to(torch.float32))
        # Halving is exact, so the product rounds as Stable-Baselines3's 0.5 * (a + 1) * (high - low) does.
        self.register_buffer("half_range", 0.5 * (high.to(torch.float32) - low.to(torch.float32)))

    low: Tensor
    high: Tensor
    half_range: Tensor

    def forward(self, action: Tensor) -> Tensor:
        """Takes and returns [n, act]."""
        if self.squashed:
            return (action + 1.0) * self.half_range + self.low
        if self.is_identity:
            return action
        if self.is_uniform:
            return torch.clamp(action, self.uniform[0], self.uniform[1])
        return torch.minimum(torch.maximum(action, self.low), self.high)


class Head(nn.Module):
    """Base of all heads. `noise_dimension` is 0 if the policy has no randomness."""

    noise_kind = "gaussian"
    noise_dimension = 0

    def forward(self, outputs: tuple[Tensor, ...], mask: Tensor | None, noise: Tensor | None) -> Tensor:
        """Returns the action [n, act], float32, for the network's outputs."""
        raise NotImplementedError

    def margin(self, outputs: tuple[Tensor, ...], mask: Tensor | None, noise: Tensor | None) -> Tensor:
        """Returns [n]: the margin of the closest decision, relative to max(1, |best score|)."""
        return torch.full((len(outputs[0]),), torch.inf)


class DeterministicBox(Head):
    """The action is the network's output: DDPG, TD3, ARS."""

    def __init__(self, space: spaces.Box, squashed: bool) -> None:
        super().__init__()
        self.bounds = Bounds(space, squashed)

    def forward(self, outputs: tuple[Tensor, ...], mask: Tensor | None, noise: Tensor | None) -> Tensor:
        action: Tensor = self.bounds(outputs[0])
        return action


class Gaussian(Head):
    """Computes mean + deviation * noise, with tanh if the policy has it. Outputs: (mean, deviation)."""

    def __init__(self, space: spaces.Box, tanh: bool, squashed: bool) -> None:
        super().__init__()
        self.bounds = Bounds(space, squashed)
        self.tanh = tanh
        self.noise_dimension = int(numpy.prod(space.shape, dtype=numpy.int64))

    def forward(self, outputs: tuple[Tensor, ...], mask: Tensor | None, noise: Tensor | None) -> Tensor:
        mean, deviation = outputs
        action = mean if noise is None else mean + deviation * noise
        if self.tanh:
            action = torch.tanh(action)
        bounded: Tensor = self.bounds(action)
        return bounded


class Categorical(Head):
    """Takes argmax(logits + Gumbel noise) of each component (Gumbel-max).

    Outputs: (logits [n, sum(nvec)],).
    """

    noise_kind = "gumbel"

    def __init__(self, nvec: Sequence[int], stochastic: bool = True) -> None:
        super().__init__()
        self.nvec = tuple(nvec)
        self.noise_dimension = sum(self.nvec) if stochastic else 0

    def scores(self, outputs: tuple[Tensor, ...], mask: Tensor | None, noise: Tensor | None) -> Tensor:
        """Returns the scores [n, sum(nvec)] that argmax is taken of."""
        scores = outputs[0] if noise is None else outputs[0] + noise
        return scores if mask is None else torch.where(mask, scores, MASKED_LOGIT)

    def forward(self, outputs: tuple[Tensor, ...], mask: Tensor | None, noise: Tensor | None) -> Tensor:
        scores = self.scores(outputs, mask, noise)
        if len(self.nvec) == 1:
            best = torch.argmax(scores, 1, keepdim=True)
        elif len(set(self.nvec)) == 1:
            best = torch.argmax(scores.reshape(-1, len(self.nvec), self.nvec[0]), 2)
        else:
            parts = torch.split(scores, list(self.nvec), 1)
            best = torch.cat([torch.argmax(part, 1, keepdim=True) for part in parts], 1)
        return best.to(torch.float32)

    def margin(self, outputs: tuple[Tensor, ...], mask: Tensor | None, noise: Tensor | None) -> Tensor:
        parts = torch.split(self.scores(outputs, mask, noise), list(self.nvec), 1)
        return torch.stack([lead(part) for part in parts], 1).amin(1)


class Bernoulli(Head):
    """Gives 1 where logit + noise[i] > noise[n + i]. Outputs: (logits,).

    The two draws are Gumbel, so their difference is logistic.
    """

    noise_kind = "gumbel"

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.noise_dimension = 2 * count

    def scores(self, outputs: tuple[Tensor, ...], noise: Tensor | None) -> Tensor:
        """Returns [n, count]: positive where the action is 1."""
        if noise is None:
            return outputs[0]
        return (outputs[0] + noise[:, : self.count]) - noise[:, self.count :]

    def forward(self, outputs: tuple[Tensor, ...], mask: Tensor | None, noise: Tensor | None) -> Tensor:
        return (self.scores(outputs, noise) > 0.0).to(torch.float32)

    def margin(self, outputs: tuple[Tensor, ...], mask: Tensor | None, noise: Tensor | None) -> Tensor:
        return self.scores(outputs, noise).abs().amin(1)


class EpsilonGreedy(Head):
    """Takes the best action value, or a random action for a share `epsilon` of the draws.

    Outputs: (values [n, count],).

    The noise is Gaussian [1 + count]. |noise[0]| exceeds the two-sided quantile with probability epsilon. The
    index of the largest of independent, identically distributed draws is uniform. Zero never exceeds the
    quantile, so zero noise is greedy for every epsilon.
    """

    def __init__(self, count: int, epsilon: float) -> None:
        super().__init__()
        self.count = count
        self.threshold = (
            NormalDist().inv_cdf(1.0 - min(epsilon, 1.0) / 2.0) if epsilon > 0.0 else float("inf")
        )
        self.noise_dimension = 1 + count if epsilon > 0.0 else 0

    def forward(self, outputs: tuple[Tensor, ...], mask: Tensor | None, noise: Tensor | None) -> Tensor:
        greedy = torch.argmax(outputs[0], 1, keepdim=True).to(torch.float32)
        if noise is None:
            return greedy
        explore = torch.abs(noise[:, :1]) > self.threshold
        any_action = torch.argmax(noise[:, 1:], 1, keepdim=True).to(torch.float32)
        return torch.where(explore, any_action, greedy)

    def margin(self, outputs: tuple[Tensor, ...], mask: Tensor | None, noise: Tensor | None) -> Tensor:
        greedy = lead(outputs[0])
        if noise is None:
            return greedy
        distance = torch.abs(noise[:, 0]) - self.threshold
        return torch.minimum(distance.abs(), torch.where(distance > 0.0, lead(noise[:, 1:]), greedy))


def lead(scores: Tensor) -> Tensor:
    """Returns [n]: best minus second best of [n, k], relative to max(1, |best|); infinite for k = 1."""
    if scores.shape[1] == 1:
        return torch.full((len(scores),), torch.inf)
    best = torch.topk(scores, 2, dim=1).values
    return (best[:, 0] - best[:, 1]) / torch.clamp(best[:, 0].abs(), min=1.0)
