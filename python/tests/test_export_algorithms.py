"""Tests every algorithm, with and without VecNormalize: the export of saved files acts as `model.predict`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy
import pytest
from stable_baselines3.common.vec_env import VecNormalize

from escapement_export import Options, export_zip
from exporting import (
    BACKENDS,
    OBSERVATIONS,
    Array,
    Bundle,
    assert_same_actions,
    lead_of,
    make,
    predict,
    train,
)

pytestmark = pytest.mark.filterwarnings("ignore")

CASES = [
    ("A2C", "Pendulum-v1"),
    ("A2C", "CartPole-v1"),
    ("PPO", "Pendulum-v1"),
    ("PPO", "Acrobot-v1"),
    ("TRPO", "MountainCarContinuous-v0"),
    ("TRPO", "CartPole-v1"),
    ("ARS", "Pendulum-v1"),
    ("ARS", "CartPole-v1"),
    ("DDPG", "Pendulum-v1"),
    ("TD3", "MountainCarContinuous-v0"),
    ("SAC", "Pendulum-v1"),
    ("TQC", "Pendulum-v1"),
    ("DQN", "CartPole-v1"),
    ("QRDQN", "MountainCar-v0"),
    ("MaskablePPO", "CartPole-v1"),
]


def observations_near(env: Any, count: int, seed: int) -> Array:
    """Returns observations near those of the environment, and some far away.

    Does not use the exporter's sampler.
    """
    random = numpy.random.default_rng(seed)
    seen = numpy.array([env.observation_space.sample() for _ in range(64)])
    centre = numpy.clip(seen[random.integers(len(seen), size=count)], -10.0, 10.0)
    spread = random.choice([0.0, 0.1, 1.0, 20.0], size=(count, 1))
    rows: Array = centre + spread * random.standard_normal(centre.shape)
    return rows.astype(numpy.float32)


@dataclass(frozen=True)
class Case:
    """A bundle of a trained model, raw observations, and the model's actions for them after normalisation."""

    bundle: Bundle
    vectors: Array
    expected: Array
    lead: Array | None
    normalized: bool
    name: str


@pytest.fixture(
    scope="module",
    params=[(*case, normalized) for case in CASES for normalized in (False, True)],
    ids=lambda case: f"{case[0]}-{case[1]}-{'normalized' if case[2] else 'raw'}",
)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Trains and saves a model, and exports it from the files."""
    name, environment, normalized = request.param
    directory = tmp_path_factory.mktemp("case")
    env = make(environment, normalized)
    model = train(name, env)
    model.save(directory / "model.zip")
    statistics = None
    if isinstance(env, VecNormalize):
        statistics = directory / "statistics.pkl"
        env.save(str(statistics))
    exported = export_zip(
        directory / "model.zip",
        name,
        directory / "agent.bundle",
        vec_normalize=statistics,
        options=Options(checks=512),
    )
    raw = observations_near(env, OBSERVATIONS, seed=5)
    normal: Any = env.normalize_obs(raw) if isinstance(env, VecNormalize) else raw
    vectors, extra = raw, dict[str, Array]()
    if name == "MaskablePPO":
        masks = numpy.random.default_rng(6).random((len(raw), int(model.action_space.n))) < 0.7
        masks[~masks.any(axis=1), 0] = True
        vectors, extra = numpy.concatenate([raw, masks], axis=1), {"action_masks": masks}
    expected, _ = model.predict(normal, deterministic=True, **extra)
    actions = expected.reshape(len(raw), -1).astype(numpy.float32)
    lead = lead_of(model, normal, extra.get("action_masks"))
    return Case(Bundle(exported.path), vectors, actions, lead, normalized, name)


def test_the_bundle_acts_as_predict(case: Case) -> None:
    assert case.bundle.manifest["bundle"]["algorithm"] == case.name
    assert ("mean" in case.bundle.manifest["observation"]) == case.normalized
    # The policy is called row by row, as the daemon does.
    got = numpy.concatenate([case.bundle.act(row[None]) for row in case.vectors])
    assert_same_actions(case.bundle, got, case.expected, case.lead)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_daemon_acts_as_predict(case: Case, backend: str) -> None:
    got = predict(case.bundle, case.vectors, backend)
    assert_same_actions(case.bundle, got, case.expected, case.lead)
