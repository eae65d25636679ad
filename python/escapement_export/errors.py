"""The exception of this package."""

from __future__ import annotations


class ExportError(Exception):
    """A policy cannot be exported, or its export differs from it. The text is one line for the user."""
