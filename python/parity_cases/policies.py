"""Every policy class of Stable-Baselines3 and sb3-contrib with MlpPolicy, trained for a few steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from parity_cases.writing import SIZES, write

# (observation, hidden layers) of policies. Together they have all of SIZES.
WIDTHS = ((17, (1, 3)), (65, (7, 17, 33)), (3, (130, 65)))


class Actor(nn.Module):
    """Computes the deterministic action of a policy with the modules that its `predict` calls.

    The feature extractors are called directly: `extract_features` casts to single precision, and the
    comparison with double precision must avoid that.
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
        # Returns the choice and its scores, so that both are compared.
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
    """Returns a small environment of any width. The observation drifts; the reward is its first element."""
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
            self.state = np.clip(self.state + drift + 0.01 * float(np.sum(action)), -10, 10).astype(
                np.float32
            )
            return self.state, float(self.state[0]), False, self.ticks >= 50, {}

    return Drift()


def train(algorithm: str, env: Any, layers: Sequence[int], activation: type[nn.Module]) -> Any:
    """Trains a model of `algorithm` for a few steps."""
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
    """Rounds the parameters that the native backend can store as bfloat16: matrices, not biases."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.LSTM):
            for name, parameter in part.named_parameters():
                if "weight" in name:
                    parameter.copy_(parameter.to(torch.bfloat16))


def trained_policies(directory: Path, rows: int) -> int:
    """Writes every policy class, each with widths that are not a multiple of a SIMD vector."""
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
            if not write(
                directory, f"bf16-{name}", actor, observations, states, forms[:1], least_trusted=0.99
            ):
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
