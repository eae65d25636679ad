"""Trains the example policy with Stable-Baselines3's PPO and writes it as a bundle.

Usage: python scripts/train_example.py --observations FILE.obs [--out DIRECTORY] [--steps N] [--seed N]

This file only starts `example_agent.train`, so that the command runs in a clone without installation.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))
    from example_agent.train import main

    raise SystemExit(main())
