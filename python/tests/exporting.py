"""Shared by the exporter's tests: environments for every space, quick training, calls of a bundle's policy.

`ESCAPEMENT_LONG=1` raises the number of observations to the full count, 10,000. See docs/BUNDLE.md.
"""

from __future__ import annotations

import copy
import os
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy
import pytest
import sb3_contrib
import stable_baselines3
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

LONG = os.environ.get("ESCAPEMENT_LONG") == "1"
OBSERVATIONS = 10_000 if LONG else 1_000
DRAWS = 100_000
TOLERANCE = 1e-5

Array = NDArray[Any]

torch.set_num_threads(1)


class RandomEnv(gymnasium.Env[Any, Any]):
    """Random observations of any space. The reward prefers large actions. An episode has 20 steps."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space = observation_space
        self.action_space = action_space
        self.observation_space.seed(1)
        self.steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.observation_space.sample(), float(numpy.sum(action)), False, self.steps >= 20, {}

    def action_masks(self) -> Array:
        """Allows every action. MaskablePPO reads this in training."""
        if isinstance(self.action_space, spaces.Discrete):
            return numpy.ones(int(self.action_space.n), dtype=bool)
        if isinstance(self.action_space, spaces.MultiDiscrete):
            return numpy.ones(int(self.action_space.nvec.sum()), dtype=bool)
        return numpy.ones(2 * int(numpy.prod(self.action_space.shape or (1,))), dtype=bool)


def box(*shape: int, low: float = -2.0, high: float = 3.0) -> spaces.Box:
    """Returns a float32 Box with the same bounds for all elements."""
    return spaces.Box(numpy.float32(low), numpy.float32(high), shape)


UNEVEN = spaces.Box(numpy.array([-1, 0, -3], numpy.float32), numpy.array([1, 5, 3], numpy.float32))

SMALL = {"net_arch": [32, 32]}
ON_POLICY: dict[str, Any] = {"n_steps": 64, "batch_size": 32, "n_epochs": 2}
OFF_POLICY: dict[str, Any] = {
    "learning_starts": 100,
    "buffer_size": 1000,
    "batch_size": 32,
    "train_freq": 8,
    "policy_kwargs": SMALL,
}

SETTINGS: dict[str, dict[str, Any]] = {
    "A2C": {},
    "PPO": ON_POLICY,
    "TRPO": {"n_steps": 64, "batch_size": 32},
    "MaskablePPO": ON_POLICY,
    "RecurrentPPO": {**ON_POLICY, "policy_kwargs": {"lstm_hidden_size": 24}},
    "ARS": {"n_delta": 2},
    "DDPG": OFF_POLICY,
    "TD3": OFF_POLICY,
    "SAC": OFF_POLICY,
    "TQC": OFF_POLICY,
    "DQN": OFF_POLICY,
    "QRDQN": OFF_POLICY,
}
"""Settings that train small models quickly."""


def algorithm(name: str) -> Any:
    """Returns the class of an algorithm."""
    return getattr(stable_baselines3, name, None) or getattr(sb3_contrib, name)


def train(name: str, env: gymnasium.Env[Any, Any] | VecEnv, steps: int = 300, **settings: Any) -> Any:
    """Returns a model trained for a few steps, or untrained for zero steps."""
    policy = "MlpLstmPolicy" if name == "RecurrentPPO" else "MlpPolicy"
    if isinstance(env.observation_space, spaces.Dict):
        policy = policy.replace("Mlp", "MultiInput")
    # The settings are copied, because DDPG and TD3 write into the policy's arguments.
    keywords = copy.deepcopy({**SETTINGS[name], **settings})
    model = algorithm(name)(policy, env, device="cpu", seed=7, **keywords)
    if steps:
        has_masks = hasattr(env, "action_masks") or not isinstance(env, VecEnv)
        model.learn(steps, **({"use_masking": has_masks} if name == "MaskablePPO" else {}))
    return model


def make(environment: str | Callable[[], gymnasium.Env[Any, Any]], normalized: bool) -> VecEnv:
    """Returns one environment as a VecEnv, with VecNormalize if `normalized`."""
    factory = (lambda: gymnasium.make(environment)) if isinstance(environment, str) else environment
    env: VecEnv = DummyVecEnv([factory])
    env.seed(3)
    return VecNormalize(env) if normalized else env


class Bundle:
    """A written bundle: its manifest, and its policy loaded by PyTorch."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = tomllib.loads((path / "bundle.toml").read_text(encoding="utf-8"))
        self.policy = torch.jit.load(path / "policy.pt", map_location="cpu")
        noise = self.manifest["signature"].get("noise")
        self.noise_dimension = 0 if noise is None else int(noise["dimension"])
        self.noise_kind = None if noise is None else str(noise["kind"])

    def act(self, vectors: Array, noise: Array | None = None) -> Array:
        """Returns the actions [n, act] of a policy without state for rows [n, obs], in one call."""
        inputs = [torch.from_numpy(vectors.astype(numpy.float32))]
        if self.noise_dimension:
            drawn = numpy.zeros((len(vectors), self.noise_dimension)) if noise is None else noise
            inputs.append(torch.from_numpy(drawn.astype(numpy.float32)))
        with torch.no_grad():
            actions: Array = self.policy(*inputs).numpy()
        return actions

    def zero_states(self) -> list[torch.Tensor]:
        """Returns the states at the beginning of an episode."""
        return [torch.zeros(state["shape"]) for state in self.manifest["signature"]["state"]]

    def step(self, vector: Array, states: list[torch.Tensor]) -> tuple[Array, list[torch.Tensor]]:
        """Returns action and next states of one deterministic step."""
        inputs = [torch.from_numpy(vector.astype(numpy.float32))[None]]
        if self.noise_dimension:
            inputs.append(torch.zeros(1, self.noise_dimension))
        with torch.no_grad():
            action, *next_states = self.policy(*inputs, *states)
        return action.numpy()[0], next_states

    def draw_noise(self, count: int, seed: int = 11) -> Array:
        """Returns standard draws [count, k] of the kind that the manifest names."""
        random = numpy.random.default_rng(seed)
        size = (count, self.noise_dimension)
        return random.standard_normal(size) if self.noise_kind == "gaussian" else random.gumbel(size=size)


def assert_same_actions(bundle: Bundle, got: Array, expected: Array, lead: Array | None = None) -> None:
    """Asserts that Box actions differ by at most 1e-5 of the range, and that discrete ones are equal.

    Discrete actions may differ in rows in which the best score leads by at most 1e-5.
    """
    action = bundle.manifest["action"]
    assert len(expected) > 0
    assert got.shape == expected.shape
    assert numpy.all(numpy.isfinite(got))
    if action["space"] == "box":
        extent = numpy.broadcast_to(numpy.subtract(action["high"], action["low"]), expected.shape)
        assert numpy.max(numpy.abs(got - expected) / extent) <= TOLERANCE
        return
    different = numpy.any(got != expected, axis=1)
    if lead is not None:
        different &= lead > TOLERANCE
    assert not numpy.any(different), f"{different.sum()} of {len(different)} rows differ"


def scores_of(
    model: Any, observations: Any, masks: Array | None = None, state: Any = None, starts: Array | None = None
) -> list[torch.Tensor]:
    """Returns the model's own scores [n, count] of each component of a discrete action.

    The observations must be normalised, as `predict` takes them.
    """
    policy = model.policy
    tensors, _ = policy.obs_to_tensor(observations)
    name = type(model).__name__
    with torch.no_grad():
        if name == "DQN":
            return [policy.q_net(tensors)]
        if name == "QRDQN":
            return [policy.quantile_net(tensors).mean(dim=1)]
        if name == "ARS":
            return [policy.action_net(policy.extract_features(tensors, policy.features_extractor))]
        extra: list[Any] = [] if masks is None else [masks]
        if state is not None:
            extra = [tuple(map(torch.from_numpy, state)), torch.from_numpy(starts).float()]
        chosen = policy.get_distribution(tensors, *extra)
        # With a state, the result also holds the next state.
        return logits_of(chosen[0] if state is not None else chosen)


def lead_of(model: Any, *inputs: Any, **carried: Any) -> Array | None:
    """Returns [n]: the best of `scores_of` minus the second best, or None if actions are Box."""
    if isinstance(model.action_space, spaces.Box):
        return None
    leads = []
    for part in scores_of(model, *inputs, **carried):
        best = torch.topk(part, min(2, part.shape[1]), dim=1).values
        leads.append(best[:, 0] - best[:, -1] if part.shape[1] > 1 else torch.full((len(best),), torch.inf))
    found: Array = torch.stack(leads, 1).amin(1).numpy()
    return found


def logits_of(distribution: Any) -> list[torch.Tensor]:
    """Returns the logits [n, count] of each component of a distribution of Stable-Baselines3."""
    inner = getattr(distribution, "distributions", None) or distribution.distribution
    if isinstance(inner, list):
        return [part.logits for part in inner]
    if isinstance(inner, torch.distributions.Bernoulli):
        return [torch.stack([column, torch.zeros_like(column)], 1) for column in inner.logits.unbind(1)]
    return [inner.logits]


def batch_of(space: spaces.Space[Any], samples: list[Any]) -> Any:
    """Returns samples of a space as the batch that `predict` takes."""
    if isinstance(space, spaces.Dict):
        return {key: numpy.stack([sample[key] for sample in samples]) for key in space.spaces}
    return numpy.stack(samples)


def vectors_of(space: spaces.Space[Any], samples: list[Any]) -> Array:
    """Returns samples of a space as a feed publishes them: keys in sorted order, flattened.

    This does not use the exporter's code, which is under test.
    """
    parts = (
        [[sample[key] for sample in samples] for key in sorted(space)]
        if isinstance(space, spaces.Dict)
        else [samples]
    )
    return numpy.concatenate(
        [numpy.array(part, numpy.float32).reshape(len(samples), -1) for part in parts], axis=1
    )


BACKENDS = ("native", "torch")


def daemon() -> Path:
    """Returns the built `escapement`, from ESCAPEMENT_BINARY or the target directory.

    Skips if there is none.
    """
    root = Path(__file__).resolve().parents[2]
    built = [root / "target" / profile / "escapement" for profile in ("release", "debug")]
    named = os.environ.get("ESCAPEMENT_BINARY")
    candidates = (
        [Path(named)]
        if named
        else sorted(filter(Path.is_file, built), key=lambda path: -path.stat().st_mtime)
    )
    if not candidates:
        pytest.skip("no escapement was built (cargo build), and ESCAPEMENT_BINARY names none")
    return candidates[0]


def predict(
    bundle: Bundle, vectors: Array, backend: str, *, seed: int | None = None, starts: Array | None = None
) -> Array:
    """Returns the results of `escapement predict` for observations [n, obs] in order, with state.

    With a seed, actions have noise. An episode begins where `starts` [n] is true.
    """
    binary = daemon()
    observations, actions = bundle.path.parent / "observations.npy", bundle.path.parent / f"{backend}.npy"
    numpy.save(observations, numpy.ascontiguousarray(vectors, numpy.float32))
    options = ["--observations", str(observations), "--out", str(actions), "--backend", backend]
    if seed is not None:
        options += ["--stochastic", "--seed", str(seed)]
    if starts is not None:
        episodes = bundle.path.parent / "starts.npy"
        numpy.save(episodes, numpy.asarray(starts, numpy.float32).reshape(-1, 1))
        options += ["--episode-starts", str(episodes)]
    command = [str(binary), "predict", str(bundle.path), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # A program that ESCAPEMENT_BINARY names must have the torch backend. One found in the target directory
    # need not.
    unbuilt = backend == "torch" and done.returncode != 0 and "--features torch" in done.stderr
    if unbuilt and "ESCAPEMENT_BINARY" not in os.environ:
        pytest.skip("escapement was built without the torch backend")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found: Array = numpy.load(actions)
    return found


def assert_daemon_acts(
    bundle: Bundle, vectors: Array, expected: Array, lead: Array | None = None, starts: Array | None = None
) -> None:
    """Asserts that the daemon's actions are as expected on both backends."""
    for backend in BACKENDS:
        assert_same_actions(bundle, predict(bundle, vectors, backend, starts=starts), expected, lead)
