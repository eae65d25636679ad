"""The one exception of this package."""

from __future__ import annotations


class ExportError(Exception):
    """Something cannot be exported, or was exported and is not the same; the text is one line for the user."""
