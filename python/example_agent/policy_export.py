"""An actor of Stable-Baselines3 as one frozen TorchScript module: raw observation [1, n] in, action [1, m] out.

Observation statistics are part of the network (`NormalizedObservation`), so `model.predict` and the module take the
same raw observations, and there is no second place where normalisation could be forgotten or done differently.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import gymnasium
import numpy
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

CLIP_DEVIATIONS = 5.0
"""Normalised observations are clipped to this many standard deviations either way."""
TOLERANCE = 1e-6


class ExportError(Exception):
    """The exported module does not do what the model does."""


class NormalizedObservation(BaseFeaturesExtractor):
    """clip((observation - mean) / deviation), with constants that are set once, from training data."""

    mean: Tensor
    scale: Tensor

    def __init__(
        self, observation_space: gymnasium.Space[NDArray[numpy.float32]], mean: list[float], deviation: list[float]
    ) -> None:
        super().__init__(observation_space, features_dim=len(mean))
        # A feature that never moved in training carries nothing: only its offset is taken away.
        scale = [1.0 / value if value > 1e-6 else 1.0 for value in deviation]
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))

    def forward(self, observations: Tensor) -> Tensor:
        """[n, dimension] raw to [n, dimension] normalised."""
        return torch.clamp((observations - self.mean) * self.scale, -CLIP_DEVIATIONS, CLIP_DEVIATIONS)


class DeterministicActor(nn.Module):
    """What `model.predict(observation, deterministic=True)` computes for a Box(-1, 1) action space."""

    def __init__(self, model: PPO) -> None:
        super().__init__()
        policy = model.policy
        self.normalize = policy.pi_features_extractor
        self.hidden = policy.mlp_extractor.policy_net
        self.action = policy.action_net

    def forward(self, observation: Tensor) -> Tensor:
        """[1, n] to [1, m]."""
        return torch.clamp(self.action(self.hidden(self.normalize(observation))), -1.0, 1.0)


def export(model: PPO, path: Path, observations: NDArray[numpy.float32]) -> float:
    """Writes the frozen module to `path` if, read back, it does as the model on every one of `observations` [k, n].

    Returns the largest difference of an action; one above `TOLERANCE` is an error, and nothing is written then.
    """
    space = model.action_space
    if not isinstance(space, gymnasium.spaces.Box) or numpy.any(space.low != -1.0) or numpy.any(space.high != 1.0):
        raise ExportError(f"action space {space}; this export knows Box(-1, 1)")
    actor = DeterministicActor(model).cpu().eval().requires_grad_(False)
    partial = path.with_name(f"{path.name}.partial")
    with torch.no_grad():
        traced = torch.jit.trace(actor, torch.from_numpy(observations[:1].copy()))
        torch.jit.save(torch.jit.freeze(traced), partial)
        _drop_source_paths(partial)
        difference = largest_difference(model, partial, observations)
    if not difference <= TOLERANCE:
        partial.unlink()
        raise ExportError(f"the exported module differs from model.predict by {difference}; allowed: {TOLERANCE}")
    partial.replace(path)
    return difference


def _drop_source_paths(path: Path) -> None:
    """Takes the debug records out, which name the Python files of the machine that traced the module.

    Loading what is left and saving it makes PyTorch write the records anew, now about the module's own code, and keeps
    the layout of the archive its own.
    """
    with zipfile.ZipFile(path) as archive:
        records = [(name, archive.read(name)) for name in archive.namelist() if not name.endswith(".debug_pkl")]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records:
            archive.writestr(name, content)
    torch.jit.save(torch.jit.load(path, map_location="cpu"), path)


def largest_difference(model: PPO, path: Path, observations: NDArray[numpy.float32]) -> float:
    """The largest difference between an action of the module at `path` and of the model, one observation at a time."""
    module = torch.jit.load(path, map_location="cpu")
    largest = 0.0
    with torch.no_grad():
        for row in observations:
            exported = module(torch.from_numpy(row[None].copy())).numpy()[0]
            expected, _ = model.predict(row, deterministic=True)
            difference = float(numpy.max(numpy.abs(exported - expected)))
            if not difference <= largest:
                largest = difference
    return largest
