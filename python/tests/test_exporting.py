"""Tests that the assertions of the exporter's tests can fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from gymnasium import spaces

from escapement_export import Options, export_model
from exporting import (
    UNEVEN,
    Bundle,
    RandomEnv,
    assert_same_actions,
    batch_of,
    box,
    lead_of,
    train,
    vectors_of,
)

pytestmark = pytest.mark.filterwarnings("ignore")


def bundle_of(tmp_path: Path, space: spaces.Space[Any]) -> tuple[Any, Bundle]:
    """Returns a small model and its bundle."""
    model = train("PPO", RandomEnv(box(4), space), 0)
    return model, Bundle(export_model(model, tmp_path / "a.bundle", options=Options(checks=256)).path)


def test_box_actions_are_held_to_a_share_of_their_range(tmp_path: Path) -> None:
    _, bundle = bundle_of(tmp_path, UNEVEN)
    expected = numpy.zeros((5, 3), numpy.float32)
    # The ranges are 2, 5 and 6.
    for column, allowed in enumerate((1.9e-5, 4.9e-5, 5.9e-5)):
        got = expected.copy()
        got[3, column] = allowed
        assert_same_actions(bundle, got, expected)
        got[3, column] = 1.1 * allowed
        with pytest.raises(AssertionError):
            assert_same_actions(bundle, got, expected)
    for got in (expected + numpy.nan, expected[:4], expected[:, :2]):
        with pytest.raises(AssertionError):
            assert_same_actions(bundle, got, expected)
    with pytest.raises(AssertionError):
        assert_same_actions(bundle, expected[:0], expected[:0])


def test_discrete_actions_may_differ_where_nothing_leads(tmp_path: Path) -> None:
    _, bundle = bundle_of(tmp_path, spaces.MultiDiscrete([3, 2]))
    expected = numpy.zeros((4, 2), numpy.float32)
    got = expected.copy()
    got[2, 1] = 1.0
    assert_same_actions(bundle, got, expected, numpy.array([1.0, 1.0, 1e-5, 1.0]))
    for lead in (None, numpy.array([0.0, 0.0, 1.1e-5, 0.0])):
        with pytest.raises(AssertionError, match="1 of 4 rows differ"):
            assert_same_actions(bundle, got, expected, lead)


SPACES: list[spaces.Space[Any]] = [spaces.Discrete(4), spaces.MultiDiscrete([3, 2, 4]), spaces.MultiBinary(3)]


@pytest.mark.parametrize("name", ["PPO", "MaskablePPO"])
@pytest.mark.parametrize("space", SPACES, ids=str)
def test_leads_are_those_of_the_models_scores(name: str, space: spaces.Space[Any]) -> None:
    model = train(name, RandomEnv(box(4), space), 0)
    observations = numpy.random.default_rng(0).uniform(-2.0, 3.0, size=(50, 4)).astype(numpy.float32)
    leads = lead_of(model, observations)
    assert leads is not None
    assert leads.shape == (50,)
    assert numpy.all(leads > 0.0)
    # A change of the scores by less than the lead changes no action. A larger change does.
    actions, _ = model.predict(observations, deterministic=True)
    for share, same in ((0.9, True), (1.1, False)):
        turned = 0
        for row in range(50):
            turned += worst_nudge_turns(
                model, observations[row : row + 1], float(leads[row]) * share, actions[row]
            )
        assert (turned == 0) == same


def worst_nudge_turns(model: Any, observation: Any, size: float, action: Any) -> bool:
    """Whether adding `size` to any one logit changes the action."""
    bias = model.policy.action_net.bias
    for index in range(len(bias)):
        for sign in (size, -size):
            with torch.no_grad():
                bias[index] += sign
                nudged, _ = model.predict(observation, deterministic=True)
                bias[index] -= sign
            if not numpy.array_equal(nudged[0], action):
                return True
    return False


def test_vectors_are_the_keys_in_sorted_order() -> None:
    space = spaces.Dict(z=box(2), a=spaces.Discrete(3), m=box(2, 2))
    samples = [space.sample() for _ in range(3)]
    vectors = vectors_of(space, samples)
    assert vectors.shape == (3, 7)
    assert numpy.array_equal(vectors[:, 0], batch_of(space, samples)["a"])
    assert numpy.array_equal(vectors[1, 1:5], samples[1]["m"].reshape(-1))
    assert numpy.array_equal(vectors[2, 5:], samples[2]["z"])
