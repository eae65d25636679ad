"""Exports a model saved by Stable-Baselines3 as a policy bundle.

Usage: python export_policy.py MODEL.zip --algo NAME [--vecnormalize FILE.pkl] [--frame-stack N] --out NAME.bundle

A thin entry to the package `escapement_export` beside it, which also installs by itself:
`pip install 'scripts/escapement_export[sb3]'` gives the command `escapement-export`.
"""

from escapement_export.command import main

if __name__ == "__main__":
    raise SystemExit(main())
