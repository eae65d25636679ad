"""Exports a model saved by Stable-Baselines3 as a policy bundle.

Usage: python scripts/export_policy.py MODEL.zip --algo NAME --out NAME.bundle [OPTION...]

This file only starts `escapement_export.command`, so that the command runs in a clone without installation.
`pip install './python[sb3]'` installs the same command as `escapement-export`.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))
    from escapement_export.command import main

    raise SystemExit(main())
