"""Tests the export command as a process: its output and its exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from exporting import UNEVEN, Bundle, RandomEnv, box, train

pytestmark = pytest.mark.filterwarnings("ignore")

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "export_policy.py"


def export(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in a directory."""
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


def test_from_files_to_a_bundle(tmp_path: Path) -> None:
    env = VecNormalize(DummyVecEnv([lambda: RandomEnv(box(4), UNEVEN)]))
    train("PPO", env, 64).save(tmp_path / "model.zip")
    env.save(str(tmp_path / "statistics.pkl"))
    numpy.save(tmp_path / "seen.npy", numpy.random.default_rng(0).normal(size=(100, 4)))
    done = export(
        tmp_path,
        *(
            "export",
            "model.zip",
            "--algo",
            "ppo",
            "--vecnormalize",
            "statistics.pkl",
            "--out",
            "agent.bundle",
        ),
        *("--observation-names", "a, b,c,d", "--safe-default=-1,0,0", "--slo-us", "50", "--checks", "300"),
        *("--observations", "seen.npy"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("agent.bundle: PPO, bundle hash ")
    assert "model.predict: 300 observations, largest difference" in done.stdout
    manifest = Bundle(tmp_path / "agent.bundle").manifest
    assert manifest["observation"]["names"] == ["a", "b", "c", "d"]
    assert manifest["default"]["safe_default"] == [-1.0, 0.0, 0.0]
    assert manifest["slo"] == {"inference_us": 50.0, "percentile": 99.9}

    again = export(tmp_path, "model.zip", "--algo", "ppo", "--out", "agent.bundle")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == "export: agent.bundle exists; remove it, or pass --overwrite\n"


def test_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "not.npy").write_text("nothing")
    for arguments, code, message in [
        (("model.zip",), 2, "the following arguments are required: --algo, --out"),
        (("model.zip", "--algo", "ppo", "--out", "x.bundle"), 1, "export: model.zip: no such file\n"),
        (
            ("model.zip", "--algo", "ppo", "--out", "x.bundle", "--checks", "0"),
            1,
            "--checks 0; allowed: 1 and more",
        ),
        (
            ("m.zip", "--algo", "ppo", "--out", "x", "--observations", "not.npy"),
            1,
            "not.npy: not a .npy file",
        ),
    ]:
        done = export(tmp_path, *arguments)
        assert done.returncode == code, done.stderr
        assert message in done.stderr
