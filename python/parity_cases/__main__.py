"""Exports policies and random networks with PyTorch, together with PyTorch's results for them.

Usage, in python/: python -m parity_cases DIRECTORY [--networks 200] [--rows 500] [--seed 1]

Writes NAME.pt, NAME.observations.npy, NAME.actions.npy and NAME.trusted.npy for every case. The parity test
in Rust says what each holds. There are four families:

- every policy class that Stable-Baselines3 and sb3-contrib export with MlpPolicy (and RecurrentPPO's
  MlpLstmPolicy), trained for a few steps, frozen and unfrozen, each with layers of 1, 3, 7, 17, 33, 65 and
  130 units;
- `bf16-...`: some of these with weights rounded to bfloat16. Storing such weights as bfloat16 changes
  nothing, so the test runs them both ways;
- `scripted-...`: modules that call other modules, compiled instead of traced, frozen and unfrozen;
- random straight-line networks of operators that the native backend supports.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import torch

from parity_cases.compiled import compiled_modules
from parity_cases.policies import trained_policies
from parity_cases.random_networks import random_networks


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument(
        "--networks", type=int, default=200, help="number of random networks (2000 for a release)"
    )
    parser.add_argument("--rows", type=int, default=500, help="observations per policy (10000 for a release)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    written = random_networks(arguments.directory, arguments.networks, arguments.seed)
    print(f"{written} random networks", flush=True)
    print(f"{compiled_modules(arguments.directory, arguments.rows)} compiled modules", flush=True)
    print(f"{trained_policies(arguments.directory, arguments.rows)} trained policies")


if __name__ == "__main__":
    main()
