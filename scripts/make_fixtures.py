"""Writes the TorchScript modules that the tests feed to a policy backend: one that works, and one per way to fail.

Usage: python make_fixtures.py DIRECTORY [--slow-ms MILLISECONDS]

Every module takes an observation [1, 32] and is meant to answer with an action [1, 3], float32. Of most faults there
are two modules: one that fails at every call, and one, named `*_sometimes`, that fails only where observation[0] is
above 1 and otherwise answers like the good one. A loader probes with zeros, so only the second kind gets past it.

`mlp.observations.npy` and `mlp.actions.npy` hold reference pairs of `mlp.pt`, computed by PyTorch one row at a time.
"""

# Calling a module is typed as Any in PyTorch's own annotations.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Union

import numpy
import torch
from torch import Tensor, nn

OBSERVATION = 32
ACTION = 3
PAIRS = 256
SEED = 20240808


class Mlp(nn.Module):
    """The actor of Stable-Baselines3's default MlpPolicy: two hidden layers of 64 with tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(OBSERVATION, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, ACTION)
        )

    def forward(self, observation: Tensor) -> Tensor:
        return self.layers(observation)


class Faulty(nn.Module):
    """A good policy with a flaw that shows wherever observation[0] is above `threshold`."""

    def __init__(self, policy: Mlp, threshold: float) -> None:
        super().__init__()
        self.policy = policy
        self.threshold = threshold

    def is_due(self, observation: Tensor) -> bool:
        return bool(observation[0, 0] > self.threshold)


class Slow(Faulty):
    """Burns processor time before it answers. `rounds` is calibrated by `rounds_lasting`."""

    def __init__(self, policy: Mlp, threshold: float, rounds: int) -> None:
        super().__init__(policy, threshold)
        self.rounds = rounds
        self.burnt = nn.Parameter(torch.eye(64), requires_grad=False)

    def forward(self, observation: Tensor) -> Tensor:
        action = self.policy(observation)
        if self.is_due(observation):
            burnt: Tensor = self.burnt
            for _ in range(self.rounds):
                burnt = burnt @ self.burnt
            # Adds zero, in a way that no optimiser may see through, so that the loop is not removed.
            action = action + (burnt.sum() - burnt.sum())
        return action


class Hang(Faulty):
    """Never returns. The loop ends only where a count of non-negative numbers becomes negative."""

    def forward(self, observation: Tensor) -> Tensor:
        action = self.policy(observation)
        if self.is_due(observation):
            turns = 0
            while turns >= 0:
                turns = (turns + 1) % 1024
            action = action + float(turns)
        return action


class Throw(Faulty):
    def forward(self, observation: Tensor) -> Tensor:
        if self.is_due(observation):
            raise ValueError("the fixture raises as it was made to")
        return self.policy(observation)


class Nan(Faulty):
    def forward(self, observation: Tensor) -> Tensor:
        action = self.policy(observation)
        if self.is_due(observation):
            action = action * float("nan")
        return action


class WrongShape(Faulty):
    def forward(self, observation: Tensor) -> Tensor:
        action = self.policy(observation)
        if self.is_due(observation):
            action = torch.cat([action, action], 1)
        return action


class NotATensor(Faulty):
    def forward(self, observation: Tensor) -> Union[Tensor, tuple[Tensor, Tensor]]:
        action = self.policy(observation)
        if self.is_due(observation):
            return action, action
        return action


class Integer(nn.Module):
    """A discrete policy as exporters write it: the index of the best of three actions, int64, shape [1]."""

    def __init__(self, policy: Mlp) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observation: Tensor) -> Tensor:
        return torch.argmax(self.policy(observation), 1)


class Double(nn.Module):
    """Answers in float64 and without the batch dimension, as policies that unscale their action do."""

    def __init__(self, policy: Mlp) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observation: Tensor) -> Tensor:
        return self.policy(observation)[0].double()


class Recurrent(nn.Module):
    """Wants its state as a second argument, which a plain policy does not carry."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(OBSERVATION, 16)
        self.head = nn.Linear(16, ACTION)

    def forward(self, observation: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = self.cell(observation, state)
        return self.head(state), state


class Meddling(nn.Module):
    """Answers well, and then spoils the tensor it was given for a caller who would pass that one again."""

    def __init__(self, policy: Mlp, how: str) -> None:
        super().__init__()
        self.policy = policy
        self.how = how

    def forward(self, observation: Tensor) -> Tensor:
        action = self.policy(observation)
        if self.how == "reshapes":
            observation.resize_(observation.size(1))
        elif self.how == "grows":
            observation.resize_(1 << 20).fill_(1.0)
        elif self.how == "strides":
            observation.as_strided_([1, observation.size(1)], [0, 0])
        else:
            # PyTorch's annotations leave this overload out.
            observation.set_(torch.ones_like(observation))  # type: ignore[call-overload]
        return action


def rounds_lasting(milliseconds: float) -> int:
    """How many products of 64 x 64 matrices take about that long here, measured on one thread inside TorchScript."""
    timed = torch.jit.freeze(torch.jit.script(Slow(Mlp(), float("-inf"), 2000).eval()))
    zeros = torch.zeros(1, OBSERVATION)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        timed(zeros)
        best = min(best, time.perf_counter() - started)
    return max(1, round(2000 * milliseconds / 1e3 / best))


def save(module: nn.Module, path: Path) -> None:
    """Scripts, freezes and writes a module."""
    torch.jit.freeze(torch.jit.script(module.eval())).save(str(path))


def make(directory: Path, slow_ms: float) -> None:
    """Writes all fixtures into `directory`, which is made if need be."""
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    policy = Mlp().eval()
    save(policy, directory / "mlp.pt")

    observations = numpy.random.default_rng(SEED).normal(size=(PAIRS, OBSERVATION)).astype(numpy.float32)
    with torch.no_grad():
        actions = [policy(torch.from_numpy(row)[None])[0].numpy() for row in observations]
    numpy.save(directory / "mlp.observations.npy", observations)
    numpy.save(directory / "mlp.actions.npy", numpy.stack(actions))

    rounds = rounds_lasting(slow_ms)
    for suffix, threshold in (("", float("-inf")), ("_sometimes", 1.0)):
        save(Slow(policy, threshold, rounds), directory / f"slow{suffix}.pt")
        save(Hang(policy, threshold), directory / f"hang{suffix}.pt")
        save(Throw(policy, threshold), directory / f"throw{suffix}.pt")
        save(Nan(policy, threshold), directory / f"nan{suffix}.pt")
        save(WrongShape(policy, threshold), directory / f"wrong_shape{suffix}.pt")
        save(NotATensor(policy, threshold), directory / f"not_a_tensor{suffix}.pt")
    save(Integer(policy), directory / "integer.pt")
    save(Double(policy), directory / "double.pt")
    save(Recurrent(), directory / "recurrent.pt")
    for how in ("reshapes", "grows", "strides", "detaches"):
        save(Meddling(policy, how), directory / f"{how}.pt")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the TorchScript modules the tests use.")
    parser.add_argument("directory", type=Path, help="where to; made if need be")
    parser.add_argument("--slow-ms", type=float, default=5.0, help="what a call of the slow modules takes, about")
    arguments = parser.parse_args()
    make(arguments.directory, arguments.slow_ms)


if __name__ == "__main__":
    main()
