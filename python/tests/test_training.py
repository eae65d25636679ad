"""Tests the example's environment and training, and that the exported policy is the trained one."""

from __future__ import annotations

import math
import random
import tomllib
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import PPO

from example_agent import environment, policy_export
from example_agent.environment import MAKE_PER_TRADE, TAKE_PER_STEP, QuotingEnvironment, log_mid_bp
from example_agent.train import check_set, reward_of, split, train
from market_features.convert import convert
from market_features.definitions import NAMES
from market_features.features import Features
from market_features.obs_file import Recording, read_obs

ROOT = Path(__file__).resolve().parents[2]


def walk(count: int, seed: int = 3) -> tuple[Recording, list[float]]:
    """Returns observations of a synthetic random walk, and its mids."""
    draw = random.Random(seed)
    features, ts_ns, ticks = Features(), 0, 10_000
    rows, times, mids = [], [], []
    for _ in range(count):
        ts_ns += int(draw.expovariate(1.0) * 1e7)
        if not features.ready or draw.random() < 0.7:
            ticks += draw.choice((-2, 0, 0, 2))
            features.quote(
                ts_ns, (ticks - 1) / 100, draw.uniform(1, 9), (ticks + 1) / 100, draw.uniform(1, 9)
            )
        else:
            features.trade(ts_ns, ticks / 100, draw.uniform(0.1, 2.0), draw.random() < 0.5)
        rows.append(features.observation())
        times.append(ts_ns)
        mids.append(ticks / 100)
    observations = numpy.array(rows, dtype=numpy.float32)
    sequence = numpy.arange(1, count + 1, dtype=numpy.uint64)
    return Recording(NAMES, sequence, numpy.array(times, dtype=numpy.uint64), observations), mids


@pytest.fixture(scope="module")
def recording() -> Recording:
    return walk(1500)[0]


@pytest.fixture(scope="module")
def model(recording: Recording) -> PPO:
    return train(recording, steps=2048, seed=5, episode_steps=256)


def test_the_mid_comes_back_from_the_observations() -> None:
    recording, mids = walk(1500)
    expected = 1e4 * numpy.log(numpy.array(mids) / mids[0])
    assert numpy.abs(expected).max() > 10.0, "the walk went nowhere"
    numpy.testing.assert_allclose(log_mid_bp(recording), expected, atol=1e-3)


def test_the_environment_is_a_gymnasium_environment(recording: Recording) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*not been created through.*|.*render.*|.*spec.*")
        check_env(QuotingEnvironment(recording, 256), skip_render_check=True)


def test_rewards_against_hand_computed_values(recording: Recording) -> None:
    subject = QuotingEnvironment(recording, 256, random_start=False)
    subject.reset()
    half_spread = 0.5 * recording.observations[:, NAMES.index("spread_bp")].astype(float)
    sign = recording.observations[:, NAMES.index("last_trade_sign")]
    trade = recording.observations[:, NAMES.index("time_since_trade_log")] == 0.0
    moves = numpy.diff(log_mid_bp(recording))
    action = numpy.array([1.0, 0.5, -0.5], dtype=numpy.float32)
    position = 0.0
    fills = {-1.0: 0, 1.0: 0}
    for index in range(60):
        taken = min(1.0 - position, TAKE_PER_STEP)
        position += taken
        expected = -taken * half_spread[index]
        taker = float(sign[index + 1])
        if trade[index + 1]:
            eagerness = 0.75 if taker < 0 else 0.25
            filled = min(MAKE_PER_TRADE * eagerness, 1.0 + taker * position)
            position -= taker * filled
            expected += filled * (1.0 - eagerness) * half_spread[index]
            fills[taker] += 1
        expected += position * moves[index] - environment.INVENTORY_PENALTY_BP * position**2
        _, reward, terminated, truncated, info = subject.step(action)
        assert reward == pytest.approx(expected, abs=1e-9)
        assert info["position"] == pytest.approx(position)
        assert not terminated
        assert not truncated
    assert min(fills.values()) > 0, "a side was never filled"


def test_an_episode_ends_at_its_length_and_positions_stay_in_bounds(recording: Recording) -> None:
    subject = QuotingEnvironment(recording, 256)
    subject.reset(seed=1)
    subject.action_space.seed(1)
    steps, done = 0, False
    while not done:
        _, reward, _, done, info = subject.step(subject.action_space.sample())
        assert math.isfinite(reward)
        assert abs(info["position"]) <= 1.0 + 1e-12
        steps += 1
    assert steps == 256


def test_a_recording_of_other_features_is_refused(recording: Recording) -> None:
    with pytest.raises(ValueError, match=r"config/features\.toml"):
        QuotingEnvironment(replace(recording, names=NAMES[::-1]))
    with pytest.raises(ValueError, match="an episode takes 1500"):
        QuotingEnvironment(recording, 1500)


def test_training_is_repeated_by_its_seed(recording: Recording, model: PPO) -> None:
    again = train(recording, steps=2048, seed=5, episode_steps=256)
    other = train(recording, steps=2048, seed=6, episode_steps=256)
    rows = recording.observations[:50]
    assert numpy.array_equal(
        again.predict(rows, deterministic=True)[0], model.predict(rows, deterministic=True)[0]
    )
    assert not numpy.array_equal(
        other.predict(rows, deterministic=True)[0], model.predict(rows, deterministic=True)[0]
    )


def test_the_exported_module_is_the_model(recording: Recording, model: PPO, tmp_path: Path) -> None:
    path = tmp_path / "policy.pt"
    observations = check_set(recording, 3000, seed=1)
    assert policy_export.export(model, path, observations) <= policy_export.TOLERANCE
    assert list(tmp_path.iterdir()) == [path]
    assert_is_frozen_and_plain(path)

    actions = numpy.concatenate([model.predict(row, deterministic=True)[0][None] for row in observations])
    assert actions.std(axis=0).min() > 0.01, "the policy always does the same: nothing was compared"
    assert policy_export.largest_difference(model, path, observations) <= policy_export.TOLERANCE


def test_a_module_that_differs_is_not_written(recording: Recording, model: PPO, tmp_path: Path) -> None:
    class Shifted(policy_export.DeterministicActor):
        def forward(self, observation: torch.Tensor) -> torch.Tensor:
            return torch.clamp(super().forward(observation) + 1e-5, -1.0, 1.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy_export, "DeterministicActor", Shifted)
        with pytest.raises(policy_export.ExportError, match=r"differs from model\.predict"):
            policy_export.export(model, tmp_path / "policy.pt", recording.observations[:100])
    assert list(tmp_path.iterdir()) == []


def test_the_split_keeps_time_apart(recording: Recording) -> None:
    first, second = split(recording)
    assert len(first.sequence) == 1200
    assert first.sequence[-1] + 1 == second.sequence[0]
    assert first.ts_event_ns[-1] <= second.ts_event_ns[0]
    assert reward_of(second, None) == 0.0


def test_the_committed_policy_is_frozen_and_plain_and_fits_the_features() -> None:
    bundle = ROOT / "config" / "example.bundle"
    manifest = tomllib.loads((bundle / "bundle.toml").read_text(encoding="utf-8"))
    assert manifest["observation"]["names"] == list(NAMES)
    assert_is_frozen_and_plain(bundle / "policy.pt")
    assert (bundle / "policy.pt").stat().st_size < 100_000
    action = torch.jit.load(bundle / "policy.pt")(torch.zeros(1, len(NAMES)))
    assert action.shape == (1, 3)
    assert action.abs().max() <= 1.0


def test_the_committed_policy_is_not_a_constant(recorded_capture: Path, tmp_path: Path) -> None:
    convert(recorded_capture, tmp_path / "out.obs")
    rows = read_obs(tmp_path / "out.obs").observations[::37]
    module = torch.jit.load(ROOT / "config" / "example.bundle" / "policy.pt")
    with torch.no_grad():
        actions = numpy.concatenate([module(torch.from_numpy(row[None].copy())).numpy() for row in rows])
    assert actions.std(axis=0).min() > 0.05
    assert numpy.mean(numpy.abs(actions) == 1.0) < 0.5, "mostly saturated"


def assert_is_frozen_and_plain(path: Path) -> None:
    """Asserts that the module has no parameters, only known operators, and no path of the tracing machine."""
    module = torch.jit.load(path)
    assert not list(module.named_parameters())
    # A bundle adds these operators around the network for the action's shape and type. They compute nothing.
    wrapping = {"prim::Constant", "prim::ListConstruct", "aten::reshape", "aten::to"}
    operators = {node.kind() for node in module.graph.nodes()} - wrapping
    assert operators == {"aten::sub", "aten::mul", "aten::clamp", "aten::linear", "aten::tanh"}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            assert b"site-packages" not in archive.read(name), name
            assert b"policy_export.py" not in archive.read(name), name
