"""Tests saved models: of Stable-Baselines3 1.x, with HER, damaged ones, and files of other kinds."""

from __future__ import annotations

import base64
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from stable_baselines3 import DQN, PPO, SAC, HerReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from escapement_export import ExportError, Options, export_zip
from escapement_export.layout import flatten, layout_of
from escapement_export.shared_layers import separate_widths
from exporting import UNEVEN, Bundle, RandomEnv, assert_daemon_acts, assert_same_actions, box, train

pytestmark = pytest.mark.filterwarnings("ignore")

QUICK = Options(checks=256)


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrites the attributes in a model's zip."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    attributes = json.loads(records["data"])
    change(attributes)
    records["data"] = json.dumps(attributes).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content)


def serialized(pickled: bytes) -> dict[str, str]:
    """Returns a pickle in the form in which the attributes of a zip hold it."""
    return {":type:": "<class 'object'>", ":serialized:": base64.b64encode(pickled).decode()}


def of_gym(value: Any) -> bytes:
    """Returns a pickle with the class names of `gym`. Protocol 0 is text, so a name can be replaced in it."""
    pickled = pickle.dumps(value, protocol=0)
    assert b"gymnasium" in pickled
    return pickled.replace(b"gymnasium", b"gym")


@pytest.mark.parametrize("plain", [False, True])
def test_a_zip_of_1_x(tmp_path: Path, plain: bool) -> None:
    """Rewrites a zip as 1.x saved it.

    It then has spaces of `gym`, schedules in the bytecode of another Python, and the arguments and attributes
    of 1.x.
    """
    model = train("PPO", RandomEnv(box(4), UNEVEN), 64)
    path = tmp_path / "old.zip"
    model.save(path)

    def age(attributes: dict[str, Any]) -> None:
        attributes["observation_space"] = serialized(of_gym(model.observation_space))
        attributes["action_space"] = serialized(of_gym(model.action_space))
        arguments = {"net_arch": [{"pi": [64, 64], "vf": [64, 64]}], "sde_net_arch": None}
        # 1.x did not pickle arguments of plain numbers. It pickled the others.
        attributes["policy_kwargs"] = arguments if plain else serialized(pickle.dumps(arguments))
        for name in ("lr_schedule", "clip_range", "learning_rate", "_last_obs", "ep_info_buffer"):
            attributes[name] = serialized(b"\x80\x04\x95 bytecode of another Python")
        for name in (
            "_stats_window_size",
            "rollout_buffer_class",
            "rollout_buffer_kwargs",
            "_total_timesteps",
        ):
            attributes.pop(name, None)
        attributes["create_eval_env"] = False
        attributes["_of_a_lost_module"] = serialized(b"cno_such_module\nThing\n.")

    rewrite(path, age)
    with pytest.raises(Exception):  # noqa: B017, PT011 - however plain loading fails, that it does is the point
        PPO.load(path)
    bundle = Bundle(export_zip(path, "ppo", tmp_path / "a.bundle", options=QUICK).path)
    observations = numpy.random.default_rng(1).uniform(-2.0, 3.0, size=(500, 4)).astype(numpy.float32)
    assert_same_actions(bundle, bundle.act(observations), model.predict(observations, deterministic=True)[0])


OLD = Path(__file__).resolve().parents[2] / "tests" / "data" / "sb3-1.6"


@pytest.mark.parametrize("name", ["ppo", "dqn", "sac", "recurrent_ppo"])
def test_models_that_1_6_saved_act_as_they_did_there(tmp_path: Path, name: str) -> None:
    """Tests real old models, written by `fixtures.old_models`.

    They have spaces of gym 0.21, shared layers (PPO, RecurrentPPO) and HER (SAC). The expected actions come
    from the old version's own `predict`.
    """
    statistics = OLD / f"{name}.pkl"
    exported = export_zip(
        OLD / f"{name}.zip",
        name,
        tmp_path / "a.bundle",
        vec_normalize=statistics if statistics.exists() else None,
        options=QUICK,
    )
    bundle = Bundle(exported.path)
    saved = numpy.load(OLD / f"{name}.npz")
    keys = sorted(key for key in saved.files if key.startswith("observation"))
    rows = numpy.concatenate([saved[key].reshape(len(saved["action"]), -1) for key in keys], axis=1)
    expected = saved["action"].astype(numpy.float32)
    assert len(numpy.unique(expected, axis=0)) > 1
    assert saved["starts"].sum() >= (1 if name == "ppo" else 3)
    assert_daemon_acts(bundle, rows, expected, starts=saved["starts"])


@pytest.mark.parametrize(
    ("net_arch", "separate"),
    [
        ([8, 5], {"pi": [8, 5], "vf": [8, 5]}),
        ([8, {"pi": [4], "vf": [3, 2]}], {"pi": [8, 4], "vf": [8, 3, 2]}),
        ([8, {"vf": [3]}], {"pi": [8], "vf": [8, 3]}),
        ([{"pi": [4], "vf": [3]}], {"pi": [4], "vf": [3]}),
        ([], {"pi": [], "vf": []}),
    ],
)
def test_shared_widths_become_those_of_both(net_arch: list[Any], separate: dict[str, list[int]]) -> None:
    assert separate_widths(net_arch) == separate


def test_statistics_of_1_x(tmp_path: Path) -> None:
    """The spaces of this VecNormalize are those of `gym`."""
    env = VecNormalize(DummyVecEnv([lambda: RandomEnv(box(4), UNEVEN)]))
    model = train("PPO", env, 64)
    model.save(tmp_path / "model.zip")
    statistics = tmp_path / "statistics.pkl"
    statistics.write_bytes(of_gym(env))
    with pytest.raises(ModuleNotFoundError):
        pickle.loads(statistics.read_bytes())
    exported = export_zip(
        tmp_path / "model.zip", "PPO", tmp_path / "a.bundle", vec_normalize=statistics, options=QUICK
    )
    bundle = Bundle(exported.path)
    observations = numpy.random.default_rng(1).uniform(-2.0, 3.0, size=(500, 4)).astype(numpy.float32)
    expected, _ = model.predict(env.normalize_obs(observations), deterministic=True)
    assert_same_actions(bundle, bundle.act(observations), expected)


@pytest.mark.parametrize("kind", [DQN, SAC])
def test_models_of_hindsight_replay_load_without_an_environment(
    tmp_path: Path, kind: type[DQN] | type[SAC]
) -> None:
    env = BitFlippingEnv(n_bits=6, continuous=kind is SAC, max_steps=6)
    replay = {"replay_buffer_class": HerReplayBuffer, "replay_buffer_kwargs": {"n_sampled_goal": 2}}
    model = train(kind.__name__, env, 150, **replay)
    path = tmp_path / "her.zip"
    model.save(path)
    with pytest.raises(AssertionError, match="HerReplayBuffer"):
        kind.load(path)
    bundle = Bundle(export_zip(path, kind.__name__, tmp_path / "a.bundle", options=QUICK).path)
    keys = [segment["key"] for segment in bundle.manifest["observation"]["segment"]]
    assert keys == ["achieved_goal", "desired_goal", "observation"]
    observations = [env.observation_space.sample() for _ in range(200)]
    vectors = numpy.array([flatten(one, layout_of(env.observation_space)) for one in observations])
    expected = numpy.array(
        [numpy.reshape(model.predict(one, deterministic=True)[0], -1) for one in observations]
    )
    assert_same_actions(bundle, bundle.act(vectors), expected.astype(numpy.float32))


def test_loading_needs_no_large_buffer(tmp_path: Path) -> None:
    """The replay buffer of this model, with 1,000,000 entries of 4,000 features, would take 16 GB."""
    model = train("SAC", RandomEnv(box(4), UNEVEN), 0)
    path = tmp_path / "model.zip"
    model.save(path)
    rewrite(path, lambda attributes: attributes.update(buffer_size=10**15))
    assert export_zip(path, "sac", tmp_path / "a.bundle", options=QUICK).path.is_dir()


def test_files_that_are_something_else(tmp_path: Path) -> None:
    good = tmp_path / "good.zip"
    env = VecNormalize(DummyVecEnv([lambda: RandomEnv(box(4), UNEVEN)]))
    train("PPO", env, 0).save(good)
    env.save(str(tmp_path / "statistics.pkl"))
    (tmp_path / "text.zip").write_text("no zip")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("readme", "nothing")
    (tmp_path / "dict.pkl").write_bytes(pickle.dumps({}))
    (tmp_path / "broken.pkl").write_bytes(b"\x80\x04?")
    lost = tmp_path / "lost.zip"
    lost.write_bytes(good.read_bytes())
    rewrite(
        lost, lambda attributes: attributes.update(policy_class=serialized(b"cno_such_module\nPolicy\n."))
    )
    missing = tmp_path / "missing.zip"
    missing.write_bytes(good.read_bytes())
    rewrite(missing, lambda attributes: attributes.pop("action_space"))
    other = tmp_path / "other.zip"
    train("PPO", RandomEnv(box(5), UNEVEN), 0).save(other)

    out = tmp_path / "a.bundle"
    for name, algorithm, statistics, message in [
        ("absent.zip", "ppo", None, "absent.zip: no such file"),
        ("text.zip", "ppo", None, "text.zip: not a zip file"),
        ("empty.zip", "ppo", None, "empty.zip: has no record 'data'"),
        (
            "lost.zip",
            "ppo",
            None,
            "policy_class cannot be read: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("missing.zip", "ppo", None, "the model has no action_space"),
        ("good.zip", "sac", None, "good.zip: not loaded as SAC"),
        ("good.zip", "alphazero", None, "--algo alphazero: unknown; allowed: a2c, ppo"),
        ("good.zip", "ppo", "absent.pkl", "absent.pkl: no such file"),
        ("good.zip", "ppo", "dict.pkl", "dict.pkl: holds a dict, not a VecNormalize"),
        ("good.zip", "ppo", "broken.pkl", "broken.pkl: not a VecNormalize pickle"),
        (
            "other.zip",
            "ppo",
            "statistics.pkl",
            r"statistics of shape \[4\] for the observation, the model takes \[5\]",
        ),
    ]:
        path = None if statistics is None else tmp_path / statistics
        with pytest.raises(ExportError, match=message) as raised:
            export_zip(tmp_path / name, algorithm, out, vec_normalize=path, options=QUICK)
        assert "\n" not in str(raised.value)
        assert not out.exists()
