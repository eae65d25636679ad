"""Reads what Stable-Baselines3 saved: model zips, those of 1.x too, and VecNormalize pickles.

Both hold pickles, which run code when they are read: export only what you trust. The daemon never reads one.

A zip keeps each attribute of the model as a pickle of its own. What an actor does not need, schedules, buffers and the
last observations, is left out before it is decoded: in old files just those fail to load. `gym` is read as `gymnasium`.
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
"""Where an algorithm is imported from; the others come from sb3_contrib."""

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
"""Attributes that no actor needs: the algorithm's own defaults take their place."""

SMALL = {"buffer_size": 1, "n_envs": 1, "learning_starts": 0, "optimize_memory_usage": False, "verbose": 0}
"""Attributes that would allocate or print: replaced."""

NEEDED = {"policy_class", "policy_kwargs", "observation_space", "action_space"}


class GymToGymnasium(pickle.Unpickler):
    """An unpickler that finds classes of `gym` in `gymnasium`."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "gym" or module.startswith("gym."):
            module = "gymnasium" + module.removeprefix("gym")
        return super().find_class(module, name)


def algorithm_name(text: str) -> str:
    """The class name of an algorithm as users write it: any case, with or without hyphens and underscores."""
    plain = text.lower().replace("_", "").replace("-", "")
    for name in FAMILIES:
        if plain in (name.lower(), next((alias for alias, of in ALIASES.items() if of == name), "")):
            return name
    raise ExportError(f"--algo {text}: unknown; allowed: {', '.join(name.lower() for name in FAMILIES)}")


def algorithm_class(name: str) -> Any:
    """The class of an algorithm by its name."""
    package = MODULES.get(name, "sb3_contrib")
    try:
        return getattr(importlib.import_module(package), name)
    except ImportError as error:
        raise ExportError(f"{name} needs the package {package.replace('_', '-')}: {error}") from error


def load_model(path: Path, algorithm: str) -> Any:
    """The model in a zip, on the CPU."""
    try:
        repacked, replaced = without_training_state(path)
        return algorithm_class(algorithm).load(repacked, device="cpu", custom_objects=replaced)
    except ExportError:
        raise
    except Exception as error:
        # Whatever a foreign pickle or a constructor raises, the user needs the file and the reason.
        reason = str(error).strip().splitlines() or [""]
        raise ExportError(f"{path}: not loaded as {algorithm}: {type(error).__name__}: {reason[0]}") from error


def without_training_state(path: Path) -> tuple[io.BytesIO, dict[str, Any]]:
    """The zip at `path` without training state, and the decoded values of the attributes that were pickled."""
    if not path.is_file():
        raise ExportError(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        raise ExportError(f"{path}: not a zip file; Stable-Baselines3's model.save() writes one")
    with zipfile.ZipFile(path) as source:
        records = {name: source.read(name) for name in source.namelist()}
    if "data" not in records:
        raise ExportError(f"{path}: has no record 'data'; Stable-Baselines3's model.save() writes one")
    attributes, replaced = actor_attributes(path, json.loads(records["data"]))
    # Arguments of plain numbers and words are not pickled.
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
    """The attributes that an actor needs, and decoded values for those among them that are pickled."""
    kept: dict[str, Any] = {}
    decoded: dict[str, Any] = {}
    for name, value in attributes.items():
        if name in TRAINING_ONLY:
            continue
        kept[name] = SMALL.get(name, value)
        if isinstance(kept[name], dict) and ":serialized:" in value:
            try:
                decoded[name] = GymToGymnasium(io.BytesIO(base64.b64decode(value[":serialized:"]))).load()
            except Exception as error:
                if name in NEEDED:
                    reason = f"{type(error).__name__}: {error}"
                    raise ExportError(f"{path}: the model's {name} cannot be read: {reason}") from error
                # Not a part of any actor; the constructor's own value stands.
                del kept[name]
    for name in sorted(NEEDED - kept.keys()):
        raise ExportError(f"{path}: the model has no {name}")
    return kept, decoded


def modernize(policy_kwargs: Any) -> None:
    """Drops policy arguments of 1.x that 2.x no longer takes, where they held their default."""
    if isinstance(policy_kwargs, dict) and policy_kwargs.get("sde_net_arch", 0) is None:
        del policy_kwargs["sde_net_arch"]


def load_vec_normalize(path: Path) -> Any:
    """The `VecNormalize` that its own `save` wrote to `path`, without an environment."""
    if not path.is_file():
        raise ExportError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            loaded = GymToGymnasium(file).load()
    except Exception as error:
        raise ExportError(f"{path}: not a VecNormalize pickle: {type(error).__name__}: {error}") from error
    if not all(hasattr(loaded, name) for name in ("obs_rms", "norm_obs", "clip_obs", "epsilon", "normalize_obs")):
        raise ExportError(f"{path}: holds a {type(loaded).__name__}, not a VecNormalize")
    # Statistics saved by 1.x know no keys: all of a Dict's were normalised then.
    if "norm_obs_keys" not in vars(loaded):
        loaded.norm_obs_keys = list(loaded.obs_rms) if isinstance(loaded.obs_rms, dict) else None
    return loaded


def written_at(path: Path) -> str:
    """When a model zip was written, RFC 3339 in UTC: the file's own time; records in the zip have no zone."""
    return datetime.fromtimestamp(path.stat().st_mtime, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
