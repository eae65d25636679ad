"""Writes the small bundles below tests/data, with which the reader of bundles is tested.

Usage: python make_test_bundles.py DIRECTORY

They are committed, so that the tests of a fresh clone need no PyTorch, and are made anew only when the format changes.
The manifest is written by hand here and not by the exporter: two writers, and one specification (docs/BUNDLE.md).

`small` and `other` have one form and different weights; both take noise. `recurrent` carries one state.
"""

# Calling a module is typed as Any in PyTorch's own annotations.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import argparse
import hashlib
import json
import struct
from pathlib import Path

import numpy
import numpy.typing
import torch
from torch import Tensor, nn

OBSERVATION = 3
ACTION = 2
VECTORS = 256

Floats = numpy.typing.NDArray[numpy.float32]


class Stochastic(nn.Module):
    """tanh of one layer, with noise in it, within -1 to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(OBSERVATION, ACTION)

    def forward(self, observation: Tensor, noise: Tensor) -> Tensor:
        return torch.clamp(torch.tanh(self.layer(observation)) + 0.25 * noise, -1.0, 1.0)


class Recurrent(nn.Module):
    """An Elman cell: the state is a squashed sum of the observation and the state before."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Linear(OBSERVATION, 4)
        self.onward = nn.Linear(4, 4)
        self.outward = nn.Linear(4, ACTION)

    def forward(self, observation: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        following = torch.tanh(self.inward(observation) + self.onward(state))
        return torch.tanh(self.outward(following)), following


def safetensors(tensors: dict[str, Floats]) -> bytes:
    """The tensors in the safetensors format."""
    header: dict[str, object] = {}
    data = b""
    for name, tensor in tensors.items():
        begin = len(data)
        data += tensor.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, len(data)]}
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data


def rows_of(values: Floats, row: int) -> Floats:
    """One row as `forward` takes it: vectors with a batch dimension of one, states in their own shape."""
    return values[row : row + 1] if values.ndim == 2 else values[row]


def entry(name: str, content: bytes) -> str:
    """One file as the manifest lists it."""
    digest = hashlib.sha256(content).hexdigest()
    return f'[[file]]\nname = "{name}"\nbytes = {len(content)}\nsha256 = "{digest}"\n'


def write(directory: Path, module: nn.Module, signature: str, inputs: dict[str, Floats], outputs: list[str]) -> None:
    """Runs `module` on every row of `inputs` and writes the bundle."""
    rows: list[list[Floats]] = []
    with torch.no_grad():
        for row in range(VECTORS):
            arguments = [torch.from_numpy(rows_of(values, row)) for values in inputs.values()]
            result = module(*arguments)
            results = result if isinstance(result, tuple) else (result,)
            rows.append([value.numpy() for value in results])
    expected = {name: numpy.stack([row[index] for row in rows]) for index, name in enumerate(outputs)}
    expected["action"] = expected["action"].reshape(VECTORS, ACTION)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "policy.pt"
    torch.jit.freeze(torch.jit.script(module.eval())).save(str(path))
    golden = safetensors(inputs | expected)
    (directory / "golden.safetensors").write_bytes(golden)
    observations = inputs["observation"]
    manifest = f"""format = 1

[bundle]
name = "{directory.name.removesuffix(".bundle")}"
algorithm = "test"
created = "2026-11-03T14:05:09Z"

[versions]
exporter = "make_test_bundles"
python = "3"
torch = "{torch.__version__.split("+")[0]}"
numpy = "{numpy.__version__}"

{entry("policy.pt", path.read_bytes())}
{entry("golden.safetensors", golden)}
[observation]
dimension = {OBSERVATION}
names = ["spread", "imbalance", "position"]
low = [-inf, -10.0, -10]
high = [inf, 10.0, 10]
mean = {observations.mean(axis=0).round(6).tolist()}
std = {observations.std(axis=0).round(6).tolist()}

[action]
space = "box"
dimension = {ACTION}
low = -1.0
high = 1.0

[signature]
{signature}
[default]
safe_default = [0.0, 0.0]

[golden]
vectors = {VECTORS}
tolerance = 1e-5

[slo]
inference_us = 100.0
percentile = 99.0
"""
    seal = hashlib.sha256(manifest.encode()).hexdigest()
    (directory / "bundle.toml").write_text(f"{manifest}# sha256 {seal}\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    directory: Path = parser.parse_args().directory
    for seed, name in enumerate(["small", "other"]):
        torch.manual_seed(seed)
        generator = numpy.random.default_rng(seed)
        observations = generator.standard_normal((VECTORS, OBSERVATION), dtype=numpy.float32)
        noise = generator.standard_normal((VECTORS, ACTION), dtype=numpy.float32)
        noise[::2] = 0
        signature = f'noise = {{ dimension = {ACTION}, kind = "gaussian" }}\n'
        inputs = {"observation": observations, "noise": noise}
        write(directory / f"{name}.bundle", Stochastic(), signature, inputs, ["action"])
    torch.manual_seed(2)
    generator = numpy.random.default_rng(2)
    inputs = {
        "observation": generator.standard_normal((VECTORS, OBSERVATION), dtype=numpy.float32),
        "state.h": generator.uniform(-1, 1, (VECTORS, 1, 4)).astype(numpy.float32),
    }
    inputs["state.h"][::2] = 0
    signature = 'state = [{ name = "h", shape = [1, 4] }]\n\n[recurrent]\non_miss = "keep"\non_gap = "reset"\n'
    write(directory / "recurrent.bundle", Recurrent(), signature, inputs, ["action", "next.h"])


if __name__ == "__main__":
    main()
