"""Exports trained policies as bundles for the Escapement daemon.

A bundle holds the whole function from the raw observation to the action that is sent, as frozen TorchScript.
Its golden vectors prove that a backend computes the same function. `docs/BUNDLE.md` defines the format.

    export_model(model, "agent.bundle")                      a model in memory
    export_zip("agent.zip", "ppo", "agent.bundle")           a saved model
    export_module(module, "agent.bundle", observation_space=..., action_space=...)
"""

from .errors import ExportError
from .export import Exported, Options, export_model, export_module, export_zip
from .graph import Noise, State

__all__ = [
    "ExportError",
    "Exported",
    "Noise",
    "Options",
    "State",
    "export_model",
    "export_module",
    "export_zip",
]
