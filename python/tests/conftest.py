"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def recorded_capture() -> Path:
    """The recorded market data, from ESCAPEMENT_DATA or from a directory next to the clone.

    It is not shipped.
    """
    directory = Path(os.environ.get("ESCAPEMENT_DATA", ROOT.parent / "shared" / "data"))
    found = sorted(directory.glob("binance-spot-*.jsonl.gz"))
    if not found:
        pytest.skip(
            f"no recording (binance-spot-*.jsonl.gz) in {directory}; ESCAPEMENT_DATA can name a directory"
        )
    return found[0]
