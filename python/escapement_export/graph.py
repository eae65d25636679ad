"""The whole policy as one module (encoder, network and head), and its frozen TorchScript.

`forward` has the signature of `docs/BUNDLE.md`: it takes (observation, noise?, state...) and returns the
action, or (action, state...).
"""

from __future__ import annotations

import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from .encoding import Encoder
from .heads import Head
from .networks import Network, RecurrentActorCritic


@dataclass(frozen=True)
class State:
    """Name and shape of one state tensor. The shape includes the batch dimension of one."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Noise:
    """The noise argument: one independent draw per element and tick."""

    dimension: int
    kind: str


@dataclass(frozen=True)
class Signature:
    """The arguments of `forward` after the observation."""

    noise: Noise | None = None
    state: tuple[State, ...] = ()


class PolicyGraph(nn.Module):
    """The policy as a function of raw observations [n, obs].

    It also takes noise [n, k] if the head uses noise, and states [layers, n, units] if the network is
    recurrent.
    """

    def __init__(self, encoder: Encoder, network: Network, head: Head) -> None:
        super().__init__()
        self.encoder = encoder
        self.network = network
        self.head = head

    @property
    def signature(self) -> Signature:
        """The arguments of `forward` after the observation."""
        noise = Noise(self.head.noise_dimension, self.head.noise_kind) if self.head.noise_dimension else None
        if not isinstance(self.network, RecurrentActorCritic):
            return Signature(noise)
        shape = (int(self.network.lstm.num_layers), 1, int(self.network.lstm.hidden_size))
        return Signature(noise, (State("h", shape), State("c", shape)))

    def evaluate(
        self, observation: Tensor, noise: Tensor | None, state: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, ...], Tensor | None, tuple[Tensor, ...]]:
        """Returns the inputs of the head, the action mask, and the next states."""
        encoded = self.encoder(observation)
        mask = self.encoder.mask(observation) if self.encoder.layout.mask is not None else None
        if isinstance(self.network, RecurrentActorCritic):
            outputs, hidden, cell = self.network.step(encoded, *state)
            return outputs, mask, (hidden, cell)
        return self.network(encoded), mask, ()

    def margin(self, observation: Tensor, noise: Tensor | None, state: tuple[Tensor, ...]) -> Tensor:
        """Returns [n]: how far each decision is from another action; infinite for Box actions."""
        outputs, mask, _ = self.evaluate(observation, noise, state)
        return self.head.margin(outputs, mask, noise)

    def forward(self, observation: Tensor, *rest: Tensor) -> Any:
        """Computes what the bundle's `forward` computes, for any number of rows."""
        noise = rest[0] if self.head.noise_dimension else None
        state = rest[1:] if self.head.noise_dimension else rest
        outputs, mask, next_state = self.evaluate(observation, noise, tuple(state))
        action = self.head(outputs, mask, noise)
        return (action, *next_state) if next_state else action


class Plain(nn.Module):
    """forward(observation)"""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, observation: Tensor) -> Any:
        return self.graph(observation)


class WithNoise(Plain):
    """forward(observation, noise)"""

    def forward(self, observation: Tensor, noise: Tensor) -> Any:  # type: ignore[override]
        return self.graph(observation, noise)


class WithState(Plain):
    """forward(observation, state...). The tracer names the states itself."""

    def forward(self, observation: Tensor, *state: Tensor) -> Any:
        return self.graph(observation, *state)


class WithNoiseAndState(Plain):
    """forward(observation, noise, state...)"""

    def forward(self, observation: Tensor, noise: Tensor, *state: Tensor) -> Any:  # type: ignore[override]
        return self.graph(observation, noise, *state)


def example_inputs(signature: Signature, observation: Tensor) -> tuple[Tensor, ...]:
    """Returns the arguments of one call: an observation [1, obs], zero noise, zero states."""
    noise = () if signature.noise is None else (torch.zeros(1, signature.noise.dimension),)
    return (observation, *noise, *(torch.zeros(state.shape) for state in signature.state))


def freeze(graph: nn.Module, signature: Signature, observation: Tensor) -> torch.jit.ScriptModule:
    """Traces a module on one observation [1, obs] and freezes it.

    It does not run `optimize_for_inference`: PyTorch does not support saving a module after that.
    """
    wrapper = {
        (False, False): Plain,
        (True, False): WithNoise,
        (False, True): WithState,
        (True, True): WithNoiseAndState,
    }[signature.noise is not None, bool(signature.state)]
    module = wrapper(graph).eval().requires_grad_(False)
    with torch.no_grad(), warnings.catch_warnings():
        # TorchScript is deprecated without a date, and the tracer warns wherever Python reads a tensor's
        # size. Both warnings are expected here.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", TracerWarning)
        # The trace is not compared with itself: the caller compares the frozen module with the model, on
        # thousands of observations.
        inputs = example_inputs(signature, observation)
        traced: torch.jit.ScriptModule = torch.jit.trace(module, inputs, check_trace=False)
        frozen: torch.jit.ScriptModule = torch.jit.freeze(traced)
    return frozen


def save(module: torch.jit.ScriptModule, path: Path) -> None:
    """Writes a module without the debug records, which name Python files of the machine that traced it.

    The rest is loaded and saved once more, so that the archive has PyTorch's own layout.
    """
    torch.jit.save(module, path)
    with zipfile.ZipFile(path) as archive:
        records = [
            (name, archive.read(name)) for name in archive.namelist() if not name.endswith(".debug_pkl")
        ]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records:
            archive.writestr(name, content)
    torch.jit.save(torch.jit.load(path, map_location="cpu"), path)
