"""Writes and reads `golden.safetensors`: the tensors of a bundle's golden vectors, in the safetensors format.

A file holds the length of the header as a little-endian u64, then the header, then the tensors one after the
other. The header is a JSON object with the dtype, shape and byte range of each tensor.
https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from .errors import ExportError
from .layout import Vector

ALIGNMENT = 8


@dataclass(frozen=True)
class Vectors:
    """Inputs and expected results.

    Row i of each belongs together; `state` and `next_state` are [n, *shape].
    """

    observation: Vector
    noise: Vector | None
    state: tuple[Vector, ...]
    action: Vector
    next_state: tuple[Vector, ...]

    def __len__(self) -> int:
        return len(self.observation)

    def take(self, rows: Any) -> Vectors:
        """Returns some of the rows."""
        return Vectors(
            self.observation[rows],
            None if self.noise is None else self.noise[rows],
            tuple(state[rows] for state in self.state),
            self.action[rows],
            tuple(state[rows] for state in self.next_state),
        )


def concatenated(parts: list[Vectors]) -> Vectors:
    """Returns the rows of several `Vectors`, one after the other."""
    first = parts[0]
    return Vectors(
        numpy.concatenate([part.observation for part in parts]),
        None
        if first.noise is None
        else numpy.concatenate([part.noise for part in parts if part.noise is not None]),
        tuple(numpy.concatenate([part.state[i] for part in parts]) for i in range(len(first.state))),
        numpy.concatenate([part.action for part in parts]),
        tuple(
            numpy.concatenate([part.next_state[i] for part in parts]) for i in range(len(first.next_state))
        ),
    )


def write(path: Path, vectors: Vectors, state_names: tuple[str, ...]) -> None:
    """Writes golden vectors under the tensor names of `docs/BUNDLE.md`."""
    tensors = {"observation": vectors.observation, "action": vectors.action}
    if vectors.noise is not None:
        tensors["noise"] = vectors.noise
    for name, before, after in zip(state_names, vectors.state, vectors.next_state, strict=True):
        tensors[f"state.{name}"], tensors[f"next.{name}"] = before, after
    write_safetensors(path, tensors)


def write_safetensors(path: Path, tensors: dict[str, Vector]) -> None:
    """Writes float32 arrays, in the order of their names."""
    header: dict[str, Any] = {}
    offset = 0
    for name, values in sorted(tensors.items()):
        header[name] = {
            "dtype": "F32",
            "shape": list(values.shape),
            "data_offsets": [offset, offset + 4 * values.size],
        }
        offset += 4 * values.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, values in sorted(tensors.items()):
            file.write(numpy.ascontiguousarray(values, dtype="<f4").tobytes())


def read_safetensors(path: Path) -> dict[str, Vector]:
    """Returns the float32 arrays of a file that `write_safetensors` wrote."""
    content = path.read_bytes()
    if len(content) < 8:
        raise ExportError(f"{path}: too short for safetensors")
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "F32":
            raise ExportError(f"{path}: tensor {name} is {entry['dtype']}, not F32")
        begin, end = entry["data_offsets"]
        data = content[8 + length + begin : 8 + length + end]
        tensors[name] = numpy.frombuffer(data, dtype="<f4").reshape(entry["shape"]).astype(numpy.float32)
    return tensors
