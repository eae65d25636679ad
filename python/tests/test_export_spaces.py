"""Tests every observation and action space, gSDE, custom networks, and VecFrameStack in both orders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from escapement_export import ExportError, Options, export_model
from escapement_export.layout import flatten, layout_of
from exporting import (
    OBSERVATIONS,
    UNEVEN,
    Array,
    Bundle,
    RandomEnv,
    assert_daemon_acts,
    assert_same_actions,
    batch_of,
    box,
    lead_of,
    train,
    vectors_of,
)

pytestmark = pytest.mark.filterwarnings("ignore")

QUICK = Options(checks=256)

MIXED = spaces.Dict(
    z=box(2),
    index=spaces.Discrete(3),
    pair=spaces.MultiDiscrete([2, 3]),
    flags=spaces.MultiBinary(3),
    grid=box(2, 2),
)

OBSERVATION_SPACES: dict[str, spaces.Space[Any]] = {
    "box_of_rank_2": box(2, 3),
    "bytes": spaces.Box(0, 255, (5,), numpy.uint8),
    "image_under_mlp": spaces.Box(0, 255, (3, 6, 6), numpy.uint8),
    "discrete": spaces.Discrete(5),
    "multi_discrete": spaces.MultiDiscrete([3, 2, 4]),
    "multi_binary": spaces.MultiBinary(4),
    "multi_binary_of_rank_2": spaces.MultiBinary([2, 3]),
    "dict": MIXED,
}

ACTION_SPACES: dict[str, spaces.Space[Any]] = {
    "uneven_box": UNEVEN,
    "box_of_rank_2": box(2, 2),
    "discrete": spaces.Discrete(4),
    "multi_discrete": spaces.MultiDiscrete([3, 2, 4]),
    "even_multi_discrete": spaces.MultiDiscrete([3, 3]),
    "multi_binary": spaces.MultiBinary(3),
}


def assert_acts_as_predict(model: Any, path: Path, space: spaces.Space[Any], **keywords: Any) -> Bundle:
    """Exports a live model and compares it on samples of its space, in PyTorch and in the daemon."""
    bundle = Bundle(export_model(model, path, options=QUICK, **keywords).path)
    space.seed(9)
    samples = [space.sample() for _ in range(OBSERVATIONS)]
    observations, vectors = batch_of(space, samples), vectors_of(space, samples)
    normalize = model.get_vec_normalize_env()
    prepared = observations if normalize is None else normalize.normalize_obs(observations)
    actions, _ = model.predict(prepared, deterministic=True)
    expected, lead = actions.reshape(len(samples), -1).astype(numpy.float32), lead_of(model, prepared)
    # Observations are also tested one by one, as an environment without a VecEnv gives them.
    for row in range(0, len(samples), 97):
        one = samples[row] if normalize is None else normalize.normalize_obs(samples[row])
        alone = numpy.reshape(model.predict(one, deterministic=True)[0], (1, -1)).astype(numpy.float32)
        assert_same_actions(
            bundle, alone, expected[row : row + 1], None if lead is None else lead[row : row + 1]
        )
    assert_same_actions(bundle, bundle.act(vectors), expected, lead)
    assert_daemon_acts(bundle, vectors, expected, lead)
    return bundle


@pytest.mark.parametrize("kind", OBSERVATION_SPACES)
def test_observation_spaces(tmp_path: Path, kind: str) -> None:
    space = OBSERVATION_SPACES[kind]
    bundle = assert_acts_as_predict(train("PPO", RandomEnv(space, UNEVEN), 64), tmp_path / "a.bundle", space)
    segments = bundle.manifest["observation"]["segment"]
    assert [segment["key"] for segment in segments] == (sorted(MIXED.spaces) if kind == "dict" else [""])
    assert sum(segment["dimension"] for segment in segments) == bundle.manifest["observation"]["dimension"]


@pytest.mark.parametrize("kind", ACTION_SPACES)
def test_action_spaces(tmp_path: Path, kind: str) -> None:
    space = ACTION_SPACES[kind]
    model = train("PPO", RandomEnv(box(2, 3), space), 64)
    bundle = assert_acts_as_predict(model, tmp_path / "a.bundle", box(2, 3))
    assert bundle.manifest["action"]["space"] in kind


@pytest.mark.parametrize("kind", ["discrete", "multi_discrete", "multi_binary"])
def test_masked_action_spaces(tmp_path: Path, kind: str) -> None:
    model = train("MaskablePPO", RandomEnv(box(4), ACTION_SPACES[kind]), 64)
    bundle = Bundle(export_model(model, tmp_path / "a.bundle", options=QUICK).path)
    mask = bundle.manifest["observation"]["segment"][-1]
    assert mask["kind"] == "mask"
    random = numpy.random.default_rng(2)
    masks = random.random((OBSERVATIONS, mask["dimension"])) < 0.6
    start = 0
    for count in mask["nvec"]:
        masks[numpy.arange(OBSERVATIONS), start + random.integers(count, size=OBSERVATIONS)] = True
        start += count
    observations = random.uniform(-2.0, 3.0, size=(OBSERVATIONS, 4)).astype(numpy.float32)
    expected, _ = model.predict(observations, deterministic=True, action_masks=masks)
    expected, lead = (
        expected.reshape(OBSERVATIONS, -1).astype(numpy.float32),
        lead_of(model, observations, masks),
    )
    vectors = numpy.concatenate([observations, masks], axis=1)
    got = bundle.act(vectors)
    assert_same_actions(bundle, got, expected, lead)
    assert_daemon_acts(bundle, vectors, expected, lead)
    # The mask allows every action.
    for row in range(OBSERVATIONS):
        offsets = numpy.cumsum([0, *mask["nvec"][:-1]]) + got[row].astype(int)
        assert masks[row, offsets].all()


@pytest.mark.parametrize("squashed", [False, True])
@pytest.mark.parametrize("full", [False, True])
def test_state_dependent_exploration(tmp_path: Path, squashed: bool, full: bool) -> None:
    keywords = {"squash_output": squashed, "full_std": full, "use_expln": full}
    model = train("PPO", RandomEnv(box(4), UNEVEN), 64, use_sde=True, policy_kwargs=keywords)
    assert_acts_as_predict(model, tmp_path / "a.bundle", box(4))


class Doubling(BaseFeaturesExtractor):
    """A user's feature extractor."""

    def __init__(self, observation_space: gymnasium.Space[Any]) -> None:
        super().__init__(observation_space, features_dim=8)
        self.layer = torch.nn.Linear(4, 8)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Takes [n, 4]; returns [n, 8]."""
        return torch.nn.functional.silu(self.layer(2.0 * observations))


@pytest.mark.parametrize(
    "policy",
    [
        {"net_arch": {"pi": [], "vf": [5]}, "activation_fn": torch.nn.LeakyReLU},
        {"net_arch": [17, 3], "activation_fn": torch.nn.ELU, "share_features_extractor": False},
        {"features_extractor_class": Doubling, "share_features_extractor": False},
        {"features_extractor_class": Doubling, "ortho_init": False},
    ],
)
def test_custom_networks(tmp_path: Path, policy: dict[str, Any]) -> None:
    model = train("PPO", RandomEnv(box(4), UNEVEN), 64, policy_kwargs=policy)
    assert_acts_as_predict(model, tmp_path / "a.bundle", box(4))


def test_soft_actor_over_a_dict_with_exploration(tmp_path: Path) -> None:
    model = train("SAC", RandomEnv(MIXED, UNEVEN), 150, use_sde=True)
    assert_acts_as_predict(model, tmp_path / "a.bundle", MIXED)


@pytest.mark.parametrize("keys", [None, ["z"]])
def test_normalized_keys_of_a_dict(tmp_path: Path, keys: list[str] | None) -> None:
    space = spaces.Dict(z=box(2, low=50.0, high=60.0), grid=box(2, 2))
    env = VecNormalize(DummyVecEnv([lambda: RandomEnv(space, UNEVEN)]), norm_obs_keys=keys)
    bundle = assert_acts_as_predict(train("PPO", env, 64), tmp_path / "a.bundle", space)
    normalized = {entry["key"]: entry["normalized"] for entry in bundle.manifest["observation"]["segment"]}
    assert normalized == {"z": True, "grid": keys is None}


def test_a_large_mean_beside_a_small_deviation_loses_nothing(tmp_path: Path) -> None:
    """Prices near 60,000 move by cents.

    The error of a float32 mean alone would be a large part of the deviation.
    """
    mean, deviation = numpy.array([60_000.123, -1e6 / 3, 7.0]), numpy.array([0.02, 0.5, 1e-3])
    env = VecNormalize(DummyVecEnv([lambda: RandomEnv(box(3, low=-1e7, high=1e7), UNEVEN)]))
    model = train("PPO", env, 0)
    statistics: Any = env.obs_rms
    statistics.mean, statistics.var = mean, deviation**2
    bundle = Bundle(export_model(model, tmp_path / "a.bundle", options=QUICK).path)
    random = numpy.random.default_rng(3)
    raw = (mean + 3.0 * deviation * random.standard_normal((OBSERVATIONS, 3))).astype(numpy.float32)
    expected, _ = model.predict(env.normalize_obs(raw), deterministic=True)
    assert_same_actions(bundle, bundle.act(raw), expected)
    assert_daemon_acts(bundle, raw, expected)
    # This test can fail: the error of the usual float32 arithmetic is much larger.
    naive = (raw - mean.astype(numpy.float32)) / numpy.sqrt(deviation**2 + 1e-8).astype(numpy.float32)
    spoiled, _ = model.predict(numpy.clip(naive, -10.0, 10.0).astype(numpy.float32), deterministic=True)
    assert numpy.max(numpy.abs(spoiled - expected) / (UNEVEN.high - UNEVEN.low)) > 1e-4


@pytest.mark.parametrize("space", [UNEVEN, spaces.Dict(a=box(2, 3), b=box(1))], ids=["box", "dict"])
@pytest.mark.parametrize("order", ["stack_of_normalized", "normalized_stack"])
def test_frame_stack(tmp_path: Path, space: spaces.Space[Any], order: str) -> None:
    """Stacks the frames of the environment by hand, also at a reset. The model sees the wrappers of SB3."""
    inner = DummyVecEnv([lambda: RandomEnv(space, UNEVEN)])
    if order == "stack_of_normalized":
        env: Any = VecFrameStack(VecNormalize(inner), 4)
        normalize: VecNormalize = env.venv
    else:
        env = VecNormalize(VecFrameStack(inner, 4))
        normalize = env
    model = train("PPO", env, 64)
    bundle = Bundle(export_model(model, tmp_path / "a.bundle", frame_stack=4, options=QUICK).path)
    normalize.training = False
    layout = layout_of(space)
    fill = unstacked(numpy.array(bundle.manifest["observation"]["stack"]["fill"]), layout_of(space), 4)
    if order == "normalized_stack":
        assert not numpy.any(fill)

    seen, rows, answers = env.reset(), [], []
    frames = [*fill[1:], flatten(original(normalize, order, space), layout)]
    for _ in range(30):
        action, _ = model.predict(seen, deterministic=True)
        rows.append(stacked(frames, layout))
        answers.append(action.reshape(-1))
        assert_same_actions(bundle, bundle.act(rows[-1][None]), action.reshape(1, -1))
        seen, _, done, _ = env.step(action)
        newest = flatten(original(normalize, order, space), layout)
        frames = [*(fill[1:] if done[0] else frames[1:]), newest]
    assert_daemon_acts(bundle, numpy.array(rows), numpy.array(answers))


def original(normalize: VecNormalize, order: str, space: spaces.Space[Any]) -> Any:
    """Returns the newest frame before normalisation."""
    latest = normalize.get_original_obs()
    parts = latest if isinstance(latest, Mapping) else {"": latest}
    if order == "normalized_stack":
        parts = {key: numpy.split(value, 4, axis=-1)[-1] for key, value in parts.items()}
    return {key: value[0] for key, value in parts.items()} if isinstance(space, spaces.Dict) else parts[""][0]


def stacked(frames: list[Array], layout: Any) -> Array:
    """Returns frame vectors as one stacked vector: along the last axis of each segment, oldest first."""
    parts = []
    for segment in layout.segments:
        pieces = [frame[segment.offset : segment.end].reshape(segment.shape) for frame in frames]
        parts.append(numpy.concatenate(pieces, axis=-1).reshape(-1))
    return numpy.concatenate(parts)


def unstacked(vector: Array, layout: Any, count: int) -> list[Array]:
    """Inverts `stacked`."""
    frames: list[list[Array]] = [[] for _ in range(count)]
    start = 0
    for segment in layout.segments:
        width = segment.dimension * count
        shape = (*segment.shape[:-1], segment.shape[-1] * count)
        pieces = numpy.split(vector[start : start + width].reshape(shape), count, axis=-1)
        for frame, piece in zip(frames, pieces, strict=True):
            frame.append(piece.reshape(-1))
        start += width
    return [numpy.concatenate(frame) for frame in frames]


def test_bounds_of_a_stack_belong_to_their_elements(tmp_path: Path) -> None:
    """The space of VecFrameStack repeats each bound four times in place. Its data has another order."""
    model = train("PPO", VecFrameStack(DummyVecEnv([lambda: RandomEnv(UNEVEN, box(1))]), 4), 0)
    bundle = Bundle(export_model(model, tmp_path / "a.bundle", frame_stack=4, options=QUICK).path)
    assert bundle.manifest["observation"]["low"] == [-1.0, 0.0, -3.0] * 4
    assert bundle.manifest["observation"]["high"] == [1.0, 5.0, 3.0] * 4


def test_what_cannot_be_exported_is_named(tmp_path: Path) -> None:
    images = RandomEnv(spaces.Box(0, 255, (3, 36, 36), numpy.uint8), UNEVEN)
    from stable_baselines3 import PPO

    with pytest.raises(ExportError, match="Conv2d.*CnnPolicy"):
        export_model(PPO("CnnPolicy", images, n_steps=8, batch_size=8), tmp_path / "a.bundle")
    model = train("PPO", RandomEnv(box(3), spaces.Discrete(3, start=1)), 0)
    with pytest.raises(ExportError, match="start at 0"):
        export_model(model, tmp_path / "a.bundle")
    model = train("PPO", RandomEnv(box(5000), UNEVEN), 0)
    with pytest.raises(ExportError, match="5000 elements; allowed: 1 to 4096"):
        export_model(model, tmp_path / "a.bundle")
    model = train("PPO", RandomEnv(box(6), UNEVEN), 0)
    with pytest.raises(ExportError, match="--frame-stack 4 does not fit"):
        export_model(model, tmp_path / "a.bundle", frame_stack=4)
    with pytest.raises(ExportError, match="dict cannot be exported; these can"):
        export_model({}, tmp_path / "a.bundle")
    assert list(tmp_path.iterdir()) == []
