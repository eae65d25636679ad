"""The operations of random networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class Constant(nn.Module):
    """An operation with a constant tensor."""

    def __init__(self, shape: Sequence[int], apply: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.register_buffer("value", torch.randn(tuple(shape)))
        self.apply_to = apply

    def forward(self, x: Tensor) -> Tensor:
        return self.apply_to(x, self.get_buffer("value"))


class Apply(nn.Module):
    """An operation without parameters."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *values: Tensor) -> Tensor:
        return self.function(*values)


class Recurrent(nn.Module):
    """A recurrent layer over a window or for one step. Its state depends on its input."""

    def __init__(
        self, kind: str, inputs: int, units: int, layers: int, bias: bool, batch_first: bool
    ) -> None:
        super().__init__()
        self.kind = kind
        self.batch_first = batch_first
        self.register_buffer("h", torch.randn(layers, 1, units) * 0.5)
        self.register_buffer("c", torch.randn(layers, 1, units) * 0.5)
        layer: nn.Module
        if kind == "lstm":
            layer = nn.LSTM(inputs, units, layers, bias=bias, batch_first=batch_first)
        elif kind == "gru":
            layer = nn.GRU(inputs, units, layers, bias=bias, batch_first=batch_first)
        elif kind == "lstm_cell":
            layer = nn.LSTMCell(inputs, units, bias=bias)
        else:
            layer = nn.GRUCell(inputs, units, bias=bias)
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        # The state must not be constant. Freezing folds the product of a cell with a constant state, and then
        # adds to the result in place. Such a module gives another result at every call.
        h, c = (self.get_buffer(name) + x.mean() * 0.1 for name in "hc")
        if self.kind == "lstm_cell":
            h, c = self.layer(x, (h[0], c[0]))
            return torch.cat([h, c], dim=1)
        if self.kind == "gru_cell":
            return torch.as_tensor(self.layer(x, h[0]))
        sequence = x.reshape(1, -1, x.shape[-1])
        if not self.batch_first:
            sequence = sequence.transpose(0, 1)
        output, last = self.layer(sequence, (h, c) if self.kind == "lstm" else h)
        state = last[1] if self.kind == "lstm" else last
        return torch.cat([output.reshape(1, -1), state.reshape(1, -1)], dim=1)


class Network(nn.Module):
    """A sequence of operations, each on results of earlier ones."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = nn.ModuleList()
        self.operands: list[tuple[int, ...]] = []
        self.results: list[int] = []

    def forward(self, observation: Tensor) -> Tensor:
        values = [observation]
        for operation, operands in zip(self.operations, self.operands, strict=True):
            values.append(operation(*(values[index] for index in operands)))
        return torch.cat([values[index].reshape(1, -1) for index in self.results], dim=1)


UNARY: tuple[Callable[[Tensor], Tensor], ...] = (
    torch.tanh,
    torch.sigmoid,
    torch.relu,
    torch.abs,
    torch.neg,
    torch.floor,
    torch.ceil,
    torch.round,
    torch.sign,
    torch.square,
    torch.sin,
    torch.cos,
    torch.atan,
    torch.erf,
    torch.expm1,
    nn.functional.relu6,
    nn.functional.silu,
    nn.functional.mish,
    nn.functional.softplus,
    nn.functional.selu,
    nn.functional.celu,
    nn.functional.gelu,
    nn.functional.softsign,
    nn.functional.hardswish,
    nn.functional.hardsigmoid,
    nn.functional.logsigmoid,
    nn.functional.softshrink,
    nn.functional.hardshrink,
    nn.functional.tanhshrink,
    lambda x: nn.functional.gelu(x, approximate="tanh"),
    lambda x: nn.functional.elu(x, 0.7),
    lambda x: nn.functional.leaky_relu(x, 0.1),
    lambda x: nn.functional.hardtanh(x, -0.5, 0.8),
    lambda x: nn.functional.softplus(x, 2.0, 5.0),
    lambda x: torch.exp(torch.clamp(x, -5.0, 3.0)),
    lambda x: torch.log(torch.abs(x) + 0.1),
    lambda x: torch.log1p(torch.abs(x)),
    lambda x: torch.sqrt(torch.abs(x) + 0.01),
    lambda x: torch.rsqrt(torch.abs(x) + 0.1),
    lambda x: torch.reciprocal(torch.abs(x) + 0.5),
    lambda x: torch.clamp(x, min=-0.3),
    lambda x: torch.clamp(x, max=0.4),
    lambda x: torch.clamp(x, -1.0, 1.0),
    lambda x: x**2,
    lambda x: x**3,
    lambda x: (x.abs() + 0.1) ** 0.5,
    lambda x: (x.abs() + 0.1) ** -1.5,
    lambda x: x.mul(3.0).long().to(x.dtype),
    lambda x: (x > 0.1).to(x.dtype),
    lambda x: ((x > 0.1) & (x <= 0.9)).to(x.dtype) + torch.logical_not(x < 0).to(x.dtype),
    lambda x: torch.where(x > 0.2, x, torch.zeros_like(x)),
    lambda x: torch.where(x.abs() < 0.5, -x, 0.25),
    lambda x: x.masked_fill(x < -0.2, 0.5),
    lambda x: x.double().mul(1.1).to(x.dtype),
    lambda x: nn.functional.relu(x * 1.0, inplace=True),
    lambda x: (x + 0.5).sigmoid_().mul_(2.0),
    lambda x: x.fmod(0.7),
    lambda x: torch.remainder(x, 0.7),
    lambda x: 1.0 - x,
    lambda x: 2.0 / (x.abs() + 1.0),
    lambda x: torch.add(x, x.flip(-1), alpha=0.5),
)

BINARY: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    torch.add,
    torch.sub,
    torch.mul,
    torch.minimum,
    torch.maximum,
    lambda a, b: a / (b.abs() + 0.5),
    lambda a, b: torch.where(a > b, a, b * 0.5),
    lambda a, b: torch.atan2(a, b.abs() + 0.5),
    lambda a, b: a * 0.3 + b,
)
