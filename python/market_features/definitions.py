"""The names, order, units and bounds of the features, read from config/features.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "config" / "features.toml"


@dataclass(frozen=True)
class Definition:
    """One feature. Its value always lies in [low, high]."""

    name: str
    unit: str
    formula: str
    low: float
    high: float


def _read() -> tuple[Definition, ...]:
    table = tomllib.loads(SOURCE.read_text(encoding="utf-8"))
    return tuple(Definition(**entry) for entry in table["feature"])


DEFINITIONS = _read()
NAMES = tuple(definition.name for definition in DEFINITIONS)
DIMENSION = len(DEFINITIONS)
