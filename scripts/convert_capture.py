"""Converts a capture of Binance spot quotes and trades to observations for `escapement feed --replay`.

Usage: python scripts/convert_capture.py CAPTURE.jsonl.gz --out FILE.obs [--summary]

This file only starts `market_features.convert`, so that the command runs in a clone without installation.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))
    from market_features.convert import main

    raise SystemExit(main())
