"""The middle part of the graph: the networks of each Stable-Baselines3 policy, unchanged from the model.

A network takes encoded observations (and state) and returns the inputs of its head. Feature extractors are
the model's own modules, also custom ones. Constants are computed here once instead of at every tick.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0
"""The bounds that SAC and TQC put on the logarithm of the standard deviation."""


class Network(nn.Module):
    """Base of all networks: converts an encoded observation to the inputs of the head."""

    def forward(self, encoded: Any) -> tuple[Tensor, ...]:
        """Takes a tensor or a dict of tensors; returns (mean, deviation), or (logits,), or (values,)."""
        raise NotImplementedError


class Scale(nn.Module):
    """The standard deviation of a Gaussian policy, computed from the same latent vector as the mean."""

    def forward(self, latent: Tensor) -> Tensor:
        """Takes [n, latent]; returns [n, act] or [1, act]."""
        raise NotImplementedError


class ConstantScale(Scale):
    """exp(log_std), one parameter per action: A2C, PPO, TRPO."""

    deviation: Tensor

    def __init__(self, log_std: Tensor) -> None:
        super().__init__()
        self.register_buffer("deviation", log_std.detach().exp()[None].clone())

    def forward(self, latent: Tensor) -> Tensor:
        return self.deviation


class LearnedScale(Scale):
    """exp(clamp(layer(latent))): SAC, TQC."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, latent: Tensor) -> Tensor:
        return torch.exp(torch.clamp(self.layer(latent), LOG_STD_MIN, LOG_STD_MAX))


class StateDependentScale(Scale):
    """sqrt(latent^2 . deviation^2): gSDE with an exploration matrix drawn at every tick.

    The elements of the matrix are independent and Gaussian. So its product with the latent vector is Gaussian
    with this deviation.
    """

    variance: Tensor

    def __init__(self, deviation: Tensor) -> None:
        super().__init__()
        self.register_buffer("variance", deviation.detach().square().clone())

    def forward(self, latent: Tensor) -> Tensor:
        return torch.sqrt(torch.matmul(latent * latent, self.variance))


class ActorCritic(Network):
    """The actor of A2C, PPO, TRPO, MaskablePPO."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.extractor = policy.pi_features_extractor
        self.hidden = policy.mlp_extractor.policy_net
        self.output = policy.action_net
        self.scale = actor_critic_scale(policy)

    def forward(self, encoded: Any) -> tuple[Tensor, ...]:
        return self.outputs(self.hidden(self.extractor(encoded)))

    def outputs(self, latent: Tensor) -> tuple[Tensor, ...]:
        """Returns the inputs of the head, from the output of the last hidden layer."""
        output = self.output(latent)
        return (output,) if self.scale is None else (output, self.scale(latent))


class RecurrentActorCritic(ActorCritic):
    """The actor of RecurrentPPO, one step of its LSTM at a time."""

    def __init__(self, policy: Any) -> None:
        super().__init__(policy)
        self.lstm = policy.lstm_actor

    def step(self, encoded: Any, hidden: Tensor, cell: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """Returns the head's inputs and the next states. States are [layers, n, units]."""
        features = self.extractor(encoded)
        sequence, (next_hidden, next_cell) = self.lstm(features.unsqueeze(0), (hidden, cell))
        return self.outputs(self.hidden(sequence.squeeze(0))), next_hidden, next_cell


def actor_critic_scale(policy: Any) -> Scale | None:
    """Returns the scale of an actor-critic policy's Gaussian, or None if its actions are discrete."""
    from stable_baselines3.common.distributions import (
        DiagGaussianDistribution,
        StateDependentNoiseDistribution,
    )

    distribution = policy.action_dist
    if isinstance(distribution, StateDependentNoiseDistribution):
        return StateDependentScale(distribution.get_std(policy.log_std))
    if isinstance(distribution, DiagGaussianDistribution):
        return ConstantScale(policy.log_std)
    return None


class SoftActor(Network):
    """The actor of SAC and TQC."""

    def __init__(self, actor: Any) -> None:
        super().__init__()
        self.extractor = actor.features_extractor
        self.hidden = actor.latent_pi
        self.output = actor.mu
        self.scale: Scale = (
            StateDependentScale(actor.get_std()) if actor.use_sde else LearnedScale(actor.log_std)
        )

    def forward(self, encoded: Any) -> tuple[Tensor, ...]:
        latent = self.hidden(self.extractor(encoded))
        return self.output(latent), self.scale(latent)


class Direct(Network):
    """Feature extractor and network with one output: DDPG, TD3, ARS, DQN, QRDQN."""

    def __init__(self, extractor: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor
        self.network = network

    def forward(self, encoded: Any) -> tuple[Tensor, ...]:
        return (self.network(self.extractor(encoded)),)


def mean_of_quantiles(network: nn.Sequential, quantiles: int) -> nn.Sequential:
    """Returns a quantile network whose last layer gives the mean over the quantiles: QRDQN.

    The mean of linear functions is the linear function with the mean weights. So the layer shrinks by the
    number of quantiles, which is 200 by default. The mean is computed in float64.
    """
    last = network[-1]
    if not isinstance(last, nn.Linear):
        raise TypeError(f"a quantile network ends in a linear layer, not in {type(last).__name__}")
    actions = last.out_features // quantiles
    averaged = nn.Linear(last.in_features, actions, bias=last.bias is not None)
    with torch.no_grad():
        weight = last.weight.double().reshape(quantiles, actions, last.in_features).mean(0)
        averaged.weight.copy_(weight)
        if last.bias is not None:
            averaged.bias.copy_(last.bias.double().reshape(quantiles, actions).mean(0))
    return nn.Sequential(*list(network.children())[:-1], averaged)
