"""Runs the command as `python -m escapement_export`."""

from .command import main

raise SystemExit(main())
