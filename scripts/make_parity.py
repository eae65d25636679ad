"""Exports policies and random networks with PyTorch, with what PyTorch computes for them.

Usage: make_parity.py DIRECTORY [--networks 200] [--rows 500] [--seed 1]

Writes for every case NAME.pt, NAME.observations.npy, NAME.actions.npy and NAME.trusted.npy; tests/native_parity.rs says
what each holds. Two families:

- every policy class that Stable-Baselines3 and sb3-contrib export with MlpPolicy (and RecurrentPPO's MlpLstmPolicy),
  trained for a few steps, frozen and unfrozen, each with layers of 1, 3, 7, 17, 33, 65 and 130 units;
- `bf16-...`: some of them with weights rounded to bfloat16, so that holding them that way changes nothing: these are
  run both ways;
- `scripted-...`: modules that call others, compiled instead of traced, frozen and not;
- random straight-line networks from the operators that the native backend knows.
"""

from __future__ import annotations

import argparse
import random
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Array = npt.NDArray[np.float32]

# A third of what the comparison allows: where PyTorch's two precisions differ by more, its answer proves nothing.
TRUSTED = 3e-6
SIZES = (1, 3, 7, 17, 33, 65, 130)
# Observation and hidden layers of a policy; together they have all sizes.
WIDTHS = ((17, (1, 3)), (65, (7, 17, 33)), (3, (130, 65)))


def relative(actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The largest difference of each row, absolute or relative, whichever is less."""
    difference = np.abs(actual.astype(np.float64) - expected) / np.maximum(1.0, np.abs(expected))
    largest: npt.NDArray[np.float64] = np.nan_to_num(difference.max(axis=1), nan=np.inf)
    return largest


def run(module: nn.Module | torch.jit.ScriptModule, observations: Tensor, states: Sequence[Tensor]) -> npt.NDArray[Any]:
    """The module's actions, row by row, states carried."""
    actions = []
    with torch.no_grad():
        for observation in observations:
            result = module(observation[None], *states)
            if states:
                result, *states = result
            actions.append(result.flatten().numpy())
    return np.stack(actions)


def export(module: nn.Module, observations: Tensor, states: Sequence[Tensor], form: str) -> torch.jit.ScriptModule:
    """The module as TorchScript: `script` or `trace`, `frozen` or not."""
    if "script" in form:
        scripted = torch.jit.script(module)
    else:
        scripted = torch.jit.trace(module, (observations[:1], *states), check_trace=False)
    return torch.jit.freeze(scripted.eval()) if "frozen" in form else scripted


def write(
    directory: Path,
    name: str,
    module: nn.Module,
    observations: Array,
    states: Sequence[Tensor] = (),
    forms: Sequence[str] = ("frozen trace",),
    least_trusted: float = 0.9,
) -> bool:
    """Writes one case for each form; `False` where PyTorch disagrees with itself on too many rows."""
    module.eval()
    rows = torch.from_numpy(observations)
    actions = run(module, rows, states).astype(np.float32)
    double = run(module.double(), rows.double(), [state.double() for state in states])
    module.float()
    trusted = relative(actions, double) <= TRUSTED
    if not np.isfinite(actions).all() or trusted.mean() < least_trusted:
        return False
    exported = [export(module, rows, states, form) for form in forms]
    # `torch.jit.freeze` is not always right: it folds a batch norm into the linear layer before it even where that
    # layer's own result is used as well. What the file says is then not what the module does.
    if any((relative(run(script, rows[:4], states), actions[:4]) > TRUSTED).any() for script in exported):
        return False
    for form, script in zip(forms, exported, strict=True):
        path = directory / f"{name}-{form.replace(' ', '-')}"
        script.save(f"{path}.pt")
        np.save(f"{path}.observations.npy", observations)
        np.save(f"{path}.actions.npy", actions)
        np.save(f"{path}.trusted.npy", trusted.astype(np.float32))
    return True


# --- Stable-Baselines3 -------------------------------------------------------------------------------------------


class Actor(nn.Module):
    """The deterministic action of a policy, by the same modules that its `predict` calls.

    The features extractors are called directly: `extract_features` casts to single precision, which the comparison
    with double precision must avoid.
    """

    def __init__(self, policy: Any, algorithm: str, choices: int) -> None:
        super().__init__()
        self.policy = policy
        self.algorithm = algorithm
        # Zero for continuous actions.
        self.choices = choices

    def forward(self, observation: Tensor) -> Tensor:
        policy = self.policy
        if self.algorithm in ("A2C", "PPO", "TRPO"):
            features = policy.pi_features_extractor(observation)
            scores = policy.action_net(policy.mlp_extractor.forward_actor(features))
        elif self.algorithm == "ARS":
            scores = policy.action_net(policy.features_extractor(observation))
        elif self.algorithm == "DQN":
            scores = policy.q_net.q_net(policy.q_net.features_extractor(observation))
        elif self.algorithm == "QRDQN":
            quantiles = policy.quantile_net.quantile_net(policy.quantile_net.features_extractor(observation))
            scores = quantiles.view(-1, policy.quantile_net.n_quantiles, self.choices).mean(dim=1)
        elif self.algorithm in ("SAC", "TQC"):
            actor = policy.actor
            scores = torch.tanh(actor.mu(actor.latent_pi(actor.features_extractor(observation))))
        else:
            scores = policy.actor.mu(policy.actor.features_extractor(observation))
        if not self.choices:
            return torch.clamp(scores, -1.0, 1.0) if self.algorithm in ("A2C", "PPO", "TRPO") else scores
        # The choice and the scores it was made from, so that both are compared.
        return torch.cat([torch.argmax(scores, dim=1, keepdim=True).to(scores.dtype), scores], dim=1)


class RecurrentActor(nn.Module):
    """One step of RecurrentPPO's actor: (observation, h, c) to (action, h, c)."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observation: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        policy = self.policy
        features = policy.pi_features_extractor(observation)
        output, (h, c) = policy.lstm_actor(features.unsqueeze(0), (h, c))
        return policy.action_net(policy.mlp_extractor.forward_actor(output.squeeze(0))), h, c


def environment(observation: int, action: int | None, choices: int | None) -> Any:
    """A small environment of any width: the observation drifts, the reward is its first element."""
    import gymnasium

    class Drift(gymnasium.Env[Any, Any]):
        observation_space = gymnasium.spaces.Box(-10.0, 10.0, (observation,), np.float32)
        action_space: Any = (
            gymnasium.spaces.Discrete(choices)
            if choices is not None
            else gymnasium.spaces.Box(-1.0, 1.0, (action or 1,), np.float32)
        )

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            super().reset(seed=seed)
            self.ticks = 0
            self.state = self.np_random.normal(size=observation).astype(np.float32)
            return self.state, {}

        def step(self, action: Any) -> Any:
            self.ticks += 1
            drift = 0.1 * self.np_random.normal(size=observation)
            self.state = np.clip(self.state + drift + 0.01 * float(np.sum(action)), -10, 10).astype(np.float32)
            return self.state, float(self.state[0]), False, self.ticks >= 50, {}

    return Drift()


def train(algorithm: str, env: Any, layers: Sequence[int], activation: type[nn.Module]) -> Any:
    """A model of `algorithm`, trained for a few steps."""
    import sb3_contrib
    import stable_baselines3

    factory = getattr(stable_baselines3, algorithm, None) or getattr(sb3_contrib, algorithm)
    arguments: dict[str, Any] = {"policy_kwargs": {"net_arch": list(layers), "activation_fn": activation}}
    if algorithm in ("PPO", "TRPO", "RecurrentPPO"):
        arguments |= {"n_steps": 32, "batch_size": 16}
    elif algorithm == "ARS":
        arguments |= {"n_delta": 2, "n_eval_episodes": 1}
    elif algorithm != "A2C":
        arguments |= {"learning_starts": 16, "batch_size": 8, "buffer_size": 1000}
    if algorithm == "RecurrentPPO":
        arguments["policy_kwargs"] |= {"lstm_hidden_size": 33}
    policy = "MlpLstmPolicy" if algorithm == "RecurrentPPO" else "MlpPolicy"
    model = factory(policy, env, seed=1, device="cpu", **arguments)
    model.learn(64)
    return model


@torch.no_grad()
def round_weights(module: nn.Module) -> None:
    """Rounds what the native backend holds in bfloat16 where it is asked to: matrices, not biases."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.LSTM):
            for name, parameter in part.named_parameters():
                if "weight" in name:
                    parameter.copy_(parameter.to(torch.bfloat16))


def trained_policies(directory: Path, rows: int) -> int:
    """Every policy class, each with widths that are no multiple of a vector."""
    import gymnasium

    generator = np.random.default_rng(1)
    forms = ("frozen trace", "trace")
    written = 0

    def case(
        name: str,
        algorithm: str,
        env: Any,
        layers: Sequence[int],
        activation: type[nn.Module],
        rounded: bool = False,
    ) -> None:
        nonlocal written
        model = train(algorithm, env, layers, activation)
        width = env.observation_space.shape[0]
        observations = generator.normal(size=(rows, width), scale=1.5).astype(np.float32)
        choices = int(getattr(env.action_space, "n", 0))
        states: list[Tensor] = []
        actor: nn.Module
        if algorithm == "RecurrentPPO":
            actor = RecurrentActor(model.policy)
            states = [torch.zeros(1, 1, 33), torch.zeros(1, 1, 33)]
        else:
            actor = Actor(model.policy, algorithm, choices)
        if not write(directory, name, actor, observations, states, forms, least_trusted=0.99):
            raise SystemExit(f"{name}: PyTorch's two precisions disagree")
        written += len(forms)
        if rounded:
            round_weights(actor)
            if not write(directory, f"bf16-{name}", actor, observations, states, forms[:1], least_trusted=0.99):
                raise SystemExit(f"bf16-{name}: PyTorch's two precisions disagree")
            written += 1

    continuous = ("A2C", "PPO", "TRPO", "ARS", "DDPG", "TD3", "SAC", "TQC", "RecurrentPPO")
    for algorithm in continuous:
        case(f"{algorithm}-pendulum", algorithm, gymnasium.make("Pendulum-v1"), (64, 64), nn.Tanh)
        for width, layers in WIDTHS:
            env = environment(width, 3, None)
            case(f"{algorithm}-odd-{width}", algorithm, env, layers, nn.ReLU, rounded=width == 65)
    for algorithm in ("A2C", "PPO", "TRPO", "ARS", "DQN", "QRDQN"):
        case(f"{algorithm}-cartpole", algorithm, gymnasium.make("CartPole-v1"), (64, 64), nn.ReLU)
    for algorithm in ("DQN", "QRDQN"):
        for width, layers in WIDTHS:
            case(f"{algorithm}-odd-{width}", algorithm, environment(width, None, 7), layers, nn.Tanh)
    for size in SIZES:
        case(f"PPO-{size}", "PPO", environment(size, size, None), (size, size), nn.Tanh)
    return written


# --- Random networks ---------------------------------------------------------------------------------------------


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
    """A window or a single step through a recurrent layer with a state that depends on its input."""

    def __init__(self, kind: str, inputs: int, units: int, layers: int, bias: bool, batch_first: bool) -> None:
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
        # Not constant: freezing folds a cell's product with a constant state and then adds to the result in place, so
        # that the module gives another answer at every call.
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
    """A straight line of operations, each on results of earlier ones."""

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


class Generator:
    """Makes random networks. Every candidate operation is tried on real rows before it is kept."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def network(self) -> tuple[Network, Array]:
        """A network of three to fourteen operations, and observations for it."""
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
                    operation(*(samples[index][row].clone() for index in operands)) for row in range(len(samples[0]))
                ]
            if all(usable(result) for result in results):
                network.operations.append(operation)
                network.operands.append(operands)
                samples.append(results)
        last = len(samples) - 1
        network.results = sorted({last, *choose.sample(range(last + 1), min(2, last + 1))})
        return network, observations.numpy()

    def operation(self, x: Tensor) -> nn.Module | None:
        """An operation that fits a value shaped like `x`; `None` asks for one of two values."""
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
            return Constant((outputs,), lambda a, b: torch.addmm(b, a, weights.to(a.dtype), beta=0.5, alpha=1.5))
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
        """Layers that see more than one value at a time."""
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
            cell = Recurrent(choose.choice(("lstm_cell", "gru_cell")), x.shape[-1], units, 1, bias, batch_first)
            return nn.Sequential(Apply(lambda x: x.reshape(1, -1)), cell)
        kind = choose.choice(("lstm", "gru"))
        return Recurrent(kind, x.shape[-1], units, choose.randint(1, 2), bias, batch_first)


def broadcast(a: Tensor, b: Tensor) -> bool:
    """Whether the two broadcast together."""
    try:
        torch.broadcast_shapes(a.shape, b.shape)
    except RuntimeError:
        return False
    return True


def usable(result: Tensor) -> bool:
    """Whether a result is worth going on with."""
    return 0 < result.numel() <= 3000 and result.dim() <= 4 and bool((result.abs() < 200).all())


# --- Compiled modules ---------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """Blocks in a loop, a branch on an attribute, one on the mode, and a choice between elements."""

    def __init__(self, width: int) -> None:
        super().__init__()
        block = (nn.LayerNorm(width), nn.Linear(width, 33), nn.GELU(approximate="tanh"), nn.Linear(33, width))
        self.blocks = nn.ModuleList([nn.Sequential(*block), nn.Sequential(nn.Linear(width, width), nn.Mish())])
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
    """A window of observations through recurrent layers."""

    def __init__(self, kind: str, inputs: int, layers: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.layer = (nn.LSTM if kind == "lstm" else nn.GRU)(inputs, 17, layers, batch_first=True)
        self.head = nn.Linear(17, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x.view(1, -1, self.inputs))[0]
        return torch.as_tensor(self.head(result[:, -1]))


class LstmStep(nn.Module):
    """A single step of two layers, with their state as arguments and results."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.layer = nn.LSTM(inputs, 7, 2)
        self.head = nn.Linear(7, 2)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        result, (h, c) = self.layer(x.unsqueeze(0), (h, c))
        return self.head(result[0]), h, c


class Cells(nn.Module):
    """Both cells, one after the other, each with its state."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.first = nn.LSTMCell(inputs, 17)
        self.second = nn.GRUCell(17, 3)

    def forward(self, x: Tensor, h: Tensor, c: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h, c = self.first(x, (h, c))
        g = self.second(h, g)
        return torch.cat([h, g], dim=1), h, c, g


class Tables(nn.Module):
    """Indices into a table beside a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 3)
        self.filters = nn.Sequential(
            nn.Conv1d(2, 4, 3, padding="same"), nn.BatchNorm1d(4), nn.ReLU6(), nn.Conv1d(4, 3, 2), nn.Flatten()
        )
        self.head = nn.Sequential(nn.Linear(15, 9), nn.LogSoftmax(dim=-1))

    def forward(self, x: Tensor) -> Tensor:
        index = x[:, :2].mul(2.0).long().clamp(0, 4)
        filtered = self.filters(x[:, 2:].reshape(1, 2, -1))
        return torch.as_tensor(self.head(torch.cat([self.table(index).flatten(1), filtered], dim=1)))


def compiled_modules(directory: Path, rows: int) -> int:
    """Modules that are compiled as well as traced, frozen and not: their calls of other modules are inlined."""
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
        (f"chain-{index}", nn.Sequential(nn.Linear(17, 33), nn.Dropout(), activation, nn.Linear(33, 3)), 17, [])
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


def random_networks(directory: Path, count: int, seed: int) -> int:
    """`count` random networks on which PyTorch agrees with itself."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--networks", type=int, default=200, help="random networks (the release bar is 2000)")
    parser.add_argument("--rows", type=int, default=500, help="observations per policy (the release bar is 10000)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    written = random_networks(arguments.directory, arguments.networks, arguments.seed)
    print(f"{written} random networks", flush=True)
    print(f"{compiled_modules(arguments.directory, arguments.rows)} compiled modules", flush=True)
    print(f"{trained_policies(arguments.directory, arguments.rows)} trained policies")


if __name__ == "__main__":
    main()
