"""Writes `bundle.toml`.

Python's library reads TOML but does not write it; a manifest needs little of TOML.
"""

from __future__ import annotations

import hashlib
import math
import platform
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy

from .errors import ExportError

VERSION = "0.1.0"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
LINE = 100


def versions() -> dict[str, str]:
    """Returns the versions of the exporter, of Python and of the packages that wrote the bundle."""
    found = {"exporter": VERSION, "python": platform.python_version()}
    for package in ("torch", "numpy", "gymnasium", "stable_baselines3", "sb3_contrib"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def file_entry(path: Path) -> dict[str, Any]:
    """Returns name, size and SHA-256 of a file, as `[[file]]` holds them."""
    content = path.read_bytes()
    return {"name": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def compact(values: Any) -> float | list[float]:
    """Returns one number if all elements are equal, else the vector."""
    numbers = [float(value) for value in values]
    return numbers[0] if numbers and all(number == numbers[0] for number in numbers) else numbers


def check_name(name: str) -> str:
    """Returns the name. Fails if it is not a valid bundle name."""
    if NAME.fullmatch(name) is None:
        raise ExportError(
            f"bundle name {name!r}: allowed are 1 to 64 of A-Z a-z 0-9 . _ -, first a letter or digit"
        )
    return name


def to_toml(document: Mapping[str, Any]) -> str:
    """Returns a document as TOML. In each table, plain keys come before nested tables."""
    lines: list[str] = []
    write_table(lines, (), document)
    return "\n".join(lines).strip() + "\n"


def with_hash(text: str) -> str:
    """Adds a last line with the hash of the text, so that damage to an unsigned manifest is found too."""
    return f"{text}# sha256 {hashlib.sha256(text.encode()).hexdigest()}\n"


def write_table(lines: list[str], path: tuple[str, ...], table: Mapping[str, Any]) -> None:
    """Writes one table, and its nested tables under their headers."""
    nested = {name: value for name, value in table.items() if is_table(value) or is_table_array(value)}
    for name, value in table.items():
        if name not in nested:
            lines.append(f"{key(name)} = {literal(value)}")
    for name, value in nested.items():
        header = ".".join(key(part) for part in (*path, name))
        for entry in value if is_table_array(value) else [value]:
            lines += ["", f"[[{header}]]" if is_table_array(value) else f"[{header}]"]
            write_table(lines, (*path, name), entry)


class Inline(dict[str, Any]):
    """A table that is written on one line."""


def is_table(value: Any) -> bool:
    """Whether a value is a table with its own header."""
    return isinstance(value, Mapping) and not isinstance(value, Inline)


def is_table_array(value: Any) -> bool:
    """Whether a value is a list of such tables."""
    return isinstance(value, list) and bool(value) and all(is_table(entry) for entry in value)


def key(name: str) -> str:
    """Returns a key, quoted if it must be."""
    return name if BARE_KEY.fullmatch(name) else string(name)


def literal(value: Any) -> str:
    """Returns a value in TOML notation."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return string(value)
    if isinstance(value, int | numpy.integer):
        return str(int(value))
    if isinstance(value, float | numpy.floating):
        return number(value)
    if isinstance(value, Inline):
        return "{ " + ", ".join(f"{key(name)} = {literal(entry)}" for name, entry in value.items()) + " }"
    if isinstance(value, Sequence | numpy.ndarray):
        return array([literal(entry) for entry in value])
    raise TypeError(f"{type(value).__name__} has no TOML notation here")


def number(value: float | numpy.floating[Any]) -> str:
    """Returns a float; a float32 number has the fewest digits that read back as the same float32 number."""
    if math.isnan(value):
        raise ExportError("the manifest would hold a NaN")
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    text = str(value) if isinstance(value, numpy.floating) else repr(value)
    # TOML needs digits on both sides of a point. Python may leave out the point before an exponent.
    mantissa, mark, exponent = text.partition("e")
    return (mantissa if "." in mantissa else mantissa + ".0") + mark + exponent


def array(items: list[str]) -> str:
    """Returns an array, on several lines if it is long."""
    text = f"[{', '.join(items)}]"
    if len(text) <= LINE:
        return text
    lines, line = [], "   "
    for item in items:
        if len(line) + len(item) + 2 > LINE:
            lines.append(line)
            line = "   "
        line += f" {item},"
    return "[\n" + "\n".join([*lines, line]) + "\n]"


def string(text: str) -> str:
    """Returns a basic string."""
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    plain = "".join(escapes.get(letter, letter) for letter in text)
    return (
        '"' + "".join(letter if letter.isprintable() else f"\\U{ord(letter):08X}" for letter in plain) + '"'
    )
