"""Writes TorchScript modules that do harm: to files, to a ring, to memory, to the time of whoever loads them.

Usage: python make_hostile.py DIRECTORY

All take an observation [1, 3] and answer with an action [1, 2]. Paths in them are relative, so that a test decides by
its working directory what they get at: `victim` and `secret` are files that are there, `written` is one that is not,
and `test/actions.ring` is where the tests' daemon keeps its ring. `*_at_load` act in `__setstate__`, while they
are loaded; `*_when_traded` only where observation[0] is above 1, long after every check.
"""

# Calling a module is typed as Any in PyTorch's own annotations, and __setstate__ is TorchScript's, not pickle's.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

import torch
from torch import nn

# The result of each but the first is used: TorchScript drops what nobody looks at, its effect on a file included.
ACTS = {
    "write": 'torch.save(torch.ones(4), "written")',
    "create": 'torch.from_file("written", True, 16).fill_(1.0)[:2].reshape(1, 2)',
    "overwrite": 'torch.from_file("victim", True, 16).fill_(1.0)[:2].reshape(1, 2)',
    "overwrite_ring": 'torch.from_file("test/actions.ring", True, 1024).fill_(1.0)[:2].reshape(1, 2)',
    "read_secret": 'torch.from_file("secret", False, 2).reshape(1, 2)',
}

TEMPLATE = """
class Module(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 2))
        self.kept = torch.zeros(1, 2)

    def act(self) -> Tensor:
        {act}

    def forward(self, observation: Tensor) -> Tensor:
        if {condition}:
            return torch.mm(observation, self.weight) + self.act()
        return torch.mm(observation, self.weight) + self.kept

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, Tensor, bool]:
        return (self.weight, self.kept, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, Tensor, bool]) -> None:
        self.weight = state[0]
        self.kept = state[1]
        self.training = state[2]
        {at_load}
"""

ENDLESS = {
    "allocate": """kept = [torch.zeros(1, 2)]
        while len(kept) < 1 << 40:
            kept.append(torch.empty(1 << 26, 2))
        {use} kept[-1][:1]""",
    "spin": """total = torch.zeros(1, 2)
        while bool(total[0, 0] >= 0.0):
            total = (total + 1.0) % 7.0
        {use} total""",
    "raise": 'raise RuntimeError("no")',
}
NEVER = "False"
ALWAYS = "True"
WHEN_TRADED = "bool(observation[0, 0] > 1.0)"


def write(path: Path, act: str, condition: str, at_load: str) -> None:
    """Scripts a module of this behaviour; not frozen, since that would drop __setstate__."""
    source = TEMPLATE.format(act=act, condition=condition, at_load=at_load)
    file = path.with_suffix(".py")
    file.write_text("import torch\nfrom torch import Tensor, nn\n" + source, encoding="utf-8")
    scope: dict[str, type[nn.Module]] = {}
    # From a file, because TorchScript reads the source again.
    exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), scope)
    torch.jit.script(scope["Module"]().eval()).save(str(path))
    file.unlink()


def rewrite(source: Path, target: Path, old: str, new: str) -> None:
    """Copies an archive with another text in its code."""
    changed = False
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as copy:
        for name in archive.namelist():
            content = archive.read(name)
            if name.endswith(".py") and old.encode() in content:
                content, changed = content.replace(old.encode(), new.encode()), True
            copy.writestr(name, content)
    if not changed:
        raise ValueError(f"{source}: no {old!r} in its code")


def make(directory: Path) -> None:
    """Writes all modules into `directory`, which is made if need be."""
    directory.mkdir(parents=True, exist_ok=True)
    harmless = "return torch.zeros(1, 2)"
    for name, act in ACTS.items():
        is_tensor = name != "write"
        answer = f"return {act}" if is_tensor else f"{act}\n        return torch.zeros(1, 2)"
        keep = f"self.kept = {act}" if is_tensor else act
        write(directory / f"{name}_at_load.pt", harmless, NEVER, keep)
        write(directory / f"{name}_in_forward.pt", answer, ALWAYS, "pass")
        write(directory / f"{name}_when_traded.pt", answer, WHEN_TRADED, "pass")
    for name, act in ENDLESS.items():
        write(directory / f"{name}_at_load.pt", harmless, NEVER, act.format(use="self.kept ="))
        body = act.format(use="return")
        write(directory / f"{name}_in_forward.pt", body, ALWAYS, "pass")
        write(directory / f"{name}_when_traded.pt", body, WHEN_TRADED, "pass")
    plain = directory / "plain.pt"
    write(plain, harmless, ALWAYS, "pass")
    rewrite(plain, directory / "recurse.pt", "(self).act()", "(self).forward(observation)")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write TorchScript modules that do harm.")
    parser.add_argument("directory", type=Path, help="where to; made if need be")
    make(parser.parse_args().directory)


if __name__ == "__main__":
    main()
