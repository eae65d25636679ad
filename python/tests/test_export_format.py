"""Tests the manifest and the golden vectors of a bundle, and that a wrong policy is not written."""

from __future__ import annotations

import hashlib
import math
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from escapement_export import ExportError, Noise, Options, State, export_model, export_module
from escapement_export.golden import read_safetensors, write_safetensors
from escapement_export.manifest import Inline, to_toml
from exporting import UNEVEN, Bundle, RandomEnv, box, train

pytestmark = pytest.mark.filterwarnings("ignore")

QUICK = Options(checks=256)


def model_of(action_space: spaces.Space[Any] = UNEVEN, name: str = "PPO") -> Any:
    """Returns a small untrained model."""
    return train(name, RandomEnv(box(4), action_space), 0)


def test_the_manifest_says_what_the_files_are(tmp_path: Path) -> None:
    options = Options(
        checks=256,
        observation_names=["spread", "imbalance", "flow", "age"],
        action_names=["bid", "ask", "size"],
        safe_default=[0.5, 1.0, 0.0],
        slo=(40.0, 99.9),
        trained="2026-01-02T03:04:05Z",
    )
    exported = export_model(model_of(), tmp_path / "my-agent.bundle", options=options)
    manifest = Bundle(exported.path).manifest
    assert sorted(path.name for path in exported.path.iterdir()) == [
        "bundle.toml",
        "golden.safetensors",
        "policy.pt",
    ]
    assert manifest["format"] == 1
    assert manifest["bundle"]["name"] == "my-agent"
    assert manifest["bundle"]["trained"] == "2026-01-02T03:04:05Z"
    assert {"exporter", "python", "torch", "numpy", "stable_baselines3"} <= manifest["versions"].keys()
    assert [entry["name"] for entry in manifest["file"]] == ["policy.pt", "golden.safetensors"]
    for entry in manifest["file"]:
        content = (exported.path / entry["name"]).read_bytes()
        assert (entry["bytes"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert exported.sha256 == hashlib.sha256((exported.path / "bundle.toml").read_bytes()).hexdigest()
    assert manifest["observation"]["names"] == ["spread", "imbalance", "flow", "age"]
    assert (manifest["observation"]["low"], manifest["observation"]["high"]) == (-2.0, 3.0)
    assert manifest["action"] == {
        "space": "box",
        "dimension": 3,
        "low": [-1.0, 0.0, -3.0],
        "high": [1.0, 5.0, 3.0],
        "names": ["bid", "ask", "size"],
    }
    assert manifest["signature"] == {"noise": {"dimension": 3, "kind": "gaussian"}}
    assert manifest["default"] == {"safe_default": [0.5, 1.0, 0.0]}
    assert manifest["golden"] == {"vectors": 512, "tolerance": 1e-5}
    assert manifest["slo"] == {"inference_us": 40.0, "percentile": 99.9}


@pytest.mark.parametrize(
    ("name", "space"),
    [
        ("PPO", UNEVEN),
        ("PPO", spaces.Discrete(4)),
        ("DQN", spaces.Discrete(3)),
        ("TD3", UNEVEN),
        ("RecurrentPPO", UNEVEN),
    ],
)
def test_golden_vectors_are_right_settled_and_cover_the_edges(tmp_path: Path, name: str, space: Any) -> None:
    model = model_of(space, name)
    if name == "DQN":
        model.exploration_rate = 0.2
    if name == "PPO":
        # In an untrained model, all logits of a zero observation are zero, and near ties are left out.
        torch.nn.init.uniform_(model.policy.action_net.bias)
    bundle = Bundle(export_model(model, tmp_path / "a.bundle", options=QUICK).path)
    golden = read_safetensors(bundle.path / "golden.safetensors")
    state = bundle.manifest["signature"].get("state", [])
    names = {"observation", "action"} | ({"noise"} if bundle.noise_dimension else set())
    assert golden.keys() == names | {
        f"{side}.{entry['name']}" for entry in state for side in ("state", "next")
    }
    assert {len(values) for values in golden.values()} == {512}
    rows = golden["observation"]
    for edge in (0.0, -2.0, 3.0):
        assert numpy.any(numpy.all(rows == edge, axis=1)), edge
    for i in range(512):
        inputs = [golden["observation"][i : i + 1]]
        inputs += [golden["noise"][i : i + 1]] if bundle.noise_dimension else []
        inputs += [golden[f"state.{entry['name']}"][i] for entry in state]
        with torch.no_grad():
            result = bundle.policy(*(torch.from_numpy(part.copy()) for part in inputs))
        parts = result if state else (result,)
        expected = [golden["action"][i : i + 1], *(golden[f"next.{entry['name']}"][i] for entry in state)]
        for part, wanted in zip(parts, expected, strict=True):
            assert part.shape == wanted.shape
            numpy.testing.assert_allclose(part.numpy(), wanted, rtol=0, atol=1e-5)
    if bundle.noise_dimension:
        quiet = numpy.all(golden["noise"] == 0.0, axis=1)
        assert 128 <= quiet.sum() <= 384
    if not state:
        settled = rows if not bundle.noise_dimension else rows[quiet]
        wanted = golden["action"] if not bundle.noise_dimension else golden["action"][quiet]
        got = model.predict(settled, deterministic=True)[0].reshape(len(settled), -1)
        numpy.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)


def test_golden_vectors_saturate_normalisation(tmp_path: Path) -> None:
    env = VecNormalize(DummyVecEnv([lambda: RandomEnv(box(4, low=-numpy.inf, high=numpy.inf), UNEVEN)]))
    bundle = Bundle(export_model(train("PPO", env, 64), tmp_path / "a.bundle", options=QUICK).path)
    normal = env.normalize_obs(read_safetensors(bundle.path / "golden.safetensors")["observation"])
    assert numpy.any(numpy.all(normal == 10.0, axis=1))
    assert numpy.any(numpy.all(normal == -10.0, axis=1))


def test_the_archive_names_no_file_of_the_machine_that_wrote_it(tmp_path: Path) -> None:
    path = export_model(model_of(), tmp_path / "a.bundle", options=QUICK).path / "policy.pt"
    here = str(Path(__file__).resolve().parent).encode()
    with zipfile.ZipFile(path) as archive:
        contents = [archive.read(name) for name in archive.namelist()]
    assert not any(
        place in content for content in contents for place in (here, b"site-packages", b"/python/")
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda graph: graph.head.bounds.half_range.mul_(1.0001), "is not the model"),
        (lambda graph: graph.network.output.bias.add_(1e-3), "is not the model"),
        (lambda graph: graph.encoder.encoders["0"].scale.mul_(1.1), "is not the model"),
        (lambda graph: graph.network.output.weight.fill_(math.nan), "is not the model"),
    ],
)
def test_a_policy_that_differs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Any], None], message: str
) -> None:
    """Changes the graph after it was taken from the model, as a bug in the exporter would."""
    from escapement_export import families, subject

    def spoiled(*arguments: Any) -> Any:
        graph = graph_of(*arguments)
        spoil(graph)
        return graph

    graph_of = families.graph_of
    monkeypatch.setattr(subject, "graph_of", spoiled)
    env = VecNormalize(DummyVecEnv([lambda: RandomEnv(box(4), UNEVEN)]))
    settings = {"use_sde": True, "policy_kwargs": {"squash_output": True}}
    with pytest.raises(ExportError, match=message):
        export_model(train("PPO", env, 64, **settings), tmp_path / "a.bundle", options=QUICK)
    assert list(tmp_path.iterdir()) == []


def test_options_that_cannot_be(tmp_path: Path) -> None:
    model = model_of()
    out = tmp_path / "a.bundle"
    for options, message in [
        (Options(name="a b"), "bundle name 'a b'"),
        (Options(observation_names=["a", "b"]), "2 different observation names for 4 elements"),
        (Options(observation_names=["a", "a", "b", "c"]), "3 different observation names for 4 elements"),
        (Options(action_names=["a"]), "1 different action names for 3 elements"),
        (Options(safe_default=[0.0]), "a safe default of 1 elements for 3 actions"),
        (Options(safe_default=[0.0, -1.0, 0.0]), "lies outside the action space"),
        (Options(recorded=numpy.zeros((5, 3), numpy.float32)), r"shape \[5, 3\]; expected \[n, 4\]"),
        (Options(recorded=numpy.full((5, 4), numpy.nan, numpy.float32)), "not finite"),
        (Options(vectors=255), "255 golden vectors; allowed: 256 to 65536"),
        (Options(tolerance=0.0), "tolerance 0; allowed: above 0, at most 0.01"),
        (Options(slo=(0.0, 99.0)), "allowed: a time above 0"),
        (Options(slo=(10.0, 101.0)), "percentile 101; allowed"),
    ]:
        with pytest.raises(ExportError, match=message):
            export_model(model, out, options=options)
        assert not out.exists()


def test_a_bundle_is_replaced_only_when_asked(tmp_path: Path) -> None:
    model = model_of()
    out = tmp_path / "a.bundle"
    first = export_model(model, out, options=QUICK)
    with pytest.raises(ExportError, match="exists; remove it, or pass --overwrite"):
        export_model(model, out, options=QUICK)
    second = export_model(
        model, out, options=Options(checks=256, overwrite=True, safe_default=[1.0, 1.0, 1.0])
    )
    assert first.sha256 != second.sha256
    assert list(tmp_path.iterdir()) == [out]
    precious = tmp_path / "b.bundle"
    precious.mkdir()
    (precious / "thesis.txt").write_text("the only copy")
    with pytest.raises(ExportError, match="is not a bundle; it is not overwritten"):
        export_model(model, precious, options=Options(checks=256, overwrite=True))
    assert (precious / "thesis.txt").is_file()


def test_recorded_observations_give_the_statistics(tmp_path: Path) -> None:
    recorded = numpy.random.default_rng(0).normal(1.0, 0.5, size=(1000, 4)).astype(numpy.float32)
    bundle = Bundle(
        export_model(model_of(), tmp_path / "a.bundle", options=Options(checks=256, recorded=recorded)).path
    )
    numpy.testing.assert_allclose(bundle.manifest["observation"]["mean"], recorded.mean(axis=0), rtol=1e-5)
    numpy.testing.assert_allclose(bundle.manifest["observation"]["std"], recorded.std(axis=0), rtol=1e-5)


class Filter(torch.nn.Module):
    """A user's module: an exponential average as state, additive noise, no batch dimension in the result."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)

    def forward(self, observation: torch.Tensor, noise: torch.Tensor, level: torch.Tensor) -> Any:
        """Takes (observation [1, 4], noise [1, 2], level [1, 4]); returns (action [2], level)."""
        level = 0.9 * level + 0.1 * observation
        return torch.tanh(self.layer(level) + 0.1 * noise)[0].double(), level


def test_any_module(tmp_path: Path) -> None:
    exported = export_module(
        Filter(),
        tmp_path / "a.bundle",
        observation_space=box(4),
        action_space=box(2, low=-1.0, high=1.0),
        noise=Noise(2, "gaussian"),
        state=[State("level", (1, 4))],
        algorithm="filter",
        options=QUICK,
    )
    bundle = Bundle(exported.path)
    assert bundle.manifest["bundle"]["algorithm"] == "filter"
    assert bundle.manifest["signature"]["state"] == [{"name": "level", "shape": [1, 4]}]
    action, _ = bundle.step(numpy.ones(4), bundle.zero_states())
    assert action.shape == (2,)
    assert action.dtype == numpy.float32


class Choice(torch.nn.Module):
    """A module that returns a choice, as int64 [1]."""

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Takes [1, 4]; returns [1]."""
        return torch.argmax(observation, 1)


@pytest.mark.parametrize("script", [False, True])
def test_a_module_that_chooses_keeps_near_ties_out_of_its_golden_vectors(
    tmp_path: Path, script: bool
) -> None:
    module = torch.jit.script(Choice()) if script else Choice()
    exported = export_module(
        module,
        tmp_path / "a.bundle",
        observation_space=box(4),
        action_space=spaces.Discrete(4),
        options=QUICK,
    )
    rows = numpy.sort(read_safetensors(exported.path / "golden.safetensors")["observation"], axis=1)
    assert numpy.min(rows[:, -1] - rows[:, -2]) > 1e-5


class Branching(torch.nn.Module):
    """A module that branches on data, which a trace cannot record."""

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Takes and returns [1, 4]."""
        return observation if float(observation.sum()) > 0.0 else -2.0 * observation


def test_modules_that_cannot_be(tmp_path: Path) -> None:
    def attempt(module: torch.nn.Module, action_space: spaces.Space[Any]) -> None:
        export_module(
            module, tmp_path / "a.bundle", observation_space=box(4), action_space=action_space, options=QUICK
        )

    with pytest.raises(ExportError, match="is not the model"):
        attempt(Branching(), box(4, low=-9.0, high=9.0))
    with pytest.raises(ExportError, match="action has 4 elements, the action space 3"):
        attempt(torch.nn.Identity(), UNEVEN)
    with pytest.raises(ExportError, match="cannot be traced: RuntimeError: mat1 and mat2 shapes") as raised:
        attempt(torch.nn.Linear(7, 3), UNEVEN)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_toml_reads_back_as_written() -> None:
    document = {
        "whole": 3,
        "float": 1e-5,
        "large": 1e300,
        "single": numpy.float32(0.1),
        "infinite": [math.inf, -math.inf],
        "flag": True,
        "text": 'a "quoted" \\ line\nand \x07 more',
        "long": [0.1 * i for i in range(200)],
        "inline": [Inline(name="h", shape=[1, 2])],
        "table": {"key with space": 1, "inner": {"x": []}},
        "tables": [{"a": 1}, {"a": 2, "deep": [{"b": 3}]}],
    }
    read = tomllib.loads(to_toml(document))
    assert numpy.float32(read.pop("single")) == document.pop("single")
    assert read == document
    with pytest.raises(ExportError, match="NaN"):
        to_toml({"x": math.nan})


def test_safetensors_have_the_published_layout(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(
        path, {"b": numpy.array([[1.5, -2.0]], numpy.float32), "a": numpy.zeros((0, 3), numpy.float32)}
    )
    header = b'{"a":{"dtype":"F32","shape":[0,3],"data_offsets":[0,0]},'
    header += b'"b":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}'
    header += b" " * (-len(header) % 8)
    assert path.read_bytes() == len(header).to_bytes(8, "little") + header + b"\0\0\xc0\x3f\0\0\0\xc0"
    assert read_safetensors(path)["b"].tolist() == [[1.5, -2.0]]
