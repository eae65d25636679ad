"""Tests that actions with noise have the distribution of `predict(deterministic=False)`: 100,000 draws each.

The noise is the daemon's own, on both of its backends.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
from gymnasium import spaces

from escapement_export import Options, export_model
from exporting import BACKENDS, DRAWS, UNEVEN, Array, Bundle, RandomEnv, box, predict, train

pytestmark = pytest.mark.filterwarnings("ignore")

QUICK = Options(checks=256)
SEED = 20_261_103
SIGMAS = 5.0
"""A correct sampler exceeds this in one comparison with probability 6e-7.

There are about 100, with fixed seeds.
"""


def moments_differ(ours: Array, theirs: Array) -> float:
    """Returns the largest difference of a mean or a covariance of two samples [n, k], in standard errors."""
    largest = 0.0
    centred = [sample - theirs.mean(axis=0) for sample in (ours.astype(float), theirs.astype(float))]
    for i in range(ours.shape[1]):
        # The first moments, and the second moments of each pair.
        features = [[part[:, i]] + [part[:, i] * part[:, j] for j in range(i + 1)] for part in centred]
        for a, b in zip(*features, strict=True):
            error = numpy.sqrt(a.var() / len(a) + b.var() / len(b))
            largest = max(largest, abs(a.mean() - b.mean()) / max(error, 1e-12))
    return float(largest)


def frequencies_differ(ours: Array, theirs: Array, counts: list[int]) -> float:
    """Returns the largest difference of the frequencies of joint categories, in standard errors."""
    codes = [numpy.ravel_multi_index(tuple(sample.astype(int).T), counts) for sample in (ours, theirs)]
    total = int(numpy.prod(counts))
    a, b = (numpy.bincount(code, minlength=total) / len(code) for code in codes)
    pooled = (a + b) / 2.0
    error = numpy.sqrt(pooled * (1.0 - pooled) * (1.0 / len(codes[0]) + 1.0 / len(codes[1])))
    return float(numpy.max(numpy.abs(a - b) / numpy.maximum(error, 1e-12)))


def drawn(model: Any, bundle: Bundle, observation: Array, **extra: Any) -> tuple[list[Array], Array]:
    """Returns the draws of the daemon's backends and of the model at one observation, [n, act] each."""
    mask = extra.get("action_masks")
    vector = observation if mask is None else numpy.concatenate([observation, mask[0]])
    vectors = numpy.repeat(vector[None], DRAWS, axis=0)
    ours = [predict(bundle, vectors, backend, seed=SEED + number) for number, backend in enumerate(BACKENDS)]
    rows = numpy.repeat(observation[None], DRAWS, axis=0)
    theirs, _ = model.predict(rows, deterministic=False, **extra)
    return ours, theirs.reshape(DRAWS, -1)


OBSERVATION = numpy.array([0.3, -0.7, 1.5, 0.1], dtype=numpy.float32)


@pytest.mark.parametrize(
    ("name", "squashed"), [("A2C", False), ("PPO", False), ("TRPO", False), ("SAC", True), ("TQC", True)]
)
def test_gaussian(tmp_path: Path, name: str, squashed: bool) -> None:
    # The model is untrained: its deviations are near 1, and the bounds clip some of the draws, as in
    # `predict`.
    model = train(name, RandomEnv(box(4), UNEVEN), 0)
    bundle = Bundle(export_model(model, tmp_path / "a.bundle", options=QUICK).path)
    assert (bundle.noise_kind, bundle.noise_dimension) == ("gaussian", 3)
    ours, theirs = drawn(model, bundle, OBSERVATION)
    for draws in ours:
        assert moments_differ(draws, theirs) < SIGMAS
    # This test can fail: it detects 5 % more noise.
    wider = bundle.act(numpy.repeat(OBSERVATION[None], DRAWS, axis=0), 1.05 * bundle.draw_noise(DRAWS))
    assert moments_differ(wider, theirs) > SIGMAS


@pytest.mark.parametrize("name", ["PPO", "SAC"])
def test_state_dependent_exploration(tmp_path: Path, name: str) -> None:
    settings: dict[str, Any] = {"policy_kwargs": {"net_arch": [16], "log_std_init": -1.0}, "use_sde": True}
    model = train(name, RandomEnv(box(4), UNEVEN), 0, **settings)
    bundle = Bundle(export_model(model, tmp_path / "a.bundle", options=QUICK).path)
    # Each draw gets a new exploration matrix.
    actor = model.actor if name == "SAC" else model.policy
    actor.reset_noise(DRAWS)
    ours, theirs = drawn(model, bundle, OBSERVATION)
    for draws in ours:
        assert moments_differ(draws, theirs) < SIGMAS


@pytest.mark.parametrize(
    ("space", "counts", "dimension"),
    [
        (spaces.Discrete(4), [4], 4),
        (spaces.MultiDiscrete([3, 2, 4]), [3, 2, 4], 9),
        (spaces.MultiDiscrete([3, 3]), [3, 3], 6),
        (spaces.MultiBinary(3), [2, 2, 2], 6),
    ],
)
@pytest.mark.parametrize("name", ["PPO", "MaskablePPO"])
def test_categories(
    tmp_path: Path, name: str, space: spaces.Space[Any], counts: list[int], dimension: int
) -> None:
    model = train(name, RandomEnv(box(4), space), 0)
    # The logits differ clearly, as those of a trained policy do.
    model.policy.action_net.weight.data.mul_(200.0)
    bundle = Bundle(export_model(model, tmp_path / "a.bundle", options=QUICK).path)
    assert (bundle.noise_kind, bundle.noise_dimension) == ("gumbel", dimension)
    extra = {}
    if name == "MaskablePPO":
        mask = numpy.ones(dimension, dtype=bool)
        mask[[0, dimension - 1]] = False
        extra["action_masks"] = numpy.repeat(mask[None], DRAWS, axis=0)
    ours, theirs = drawn(model, bundle, OBSERVATION, **extra)
    for draws in ours:
        assert frequencies_differ(draws, theirs, counts) < SIGMAS
    # This test can fail: it detects 20 % more noise.
    softer = bundle.act(
        numpy.repeat(numpy.concatenate([OBSERVATION, *([mask] if extra else [])])[None], DRAWS, axis=0),
        1.2 * bundle.draw_noise(DRAWS),
    )
    assert frequencies_differ(softer, theirs, counts) > SIGMAS


@pytest.mark.parametrize("name", ["DQN", "QRDQN"])
@pytest.mark.parametrize("epsilon", [0.05, 0.7, 1.0])
def test_epsilon_greedy(tmp_path: Path, name: str, epsilon: float) -> None:
    """`predict` decides once per batch whether to explore.

    So the expected frequencies are computed, not drawn.
    """
    model = train(name, RandomEnv(box(4), spaces.Discrete(5)), 0)
    model.exploration_rate = epsilon
    bundle = Bundle(export_model(model, tmp_path / "a.bundle", options=QUICK).path)
    greedy = int(model.predict(OBSERVATION, deterministic=True)[0])
    assert bundle.act(OBSERVATION[None])[0, 0] == greedy
    expected = numpy.full(5, epsilon / 5.0)
    expected[greedy] += 1.0 - epsilon
    error = numpy.sqrt(expected * (1.0 - expected) / DRAWS)
    for number, backend in enumerate(BACKENDS):
        rows = numpy.repeat(OBSERVATION[None], DRAWS, axis=0)
        ours = predict(bundle, rows, backend, seed=SEED + number)[:, 0].astype(int)
        found = numpy.bincount(ours, minlength=5) / DRAWS
        assert numpy.all(numpy.abs(found - expected) < SIGMAS * error)


@pytest.mark.parametrize("name", ["DDPG", "TD3", "ARS"])
def test_policies_without_randomness_take_no_noise(tmp_path: Path, name: str) -> None:
    bundle = Bundle(
        export_model(train(name, RandomEnv(box(4), UNEVEN), 0), tmp_path / "a.bundle", options=QUICK).path
    )
    assert bundle.manifest["signature"] == {}


def test_a_recurrent_policy_draws_alike(tmp_path: Path) -> None:
    model = train("RecurrentPPO", RandomEnv(box(4), UNEVEN), 0)
    bundle = Bundle(export_model(model, tmp_path / "a.bundle", options=QUICK).path)
    rows = numpy.repeat(OBSERVATION[None], DRAWS, axis=0)
    # Every row begins an episode.
    theirs, _ = model.predict(rows, deterministic=False)
    for number, backend in enumerate(BACKENDS):
        ours = predict(bundle, rows, backend, seed=SEED + number, starts=numpy.ones(DRAWS))
        assert moments_differ(ours, theirs) < SIGMAS


def test_noise_is_drawn_anew_from_another_seed_and_again_from_the_same(tmp_path: Path) -> None:
    model = train("PPO", RandomEnv(box(4), UNEVEN), 0)
    bundle = Bundle(export_model(model, tmp_path / "a.bundle", options=QUICK).path)
    rows = numpy.repeat(OBSERVATION[None], 100, axis=0)
    first, again, other = (predict(bundle, rows, "native", seed=seed) for seed in (1, 1, 2))
    assert numpy.array_equal(first, again)
    assert not numpy.any(numpy.all(first == other, axis=1))
    assert len(numpy.unique(first, axis=0)) == 100
    quiet = predict(bundle, rows, "native")
    assert len(numpy.unique(quiet, axis=0)) == 1
