"""Converts hidden layers that actor and critic share, as in Stable-Baselines3 1.x, to the form of 2.x.

In 1.x, `net_arch = [64, {"pi": [32], "vf": [32]}]` meant one layer for both and then one for each. A list
without a dict was shared as a whole. 2.x has no shared layers: there a list stands for two separate networks.
If each network gets a copy of the shared layers, the function stays the same. So this module copies the
weights.
"""

from __future__ import annotations

import io
from collections.abc import MutableMapping
from typing import Any

import torch

SHARED = "mlp_extractor.shared_net."
OWN = ("mlp_extractor.policy_net.", "mlp_extractor.value_net.")
WEIGHTS, OPTIMIZER = "policy.pth", "policy.optimizer.pth"


def separate(records: MutableMapping[str, bytes], policy_kwargs: Any) -> None:
    """Rewrites the records of a model's zip and the policy's arguments, if the policy has shared layers."""
    if not isinstance(policy_kwargs, dict) or not isinstance(policy_kwargs.get("net_arch"), list):
        return
    weights = load(records.get(WEIGHTS))
    if weights is None or not any(name.startswith(SHARED) for name in weights):
        return
    policy_kwargs["net_arch"] = separate_widths(policy_kwargs["net_arch"])
    records[WEIGHTS] = save(separate_weights(weights))
    optimizer = load(records.get(OPTIMIZER))
    if optimizer is not None:
        copies = sum(name.startswith(SHARED) for name in weights)
        records[OPTIMIZER] = save(empty_optimizer(optimizer, copies))


def separate_widths(net_arch: list[Any]) -> dict[str, list[int]]:
    """Converts widths that are shared up to a dict to the widths of each network."""
    shared: list[int] = []
    own: dict[str, list[int]] = {}
    for entry in net_arch:
        if isinstance(entry, dict):
            own = entry
            break
        shared.append(entry)
    return {name: [*shared, *own.get(name, [])] for name in ("pi", "vf")}


def separate_weights(weights: dict[str, Any]) -> dict[str, Any]:
    """Puts each network's own layers behind a copy of the shared ones.

    A layer and its activation have one number each.
    """
    layers = {int(name.removeprefix(SHARED).split(".")[0]) for name in weights if name.startswith(SHARED)}
    behind = max(layers) + 2
    separated: dict[str, Any] = {}
    for name, value in weights.items():
        if name.startswith(SHARED):
            for prefix in OWN:
                separated[prefix + name.removeprefix(SHARED)] = value.clone()
            continue
        moved = name
        for prefix in OWN:
            if name.startswith(prefix):
                number, _, parameter = name.removeprefix(prefix).partition(".")
                moved = f"{prefix}{int(number) + behind}.{parameter}"
        separated[moved] = value
    return separated


def empty_optimizer(optimizer: dict[str, Any], more: int) -> dict[str, Any]:
    """Returns an empty optimizer state with `more` further parameters.

    No actor needs an optimizer, but loading a zip does.
    """
    first, *others = optimizer["param_groups"]
    count = sum(len(group["params"]) for group in optimizer["param_groups"])
    grown = {**first, "params": [*first["params"], *range(count, count + more)]}
    return {"state": {}, "param_groups": [grown, *others]}


def load(record: bytes | None) -> Any:
    """Reads what `torch.save` wrote. Accepts only tensors and plain containers."""
    return None if record is None else torch.load(io.BytesIO(record), map_location="cpu", weights_only=True)


def save(value: Any) -> bytes:
    """Returns the bytes that `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
