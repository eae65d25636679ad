"""Tests every algorithm with every space that it supports: the daemon acts as `predict`.

Each model is trained for some hundred steps, with and without VecNormalize if a space has numbers to
normalise. By default each algorithm meets each space at least once. ESCAPEMENT_LONG=1 runs every combination.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize

from escapement_export import Options, export_zip
from exporting import (
    LONG,
    OBSERVATIONS,
    UNEVEN,
    Array,
    Bundle,
    RandomEnv,
    assert_daemon_acts,
    batch_of,
    box,
    lead_of,
    make,
    scores_of,
    train,
    vectors_of,
)

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS = 300

OBSERVATION_SPACES: dict[str, spaces.Space[Any]] = {
    "box": box(2, 3),
    "discrete": spaces.Discrete(5),
    "multi_discrete": spaces.MultiDiscrete([3, 2, 4]),
    "multi_binary": spaces.MultiBinary(4),
    "dict": spaces.Dict(
        z=box(2), index=spaces.Discrete(3), pair=spaces.MultiDiscrete([2, 3]), grid=box(2, 2)
    ),
}

ACTION_SPACES: dict[str, spaces.Space[Any]] = {
    "box": UNEVEN,
    "discrete": spaces.Discrete(4),
    "multi_discrete": spaces.MultiDiscrete([3, 2, 4]),
    "multi_binary": spaces.MultiBinary(3),
}

ACTIONS = {
    **dict.fromkeys(["A2C", "PPO", "TRPO", "RecurrentPPO"], list(ACTION_SPACES)),
    "MaskablePPO": ["discrete", "multi_discrete", "multi_binary"],
    **dict.fromkeys(["DDPG", "TD3", "SAC", "TQC"], ["box"]),
    **dict.fromkeys(["DQN", "QRDQN"], ["discrete"]),
    "ARS": ["box", "discrete"],
}
"""The action spaces that each algorithm supports, according to its documentation."""


NOT_BUILT = {("RecurrentPPO", "multi_discrete")}
"""The libraries cannot build a policy for these: PyTorch's LSTM rejects a NumPy integer as its width."""

NOT_TRAINED = {("RecurrentPPO", "multi_binary")}
"""Actions for which sb3-contrib cannot train a policy: its loss needs floats, and the buffer holds int8."""


@dataclass(frozen=True)
class Combination:
    """One combination of the matrix."""

    name: str
    seen: str
    done: str
    normalized: bool

    def __str__(self) -> str:
        return f"{self.name}-{self.seen}-{self.done}-{'normalized' if self.normalized else 'raw'}"


def combinations() -> list[Combination]:
    """Returns all combinations, or enough of them that each algorithm meets each of its spaces."""
    found = []
    for name, actions in ACTIONS.items():
        # ARS has no policy for Dict observations.
        none = NOT_BUILT | {("ARS", "dict")}
        seen = [kind for kind in OBSERVATION_SPACES if (name, kind) not in none]
        pairs = list(product(seen, actions))
        if not LONG:
            longest = max(len(seen), len(actions))
            pairs = [(seen[i % len(seen)], actions[i % len(actions)]) for i in range(longest)]
        for kind, done in pairs:
            both = (False, True) if kind in ("box", "dict") else (False,)
            found += [Combination(name, kind, done, normalized) for normalized in both]
    return found


def test_the_matrix_leaves_nothing_out() -> None:
    for name, actions in ACTIONS.items():
        of_it = [combination for combination in combinations() if combination.name == name]
        assert {combination.done for combination in of_it} == set(actions)
        assert len({combination.seen for combination in of_it}) >= 4
        assert {combination.normalized for combination in of_it} == {False, True}
    assert len(ACTIONS) == 12


def test_what_the_libraries_themselves_cannot() -> None:
    for name, seen in NOT_BUILT:
        with pytest.raises(TypeError, match="input_size should be of type int"):
            train(name, RandomEnv(OBSERVATION_SPACES[seen], UNEVEN), 0)
    for name, done in NOT_TRAINED:
        with pytest.raises(RuntimeError, match="can't be cast"):
            train(name, RandomEnv(box(4), ACTION_SPACES[done]), STEPS)


def space_of(combination: Combination) -> spaces.Space[Any]:
    """Returns the observation space, without the part of a Dict that a recurrent policy does not support."""
    space = OBSERVATION_SPACES[combination.seen]
    if isinstance(space, spaces.Dict) and (combination.name, "multi_discrete") in NOT_BUILT:
        return spaces.Dict({key: part for key, part in space.items() if key != "pair"})
    return space


def level(model: Any, scores: list[torch.Tensor]) -> None:
    """Subtracts the mean scores in the last layer.

    After little training one action may win for all observations.
    """
    means = torch.cat([part.mean(0) for part in scores])
    policy, name = model.policy, type(model).__name__
    last = {
        "DQN": lambda: policy.q_net.q_net[-1],
        "QRDQN": lambda: policy.quantile_net.quantile_net[-1],
        "ARS": lambda: policy.action_net[-1],
    }
    bias = last.get(name, lambda: policy.action_net)().bias
    if isinstance(model.action_space, spaces.MultiBinary) and name != "MaskablePPO":
        # Each action has one logit. The other one is zero.
        means = means[0::2]
    with torch.no_grad():
        bias -= means.repeat(len(bias) // len(means))


def masks_for(model: Any, count: int) -> Array:
    """Returns random masks that allow at least one action of each component."""
    space, random = model.action_space, numpy.random.default_rng(2)
    if isinstance(space, spaces.MultiDiscrete):
        widths = [int(width) for width in space.nvec]
    else:
        widths = [int(space.n)] if isinstance(space, spaces.Discrete) else [2] * int(space.n)
    masks = random.random((count, sum(widths))) < 0.6
    start = 0
    for width in widths:
        masks[numpy.arange(count), start + random.integers(width, size=count)] = True
        start += width
    return masks


def first_scores(model: Any, prepared: Any, count: int) -> list[torch.Tensor]:
    """Returns the scores of observations that each begin an episode."""
    if type(model).__name__ != "RecurrentPPO":
        return scores_of(model, prepared)
    state = numpy.zeros((1, count, model.policy.lstm_actor.hidden_size), numpy.float32)
    return scores_of(model, prepared, state=(state, state), starts=numpy.ones(count))


def answers_of(
    model: Any, prepared: Any, count: int, masks: Array | None, starts: Array
) -> tuple[Array, Array | None]:
    """Returns deterministic actions [n, act] and leads [n]. A recurrent model keeps its state."""
    if type(model).__name__ != "RecurrentPPO":
        extra = {} if masks is None else {"action_masks": masks}
        actions, _ = model.predict(prepared, deterministic=True, **extra)
        return actions.reshape(count, -1).astype(numpy.float32), lead_of(model, prepared, masks)
    units = model.policy.lstm_actor.hidden_size
    rows, leads = [], []
    state = (numpy.zeros((1, 1, units), numpy.float32), numpy.zeros((1, 1, units), numpy.float32))
    for i in range(count):
        one = (
            {key: values[i : i + 1] for key, values in prepared.items()}
            if isinstance(prepared, dict)
            else prepared[i : i + 1]
        )
        leads.append(lead_of(model, one, state=state, starts=starts[i : i + 1]))
        action, state = model.predict(one, state=state, episode_start=starts[i : i + 1], deterministic=True)
        rows.append(action.reshape(-1))
    known = [lead for lead in leads if lead is not None]
    return numpy.array(rows, dtype=numpy.float32), numpy.concatenate(known) if known else None


@pytest.mark.parametrize("combination", combinations(), ids=str)
def test_the_daemon_acts_as_predict(tmp_path: Path, combination: Combination) -> None:
    space = space_of(combination)
    env = make(lambda: RandomEnv(space, ACTION_SPACES[combination.done]), False)
    statistics = None
    if combination.normalized:
        keys = None
        if isinstance(space, spaces.Dict):
            keys = [key for key, part in space.spaces.items() if isinstance(part, spaces.Box)]
        env = VecNormalize(env, norm_obs_keys=keys)
        statistics = tmp_path / "statistics.pkl"
    steps = 0 if (combination.name, combination.done) in NOT_TRAINED else STEPS
    model = train(combination.name, env, steps)
    space.seed(9)
    samples = [space.sample() for _ in range(OBSERVATIONS)]
    observations, vectors = batch_of(space, samples), vectors_of(space, samples)
    prepared = env.normalize_obs(observations) if isinstance(env, VecNormalize) else observations
    if combination.done != "box":
        level(model, first_scores(model, prepared, len(samples)))
    model.save(tmp_path / "model.zip")
    if isinstance(env, VecNormalize) and statistics is not None:
        env.save(str(statistics))
    exported = export_zip(
        tmp_path / "model.zip",
        combination.name,
        tmp_path / "a.bundle",
        vec_normalize=statistics,
        options=Options(checks=256),
    )
    bundle = Bundle(exported.path)
    assert bundle.manifest["action"]["space"] == combination.done

    masks = masks_for(model, len(samples)) if combination.name == "MaskablePPO" else None
    starts = numpy.random.default_rng(4).random(len(samples)) < 0.01
    starts[0] = True
    expected, lead = answers_of(model, prepared, len(samples), masks, starts)
    if masks is not None:
        vectors = numpy.concatenate([vectors, masks], axis=1)
    # A policy that gives the same action for all observations would prove nothing.
    assert len(numpy.unique(expected, axis=0)) > 1
    assert_daemon_acts(
        bundle, vectors, expected, lead, starts if combination.name == "RecurrentPPO" else None
    )
