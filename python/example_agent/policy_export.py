"""Exports an actor of Stable-Baselines3 as one frozen TorchScript module.

The module takes a raw observation [1, n] and returns an action [1, m]. The observation statistics are part of
the network (`NormalizedObservation`). So `model.predict` and the module take the same raw observations, and
no other code has to normalise them.
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
"""Normalised observations are clipped to this many standard deviations in both directions."""
TOLERANCE = 1e-6


class ExportError(Exception):
    """The exported module differs from the model."""


class NormalizedObservation(BaseFeaturesExtractor):
    """Computes clip((observation - mean) / deviation). The constants are set once, from training data."""

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        observation_space: gymnasium.Space[NDArray[numpy.float32]],
        mean: list[float],
        deviation: list[float],
    ) -> None:
        super().__init__(observation_space, features_dim=len(mean))
        # A feature that was constant in training holds no information: only its offset is removed.
        scale = [1.0 / value if value > 1e-6 else 1.0 for value in deviation]
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))

    def forward(self, observations: Tensor) -> Tensor:
        """Normalises raw observations [n, dimension]; returns [n, dimension]."""
        return torch.clamp((observations - self.mean) * self.scale, -CLIP_DEVIATIONS, CLIP_DEVIATIONS)


class DeterministicActor(nn.Module):
    """Computes `model.predict(observation, deterministic=True)` for a Box(-1, 1) action space."""

    def __init__(self, model: PPO) -> None:
        super().__init__()
        policy = model.policy
        self.normalize = policy.pi_features_extractor
        self.hidden = policy.mlp_extractor.policy_net
        self.action = policy.action_net

    def forward(self, observation: Tensor) -> Tensor:
        """Takes an observation [1, n]; returns an action [1, m]."""
        return torch.clamp(self.action(self.hidden(self.normalize(observation))), -1.0, 1.0)


def export(model: PPO, path: Path, observations: NDArray[numpy.float32]) -> float:
    """Writes the frozen module to `path` if it agrees with the model on all `observations` [k, n].

    The module is read back before it is compared. Returns the largest difference of an action. Fails, and
    writes nothing, if it is above `TOLERANCE`.
    """
    space = model.action_space
    if (
        not isinstance(space, gymnasium.spaces.Box)
        or numpy.any(space.low != -1.0)
        or numpy.any(space.high != 1.0)
    ):
        raise ExportError(f"action space {space}; this export supports only Box(-1, 1)")
    actor = DeterministicActor(model).cpu().eval().requires_grad_(False)
    partial = path.with_name(f"{path.name}.partial")
    with torch.no_grad():
        traced = torch.jit.trace(actor, torch.from_numpy(observations[:1].copy()))
        torch.jit.save(torch.jit.freeze(traced), partial)
        _drop_source_paths(partial)
        difference = largest_difference(model, partial, observations)
    if not difference <= TOLERANCE:
        partial.unlink()
        raise ExportError(
            f"the exported module differs from model.predict by {difference}; allowed: {TOLERANCE}"
        )
    partial.replace(path)
    return difference


def _drop_source_paths(path: Path) -> None:
    """Removes the debug records, which name Python files of the machine that traced the module.

    The rest is loaded and saved once more. So PyTorch writes new records about the module's own code, and the
    archive has PyTorch's own layout.
    """
    with zipfile.ZipFile(path) as archive:
        records = [
            (name, archive.read(name)) for name in archive.namelist() if not name.endswith(".debug_pkl")
        ]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records:
            archive.writestr(name, content)
    torch.jit.save(torch.jit.load(path, map_location="cpu"), path)


def largest_difference(model: PPO, path: Path, observations: NDArray[numpy.float32]) -> float:
    """Returns the largest difference between actions of the module at `path` and of the model.

    Both get one observation at a time.
    """
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
