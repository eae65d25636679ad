"""Builds the graph of a Stable-Baselines3 model: one function for each family of algorithms."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy
from gymnasium import spaces
from torch import nn

from .encoding import Encoder
from .errors import ExportError
from .graph import PolicyGraph
from .heads import Bernoulli, Categorical, DeterministicBox, EpsilonGreedy, Gaussian, Head
from .layout import ObservationLayout, layout_of
from .networks import ActorCritic, Direct, Network, RecurrentActorCritic, SoftActor, mean_of_quantiles
from .normalization import Normalization, frame_stack, unrepeated_bounds


@dataclass(frozen=True)
class Family:
    """Algorithms with the same kind of actor. `take_apart` returns network and head of (policy, model)."""

    take_apart: Callable[[Any, Any], tuple[Network, Head]]
    is_masked: bool = False


def actor_critic(policy: Any, model: Any) -> tuple[Network, Head]:
    """A2C, PPO, TRPO."""
    return ActorCritic(policy), actor_critic_head(policy, model.action_space)


def recurrent_actor_critic(policy: Any, model: Any) -> tuple[Network, Head]:
    """RecurrentPPO."""
    return RecurrentActorCritic(policy), actor_critic_head(policy, model.action_space)


def masked_actor_critic(policy: Any, model: Any) -> tuple[Network, Head]:
    """MaskablePPO. Its binary actions are pairs of logits too."""
    return ActorCritic(policy), Categorical(mask_counts(model.action_space))


def actor_critic_head(policy: Any, space: spaces.Space[Any]) -> Head:
    """Returns the head for the distribution of an actor-critic policy."""
    if isinstance(space, spaces.Box):
        return Gaussian(space, tanh=policy.squash_output, squashed=policy.squash_output)
    if isinstance(space, spaces.Discrete):
        return Categorical([int(space.n)])
    if isinstance(space, spaces.MultiDiscrete):
        return Categorical([int(count) for count in space.nvec])
    if isinstance(space, spaces.MultiBinary):
        return Bernoulli(binary_count(space))
    raise ExportError(f"action space {type(space).__name__} cannot be exported")


def binary_count(space: spaces.MultiBinary) -> int:
    """Returns the number of actions of a MultiBinary space.

    Stable-Baselines3 takes only spaces with one axis.
    """
    if len(space.shape) != 1:
        raise ExportError(f"action space {space} has more than one axis; flatten it")
    return int(space.shape[0])


def mask_counts(space: spaces.Space[Any]) -> tuple[int, ...]:
    """Returns the number of logits that MaskablePPO's mask covers, for each component."""
    if isinstance(space, spaces.Discrete):
        return (int(space.n),)
    if isinstance(space, spaces.MultiDiscrete):
        return tuple(int(count) for count in space.nvec)
    if isinstance(space, spaces.MultiBinary):
        return (2,) * binary_count(space)
    raise ExportError(f"MaskablePPO has no mask for {type(space).__name__} actions")


def deterministic_actor(policy: Any, model: Any) -> tuple[Network, Head]:
    """DDPG, TD3. Their networks end in tanh."""
    return Direct(policy.actor.features_extractor, policy.actor.mu), DeterministicBox(
        model.action_space, squashed=True
    )


def soft_actor(policy: Any, model: Any) -> tuple[Network, Head]:
    """SAC, TQC."""
    return SoftActor(policy.actor), Gaussian(model.action_space, tanh=True, squashed=True)


def random_search(policy: Any, model: Any) -> tuple[Network, Head]:
    """ARS. Its network ends in tanh if it squashes the action, and its `predict` is never random."""
    network = Direct(policy.features_extractor, policy.action_net)
    if isinstance(model.action_space, spaces.Box):
        return network, DeterministicBox(model.action_space, squashed=policy.squash_output)
    return network, Categorical([int(model.action_space.n)], stochastic=False)


def action_values(policy: Any, model: Any) -> tuple[Network, Head]:
    """DQN."""
    network = Direct(policy.q_net.features_extractor, policy.q_net.q_net)
    return network, EpsilonGreedy(int(model.action_space.n), float(model.exploration_rate))


def quantile_values(policy: Any, model: Any) -> tuple[Network, Head]:
    """QRDQN."""
    values = mean_of_quantiles(policy.quantile_net.quantile_net, policy.quantile_net.n_quantiles)
    network = Direct(policy.quantile_net.features_extractor, values)
    return network, EpsilonGreedy(int(model.action_space.n), float(model.exploration_rate))


FAMILIES = {
    "A2C": Family(actor_critic),
    "PPO": Family(actor_critic),
    "TRPO": Family(actor_critic),
    "MaskablePPO": Family(masked_actor_critic, is_masked=True),
    "RecurrentPPO": Family(recurrent_actor_critic),
    "DDPG": Family(deterministic_actor),
    "TD3": Family(deterministic_actor),
    "SAC": Family(soft_actor),
    "TQC": Family(soft_actor),
    "ARS": Family(random_search),
    "DQN": Family(action_values),
    "QRDQN": Family(quantile_values),
}
"""The families, by the class name of the algorithm."""


def algorithm_of(model: Any) -> str:
    """Returns the name of the model's algorithm. A subclass counts as the algorithm that it derives from."""
    for ancestor in type(model).__mro__:
        if ancestor.__name__ in FAMILIES and ancestor.__module__.startswith(
            ("stable_baselines3.", "sb3_contrib.")
        ):
            return ancestor.__name__
    raise ExportError(f"{type(model).__name__} cannot be exported; these can: {', '.join(sorted(FAMILIES))}")


def model_layout(model: Any, frames: int) -> ObservationLayout:
    """Returns the layout of the model's observation, with the action mask if the model takes one."""
    layout = layout_of(model.observation_space)
    stack = frame_stack(frames, layout)
    if stack is not None:
        layout = unrepeated_bounds(layout, stack)
    if FAMILIES[algorithm_of(model)].is_masked:
        layout = layout.with_mask(mask_counts(model.action_space))
    return layout


def graph_of(model: Any, layout: ObservationLayout, normalization: Normalization | None) -> PolicyGraph:
    """Returns the model's policy as one module on the CPU, in evaluation mode.

    The networks are copied, so the model does not change. The policy that holds them is not copied: after
    training it holds distributions with gradients, which cannot be copied.
    """
    network, head = FAMILIES[algorithm_of(model)].take_apart(model.policy, model)
    encoder = Encoder(layout, normalization, scale_images=bool(model.policy.normalize_images))
    graph = PolicyGraph(encoder, copy.deepcopy(network), head)
    return graph.to("cpu").eval().requires_grad_(False)


def refuse_convolutions(policy: nn.Module) -> None:
    """Fails if the policy has convolutions over images: CnnPolicy, or image keys of a MultiInputPolicy."""
    for name, module in policy.named_modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            raise ExportError(
                f"{name} is a {type(module).__name__}: policies over images (CnnPolicy, image keys of a "
                "MultiInputPolicy) cannot be exported"
            )


def action_bounds(
    space: spaces.Space[Any],
) -> tuple[str, numpy.ndarray[Any, Any], numpy.ndarray[Any, Any], list[int]]:
    """Returns an action space as (kind, low, high, nvec), with one bound per element of the action vector."""
    if isinstance(space, spaces.Box):
        return "box", space.low.reshape(-1).astype(float), space.high.reshape(-1).astype(float), []
    if isinstance(space, spaces.MultiBinary):
        return "multi_binary", numpy.zeros(binary_count(space)), numpy.ones(binary_count(space)), []
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        if numpy.any(numpy.asarray(space.start) != 0):
            raise ExportError(
                f"action space {space} does not start at 0, which Stable-Baselines3 does not support"
            )
        kind = "discrete" if isinstance(space, spaces.Discrete) else "multi_discrete"
        nvec = [int(space.n)] if isinstance(space, spaces.Discrete) else [int(count) for count in space.nvec]
        return kind, numpy.zeros(len(nvec)), numpy.array(nvec, dtype=float) - 1.0, nvec
    raise ExportError(
        f"action space {space} cannot be exported; Box, Discrete, MultiDiscrete, MultiBinary can"
    )
