"""Modules that call other modules, compiled instead of traced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from parity_cases.writing import write


class Residual(nn.Module):
    """Blocks in a loop, a branch on an attribute, a branch on the mode, and a choice between elements."""

    def __init__(self, width: int) -> None:
        super().__init__()
        block = (nn.LayerNorm(width), nn.Linear(width, 33), nn.GELU(approximate="tanh"), nn.Linear(33, width))
        self.blocks = nn.ModuleList(
            [nn.Sequential(*block), nn.Sequential(nn.Linear(width, width), nn.Mish())]
        )
        self.scale = nn.Parameter(torch.randn(width))
        self.bounded = True

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x) * self.scale
        if self.training:
            x = x * 2.0
        if self.bounded:
            x = torch.where(x > 0.5, x, x.clamp(min=-1.0))
        return x


class Window(nn.Module):
    """Recurrent layers over a window of observations."""

    def __init__(self, kind: str, inputs: int, layers: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.layer = (nn.LSTM if kind == "lstm" else nn.GRU)(inputs, 17, layers, batch_first=True)
        self.head = nn.Linear(17, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x.view(1, -1, self.inputs))[0]
        return torch.as_tensor(self.head(result[:, -1]))


class LstmStep(nn.Module):
    """One step of two LSTM layers, with their state as arguments and results."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.layer = nn.LSTM(inputs, 7, 2)
        self.head = nn.Linear(7, 2)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        result, (h, c) = self.layer(x.unsqueeze(0), (h, c))
        return self.head(result[0]), h, c


class Cells(nn.Module):
    """An LSTM cell, then a GRU cell, each with its state."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.first = nn.LSTMCell(inputs, 17)
        self.second = nn.GRUCell(17, 3)

    def forward(self, x: Tensor, h: Tensor, c: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h, c = self.first(x, (h, c))
        g = self.second(h, g)
        return torch.cat([h, g], dim=1), h, c, g


class Tables(nn.Module):
    """An embedding table and a convolution side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 3)
        self.filters = nn.Sequential(
            nn.Conv1d(2, 4, 3, padding="same"),
            nn.BatchNorm1d(4),
            nn.ReLU6(),
            nn.Conv1d(4, 3, 2),
            nn.Flatten(),
        )
        self.head = nn.Sequential(nn.Linear(15, 9), nn.LogSoftmax(dim=-1))

    def forward(self, x: Tensor) -> Tensor:
        index = x[:, :2].mul(2.0).long().clamp(0, 4)
        filtered = self.filters(x[:, 2:].reshape(1, 2, -1))
        return torch.as_tensor(self.head(torch.cat([self.table(index).flatten(1), filtered], dim=1)))


def compiled_modules(directory: Path, rows: int) -> int:
    """Writes modules compiled and traced, frozen and unfrozen. Their calls of other modules are inlined."""
    torch.manual_seed(7)
    forms = ("script", "frozen script", "trace", "frozen trace")

    def zeros(*shapes: tuple[int, ...]) -> list[Tensor]:
        return [torch.zeros(shape) for shape in shapes]

    activations = (
        nn.Tanh(),
        nn.ELU(),
        nn.LeakyReLU(),
        nn.Softplus(),
        nn.SiLU(),
        nn.PReLU(),
        nn.Hardtanh(),
        nn.Softmax(-1),
    )
    cases: list[tuple[str, nn.Module, int, list[Tensor]]] = [
        (
            f"chain-{index}",
            nn.Sequential(nn.Linear(17, 33), nn.Dropout(), activation, nn.Linear(33, 3)),
            17,
            [],
        )
        for index, activation in enumerate(activations)
    ]
    cases += [
        ("residual", Residual(17), 17, []),
        ("lstm-window", Window("lstm", 4, 2), 20, []),
        ("gru-window", Window("gru", 3, 2), 21, []),
        ("lstm-step", LstmStep(5), 5, zeros((2, 1, 7), (2, 1, 7))),
        ("cells", Cells(8), 8, zeros((1, 17), (1, 17), (1, 3))),
        ("tables", Tables(), 10, []),
    ]
    generator = np.random.default_rng(3)
    for name, module, width, states in cases:
        observations = generator.normal(size=(min(rows, 500), width)).astype(np.float32)
        if not write(directory, f"scripted-{name}", module, observations, states, forms):
            raise SystemExit(f"scripted-{name}: PyTorch's two precisions disagree")
    return len(cases) * len(forms)
