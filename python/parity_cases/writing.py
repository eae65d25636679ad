"""Writes a case: a module, observations, and PyTorch's results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Array = npt.NDArray[np.float32]

# A third of what the comparison allows. If PyTorch's two precisions differ by more, its result proves
# nothing.
TRUSTED = 3e-6
# The widths of layers.
SIZES = (1, 3, 7, 17, 33, 65, 130)


def relative(actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Returns the largest difference of each row, relative to max(1, |expected|)."""
    difference = np.abs(actual.astype(np.float64) - expected) / np.maximum(1.0, np.abs(expected))
    largest: npt.NDArray[np.float64] = np.nan_to_num(difference.max(axis=1), nan=np.inf)
    return largest


def run(
    module: nn.Module | torch.jit.ScriptModule, observations: Tensor, states: Sequence[Tensor]
) -> npt.NDArray[Any]:
    """Returns the module's actions, row by row. Each row continues from the states of the row before it."""
    actions = []
    with torch.no_grad():
        for observation in observations:
            result = module(observation[None], *states)
            if states:
                result, *states = result
            actions.append(result.flatten().numpy())
    return np.stack(actions)


def export(
    module: nn.Module, observations: Tensor, states: Sequence[Tensor], form: str
) -> torch.jit.ScriptModule:
    """Returns the module as TorchScript.

    `form` holds `script` or `trace`, and `frozen` for a frozen module.
    """
    if "script" in form:
        scripted = torch.jit.script(module)
    else:
        scripted = torch.jit.trace(module, (observations[:1], *states), check_trace=False)
    return torch.jit.freeze(scripted.eval()) if "frozen" in form else scripted


def write(
    directory: Path,
    name: str,
    module: nn.Module,
    observations: Array,
    states: Sequence[Tensor] = (),
    forms: Sequence[str] = ("frozen trace",),
    least_trusted: float = 0.9,
) -> bool:
    """Writes one case for each form. Returns False if PyTorch's precisions disagree on too many rows."""
    module.eval()
    rows = torch.from_numpy(observations)
    actions = run(module, rows, states).astype(np.float32)
    double = run(module.double(), rows.double(), [state.double() for state in states])
    module.float()
    trusted = relative(actions, double) <= TRUSTED
    if not np.isfinite(actions).all() or trusted.mean() < least_trusted:
        return False
    exported = [export(module, rows, states, form) for form in forms]
    # `torch.jit.freeze` is not always right. It folds a batch norm into the linear layer before it, even if
    # the result of that layer has another use. Then the file differs from the module.
    if any((relative(run(script, rows[:4], states), actions[:4]) > TRUSTED).any() for script in exported):
        return False
    for form, script in zip(forms, exported, strict=True):
        path = directory / f"{name}-{form.replace(' ', '-')}"
        script.save(f"{path}.pt")
        np.save(f"{path}.observations.npy", observations)
        np.save(f"{path}.actions.npy", actions)
        np.save(f"{path}.trusted.npy", trusted.astype(np.float32))
    return True
