"""Random straight-line networks of operators that the native backend supports."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from parity_cases.operations import BINARY, UNARY, Apply, Constant, Network, Recurrent
from parity_cases.writing import SIZES, Array, write


class Generator:
    """Makes random networks. It tries every operation on real rows before it keeps it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def network(self) -> tuple[Network, Array]:
        """Returns a network of 3 to 14 operations, and observations for it."""
        choose = self.random
        width = choose.choice((*SIZES, 2, 4, 8, 12, 16, 20, 24, 31, 32, 64))
        torch.manual_seed(choose.getrandbits(31))
        observations = torch.randn(16, width)
        network = Network()
        samples = [[row[None] for row in observations[:3]]]
        wanted = choose.randint(3, 14)
        for _ in range(20 * wanted):
            if len(network.operations) >= wanted:
                break
            first = choose.randint(max(0, len(samples) - 4), len(samples) - 1)
            operands: tuple[int, ...] = (first,)
            operation = self.operation(samples[operands[0]][0])
            if operation is None:
                partner = choose.randrange(len(samples))
                if not broadcast(samples[operands[0]][0], samples[partner][0]):
                    continue
                operands = (operands[0], partner)
                operation = Apply(choose.choice(BINARY))
            operation.eval()
            with torch.no_grad():
                results = [
                    operation(*(samples[index][row].clone() for index in operands))
                    for row in range(len(samples[0]))
                ]
            if all(usable(result) for result in results):
                network.operations.append(operation)
                network.operands.append(operands)
                samples.append(results)
        last = len(samples) - 1
        network.results = sorted({last, *choose.sample(range(last + 1), min(2, last + 1))})
        return network, observations.numpy()

    def operation(self, x: Tensor) -> nn.Module | None:
        """Returns an operation on a value with the shape of `x`, or None for an operation on two values."""
        choose = self.random
        family = choose.choice(
            ("layer", "layer", "unary", "unary", "binary", "constant", "move", "move", "reduce", "wide")
        )
        if family == "binary":
            return None
        if family == "unary":
            return Apply(choose.choice(UNARY))
        if family == "layer" and x.dim() > 0:
            return self.layer(x)
        if family == "constant" and x.dim() > 0:
            shape = x.shape[choose.randrange(x.dim()) :]
            function = choose.choice(BINARY)
            return Constant(shape, (lambda a, b: function(b, a)) if choose.random() < 0.3 else function)
        if family == "reduce" and x.dim() > 0:
            return self.reduction(x)
        if family == "wide" and x.dim() > 0:
            return self.wide(x)
        return self.movement(x)

    def layer(self, x: Tensor) -> nn.Module:
        choose = self.random
        inputs, outputs = x.shape[-1], choose.choice((*SIZES, 2, 8, 16, 32))
        kind = choose.randrange(4)
        if kind == 0:
            weights = torch.randn(inputs, outputs) / inputs**0.5
            return Constant((1,), lambda a, b: a @ weights.to(a.dtype) + b)
        if kind == 1 and x.dim() == 2:
            weights = torch.randn(inputs, outputs) / inputs**0.5
            return Constant(
                (outputs,), lambda a, b: torch.addmm(b, a, weights.to(a.dtype), beta=0.5, alpha=1.5)
            )
        linear = nn.Linear(inputs, outputs, bias=choose.random() < 0.8)
        if kind == 2:
            return linear
        activation = choose.choice(
            (nn.Tanh, nn.ReLU, nn.SiLU, nn.GELU, nn.ELU, nn.Sigmoid, nn.Mish, nn.Hardtanh, nn.PReLU)
        )
        return nn.Sequential(linear, activation())

    def movement(self, x: Tensor) -> nn.Module:
        choose = self.random
        rank = x.dim()
        functions: list[Callable[[Tensor], Tensor]] = [
            lambda x: x.reshape(1, -1),
            lambda x: x.unsqueeze(-1),
            lambda x: x.squeeze(),
            lambda x: torch.stack([x, x * 2.0], dim=-1),
            lambda x: torch.stack([x, x + 1.0], dim=0),
        ]
        if rank > 0:
            axis = choose.randrange(rank)
            size = x.shape[axis]
            start, index = choose.randrange(size), choose.randrange(size)
            picked = [choose.randrange(size) for _ in range(choose.randint(1, 5))]
            parts, step = choose.randint(1, 4), choose.randint(1, 3)
            functions += [
                lambda x: x.narrow(axis, start, size - start),
                lambda x: x.select(axis, index),
                lambda x: x.transpose(0, axis),
                lambda x: x.flatten(axis),
                lambda x: torch.cat([x, x * 0.5], dim=axis),
                lambda x: torch.index_select(x, axis, torch.tensor(picked)),
                lambda x: torch.cat([x.flip(axis), x], dim=axis),
                lambda x: torch.cat(list(x.chunk(parts, dim=axis))[::-1], dim=axis),
                lambda x: x.chunk(parts, dim=axis)[-1],
                lambda x: torch.split(x, parts, dim=axis)[0],
                lambda x: x[..., ::step],
                lambda x: x[..., torch.tensor([0, x.shape[-1] - 1])],
                lambda x: x.permute(*reversed(range(rank))),
                lambda x: x.unsqueeze(axis).expand(*x.shape[:axis], 3, *x.shape[axis:]),
                lambda x: x.repeat(*([1] * (rank - 1)), 2),
                lambda x: torch.stack(list(x.unbind(axis)), dim=-1),
            ]
        return Apply(choose.choice(functions))

    def reduction(self, x: Tensor) -> nn.Module:
        choose = self.random
        axis = choose.randrange(x.dim())
        keep = choose.random() < 0.6
        functions: list[Callable[[Tensor], Tensor]] = [
            lambda x: x.mean(dim=axis, keepdim=keep),
            lambda x: x.sum(dim=axis, keepdim=keep),
            lambda x: x.max(dim=axis, keepdim=keep)[0],
            lambda x: x.min(dim=axis, keepdim=keep).values,
            lambda x: x.max(dim=axis, keepdim=keep)[1].to(x.dtype),
            lambda x: x.argmax(dim=axis, keepdim=keep).to(x.dtype),
            lambda x: x.argmin(dim=axis).to(x.dtype),
            lambda x: x.norm(dim=axis, keepdim=keep),
            lambda x: x.norm(p=1, dim=axis),
            lambda x: torch.linalg.vector_norm(x, ord=3.0, dim=axis),
            lambda x: x.amax(dim=axis, keepdim=keep),
            lambda x: torch.logsumexp(x, dim=axis, keepdim=keep),
            lambda x: x.mean().reshape(1, 1),
            lambda x: (x.sum() / 8.0).reshape(1),
            lambda x: x.max().reshape(1, 1),
            lambda x: x.var(dim=axis, unbiased=False),
            lambda x: (x > 0).any(dim=axis).to(x.dtype),
            lambda x: (x > 0).sum(dim=axis).to(x.dtype),
            lambda x: x.cumsum(dim=axis),
        ]
        return Apply(choose.choice(functions))

    def wide(self, x: Tensor) -> nn.Module:
        """Returns a layer whose results depend on more than one element each."""
        choose = self.random
        axis = choose.randrange(x.dim())
        width = x.shape[-1]
        kind = choose.randrange(10)
        if kind == 8 and width % 2 == 0:
            return nn.GLU()
        if kind == 9:
            return nn.RMSNorm(width, elementwise_affine=choose.random() < 0.7)
        if kind == 0:
            return nn.Softmax(dim=axis)
        if kind == 1:
            return nn.LogSoftmax(dim=axis)
        if kind == 2:
            return nn.LayerNorm(width, elementwise_affine=choose.random() < 0.7)
        if kind == 3 and x.dim() in (2, 3) and x.shape[0] == 1:
            norm = nn.BatchNorm1d(x.shape[1], affine=choose.random() < 0.7)
            for statistics in (norm.running_mean, norm.running_var):
                if statistics is not None:
                    statistics.copy_(torch.rand_like(statistics) + 0.5)
            return norm
        if kind == 4:
            table = nn.Embedding(9, choose.choice((1, 3, 8, 17)))
            return nn.Sequential(Apply(lambda x: (x.abs() * 3.0).long().clamp(0, 8)), table)
        if kind in (5, 6):
            return self.recurrent(x)
        if x.dim() == 3 and x.shape[0] == 1:
            groups = choose.choice((1, 1, x.shape[1]))
            kernel, dilation, padding = choose.randint(1, 4), choose.randint(1, 2), choose.randint(0, 2)
            same = choose.random() < 0.2
            if same or x.shape[2] + 2 * padding >= dilation * (kernel - 1) + 1:
                return nn.Conv1d(
                    x.shape[1],
                    groups * choose.choice((1, 3, 8)),
                    kernel,
                    1 if same else choose.randint(1, 2),
                    "same" if same else padding,
                    dilation,
                    groups,
                    choose.random() < 0.7,
                )
        return Apply(lambda x: x.reshape(1, -1, x.shape[-1]))

    def recurrent(self, x: Tensor) -> nn.Module:
        choose = self.random
        units = choose.choice((1, 3, 7, 16, 17, 33))
        bias, batch_first = choose.random() < 0.8, choose.random() < 0.5
        if x.numel() == x.shape[-1] and choose.random() < 0.5:
            cell = Recurrent(
                choose.choice(("lstm_cell", "gru_cell")), x.shape[-1], units, 1, bias, batch_first
            )
            return nn.Sequential(Apply(lambda x: x.reshape(1, -1)), cell)
        kind = choose.choice(("lstm", "gru"))
        return Recurrent(kind, x.shape[-1], units, choose.randint(1, 2), bias, batch_first)


def broadcast(a: Tensor, b: Tensor) -> bool:
    """Whether the shapes of two tensors broadcast."""
    try:
        torch.broadcast_shapes(a.shape, b.shape)
    except RuntimeError:
        return False
    return True


def usable(result: Tensor) -> bool:
    """Whether a result is small enough to use: in size, rank and values."""
    return 0 < result.numel() <= 3000 and result.dim() <= 4 and bool((result.abs() < 200).all())


def random_networks(directory: Path, count: int, seed: int) -> int:
    """Writes `count` random networks on which PyTorch's two precisions agree."""
    written = attempts = 0
    forms = ("frozen trace", "frozen trace", "trace")
    while written < count:
        attempts += 1
        if attempts > 4 * count + 100:
            raise SystemExit(f"only {written} of {attempts} random networks are well conditioned")
        network, observations = Generator(seed * 1_000_003 + attempts).network()
        form = (forms[written % len(forms)],)
        written += write(directory, f"random-{attempts:05}", network, observations, (), form)
    return written
