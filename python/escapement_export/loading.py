"""Reads files that Stable-Baselines3 saved: model zips, also those of 1.x, and VecNormalize pickles.

Both hold pickles, which run code when they are read. Export only models that you trust. The daemon never
reads one.

A zip holds each attribute of the model as a separate pickle. Schedules, buffers and the last observations are
dropped before they are decoded: an actor does not need them, and in old files they are what fails to load.
`gym` is read as `gymnasium`.
"""

from __future__ import annotations

import base64
import importlib
import io
import json
import pickle
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import shared_layers
from .errors import ExportError
from .families import FAMILIES

MODULES = {
    "A2C": "stable_baselines3",
    "DDPG": "stable_baselines3",
    "DQN": "stable_baselines3",
    "PPO": "stable_baselines3",
    "SAC": "stable_baselines3",
    "TD3": "stable_baselines3",
}
"""The package of each algorithm of Stable-Baselines3. All other algorithms come from sb3_contrib."""

ALIASES = {"ppolstm": "RecurrentPPO", "ppomask": "MaskablePPO"}
"""Names that rl-baselines3-zoo uses."""

TRAINING_ONLY = {
    "_episode_storage",
    "_last_episode_starts",
    "_last_obs",
    "_last_original_obs",
    "_vec_normalize_env",
    "action_noise",
    "clip_range",
    "clip_range_vf",
    "env",
    "ep_info_buffer",
    "ep_success_buffer",
    "exploration_schedule",
    "learning_rate",
    "lr_schedule",
    "replay_buffer",
    "replay_buffer_class",
    "replay_buffer_kwargs",
    "rollout_buffer_class",
    "rollout_buffer_kwargs",
    "target_kl",
    "tensorboard_log",
}
"""Attributes that no actor needs. The defaults of the algorithm replace them."""

REPLACED = {"buffer_size": 1, "n_envs": 1, "learning_starts": 0, "optimize_memory_usage": False, "verbose": 0}
"""Attributes that would allocate memory or print, with the values that replace them."""

NEEDED = {"policy_class", "policy_kwargs", "observation_space", "action_space"}


class GymToGymnasium(pickle.Unpickler):
    """An unpickler that looks up classes of `gym` in `gymnasium`."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "gym" or module.startswith("gym."):
            module = "gymnasium" + module.removeprefix("gym")
        return super().find_class(module, name)


def algorithm_name(text: str) -> str:
    """Returns the class name of an algorithm. The text may have any case, and hyphens or underscores."""
    plain = text.lower().replace("_", "").replace("-", "")
    for name in FAMILIES:
        if plain in (name.lower(), next((alias for alias, of in ALIASES.items() if of == name), "")):
            return name
    raise ExportError(f"--algo {text}: unknown; allowed: {', '.join(name.lower() for name in FAMILIES)}")


def algorithm_class(name: str) -> Any:
    """Returns the class of an algorithm by its name. Fails if its package is not installed."""
    package = MODULES.get(name, "sb3_contrib")
    try:
        return getattr(importlib.import_module(package), name)
    except ImportError as error:
        raise ExportError(f"{name} needs the package {package.replace('_', '-')}: {error}") from error


def load_model(path: Path, algorithm: str) -> Any:
    """Returns the model in a zip, on the CPU."""
    try:
        repacked, replaced = without_training_state(path)
        return algorithm_class(algorithm).load(repacked, device="cpu", custom_objects=replaced)
    except ExportError:
        raise
    except Exception as error:
        # A pickle or a constructor may raise any exception. The user needs the file and the reason.
        reason = str(error).strip().splitlines() or [""]
        raise ExportError(
            f"{path}: not loaded as {algorithm}: {type(error).__name__}: {reason[0]}"
        ) from error


def without_training_state(path: Path) -> tuple[io.BytesIO, dict[str, Any]]:
    """Returns the zip at `path` without training state, and the decoded values of its pickled attributes."""
    if not path.is_file():
        raise ExportError(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        raise ExportError(f"{path}: not a zip file; Stable-Baselines3's model.save() writes one")
    with zipfile.ZipFile(path) as source:
        records = {name: source.read(name) for name in source.namelist()}
    if "data" not in records:
        raise ExportError(f"{path}: has no record 'data'; Stable-Baselines3's model.save() writes one")
    attributes, replaced = actor_attributes(path, json.loads(records["data"]))
    # Policy arguments that hold only numbers and strings are not pickled.
    arguments = replaced.get("policy_kwargs", attributes["policy_kwargs"])
    modernize(arguments)
    shared_layers.separate(records, arguments)
    records["data"] = json.dumps(attributes).encode()
    repacked = io.BytesIO()
    with zipfile.ZipFile(repacked, "w") as target:
        for name, content in records.items():
            target.writestr(name, content)
    repacked.seek(0)
    return repacked, replaced


def actor_attributes(path: Path, attributes: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the attributes that an actor needs, and the decoded values of those that are pickled."""
    kept: dict[str, Any] = {}
    decoded: dict[str, Any] = {}
    for name, value in attributes.items():
        if name in TRAINING_ONLY:
            continue
        kept[name] = REPLACED.get(name, value)
        if isinstance(kept[name], dict) and ":serialized:" in value:
            try:
                decoded[name] = GymToGymnasium(io.BytesIO(base64.b64decode(value[":serialized:"]))).load()
            except Exception as error:
                if name in NEEDED:
                    reason = f"{type(error).__name__}: {error}"
                    raise ExportError(f"{path}: the model's {name} cannot be read: {reason}") from error
                # No actor needs this attribute. The constructor's own value is used.
                del kept[name]
    for name in sorted(NEEDED - kept.keys()):
        raise ExportError(f"{path}: the model has no {name}")
    return kept, decoded


def modernize(policy_kwargs: Any) -> None:
    """Drops policy arguments of 1.x that 2.x does not take, if they hold their default."""
    if isinstance(policy_kwargs, dict) and policy_kwargs.get("sde_net_arch", 0) is None:
        del policy_kwargs["sde_net_arch"]


def load_vec_normalize(path: Path) -> Any:
    """Returns the `VecNormalize` that its `save` method wrote to `path`, without an environment."""
    if not path.is_file():
        raise ExportError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            loaded = GymToGymnasium(file).load()
    except Exception as error:
        raise ExportError(f"{path}: not a VecNormalize pickle: {type(error).__name__}: {error}") from error
    if not all(
        hasattr(loaded, name) for name in ("obs_rms", "norm_obs", "clip_obs", "epsilon", "normalize_obs")
    ):
        raise ExportError(f"{path}: holds a {type(loaded).__name__}, not a VecNormalize")
    # Files of 1.x have no list of keys: 1.x normalised all keys of a Dict.
    if "norm_obs_keys" not in vars(loaded):
        loaded.norm_obs_keys = list(loaded.obs_rms) if isinstance(loaded.obs_rms, dict) else None
    return loaded


def written_at(path: Path) -> str:
    """Returns when a model zip was written, as RFC 3339 in UTC.

    This is the modification time of the file: the times inside a zip have no time zone.
    """
    return datetime.fromtimestamp(path.stat().st_mtime, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
