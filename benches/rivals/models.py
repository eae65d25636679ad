"""Writes the networks of the comparison: TorchScript, ONNX, raw weights, one input and PyTorch's output.

Usage: models.py DIRECTORY

For each network NAME it writes:

- NAME.pt, frozen TorchScript, and NAME.onnx;
- NAME.policy.pt, the same network with the signature of a policy, for Escapement;
- NAME.weights, every parameter in the order of named_parameters, as little-endian f32;
- NAME.input and NAME.output, as f32. Every engine must reproduce NAME.output before it is timed;
- NAME.settled, for a network of one step: the hidden state after SETTLING steps over the same input, from zeros.
  Engines that can start only from zeros are checked with it.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

# After so few steps the state still depends on each of them. src/bin/policy/rtneural.rs takes the same number.
SETTLING = 5


class Step(nn.Module):
    """One step of an LSTM, as a recurrent policy computes it for each observation."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden)

    def forward(self, observation: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        _, (h, c) = self.lstm(observation, (h, c))
        return h, c


class StepPolicy(Step):
    """The step with the signature of a policy: it takes one row and returns the action before the state."""

    def forward(self, observation: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        h, c = super().forward(observation.unsqueeze(0), h, c)
        return h, h, c


class Window(nn.Module):
    """An LSTM over a window of observations, from a state of zeros. Returns the last hidden state."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden)
        self.register_buffer("zero", torch.zeros(1, 1, hidden))
        self.zero: Tensor

    def forward(self, observations: Tensor) -> Tensor:
        _, (h, _) = self.lstm(observations, (self.zero, self.zero))
        return h


class WindowPolicy(Window):
    """The window with the signature of a policy: it takes all observations in one row."""

    def forward(self, observations: Tensor) -> Tensor:
        return super().forward(observations.view(-1, 1, self.lstm.input_size))


def mlp(sizes: list[int], activation: type[nn.Module]) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


def step_input(inputs: int, hidden: int) -> tuple[Tensor, ...]:
    # The state is not zero, because zeros could make an engine faster.
    return torch.randn(1, 1, inputs), torch.rand(1, 1, hidden) - 0.5, torch.rand(1, 1, hidden) - 0.5


def policy_of(network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Returns the network with the signature of a policy and the same weights, and inputs to trace it."""
    if not isinstance(network, Step | Window):
        return network, inputs
    kind = StepPolicy if isinstance(network, Step) else WindowPolicy
    policy = kind(network.lstm.input_size, network.lstm.hidden_size)
    policy.load_state_dict(network.state_dict())
    return policy.eval(), (inputs[0].reshape(1, -1), *inputs[1:])


def settle(step: Step, observation: Tensor, state: Tensor) -> Tensor:
    """Returns the hidden state after SETTLING steps from zeros."""
    h, c = torch.zeros_like(state), torch.zeros_like(state)
    for _ in range(SETTLING):
        h, c = step(observation, h, c)
    return h


def write_floats(path: Path, tensors: list[Tensor]) -> None:
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).to(torch.float32)
    path.write_bytes(flat.numpy().astype("<f4").tobytes())


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(7)
    networks: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
        "mlp-32-64-64-3-tanh": (mlp([32, 64, 64, 3], nn.Tanh), (torch.randn(1, 32),)),
        "mlp-128-256-256-3-relu": (mlp([128, 256, 256, 3], nn.ReLU), (torch.randn(1, 128),)),
        "lstm-32-64-step": (Step(32, 64), step_input(32, 64)),
        "lstm-32-256-step": (Step(32, 256), step_input(32, 256)),
        "lstm-32-64-window-20": (Window(32, 64), (torch.randn(20, 1, 32),)),
    }
    for name, (network, inputs) in networks.items():
        network.eval()
        with torch.no_grad():
            outputs = network(*inputs)
            traced = torch.jit.freeze(torch.jit.trace(network, inputs))
            policy, policy_inputs = policy_of(network, inputs)
            traced_policy = torch.jit.freeze(torch.jit.trace(policy, policy_inputs))
            if isinstance(network, Step):
                write_floats(directory / f"{name}.settled", [settle(network, *inputs[:2])])
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        traced.save(str(directory / f"{name}.pt"))
        traced_policy.save(str(directory / f"{name}.policy.pt"))
        torch.onnx.export(
            network,
            inputs,
            str(directory / f"{name}.onnx"),
            input_names=[f"input{i}" for i in range(len(inputs))],
            output_names=[f"output{i}" for i in range(len(outputs))],
            opset_version=17,
            dynamo=False,
        )
        write_floats(directory / f"{name}.weights", [parameter for _, parameter in network.named_parameters()])
        write_floats(directory / f"{name}.input", list(inputs))
        write_floats(directory / f"{name}.output", list(outputs))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: models.py DIRECTORY")
    # TorchScript and its ONNX exporter are deprecated upstream, and warn at every call.
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
