#!/usr/bin/env bash
# Fetches the CPU libtorch that `cargo build --features torch` links against.
#
# Usage: scripts/libtorch.sh
#
# It downloads three wheels (540 MB), whose hashes python/requirements/libtorch.txt pins. It keeps the files that a
# program on the CPU needs (480 MB), and points the git-ignored link `.libtorch` at them. All clones share the result
# below ${XDG_CACHE_HOME:-~/.cache}/escapement, with one directory per set of pins. A second run only checks the link.
# It installs nothing and needs no privileges. A killed run leaves no directory that looks complete.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
pins=$root/python/requirements/libtorch.txt
# Raise this number if the assembly below changes, so that a cache of an older script is not used.
layout=1

say() { printf 'libtorch: %s\n' "$*" >&2; }
fail() {
    say "$*"
    exit 1
}

[[ $(uname -sm) == "Linux x86_64" ]] ||
    fail "pinned for Linux x86_64, but this is $(uname -sm); set LIBTORCH to your own libtorch 2.13.0 instead"
command -v python3 >/dev/null || fail "python3 is missing: sudo apt-get install python3 python3-pip"
command -v g++ >/dev/null || command -v "${CXX:-c++}" >/dev/null ||
    fail "a C++ compiler is missing, and the bindings to libtorch need one: sudo apt-get install g++"

link=$root/.libtorch
[[ -L $link || ! -e $link ]] || fail "$link is not a link: move it, because this script puts a link there"

key=$({ echo "layout $layout" && cat "$pins"; } | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/escapement
target=$cache/libtorch-$key
staging=$target.partial

assemble() {
    python3 -m pip --version >/dev/null 2>&1 || fail "pip is missing: sudo apt-get install python3-pip"
    # The caller holds the lock, so an existing staging directory was left by a killed run.
    rm -rf "$staging"
    mkdir -p "$staging/wheels" "$staging/tmp" "$staging/root"
    trap 'rm -rf "$staging"' EXIT
    trap 'exit 130' INT TERM HUP

    say "downloading 540 MB (once per machine)"
    # pip's cache and the system's /tmp would each hold a second copy of the large wheel. The tags name the target
    # of the wheels, which does not depend on the Python that runs pip.
    TMPDIR=$staging/tmp python3 -m pip download --no-cache-dir --disable-pip-version-check --no-deps \
        --only-binary=:all: --require-hashes --python-version 3.11 --implementation cp --abi cp311 --abi none \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 --platform manylinux_2_17_x86_64 \
        --dest "$staging/wheels" --requirement "$pins" >&2 || fail "the download failed, see above"

    python3 - "$staging/wheels" "$staging/root" <<'PY' || fail "the wheels lack expected files, see above"
import pathlib
import shutil
import sys
import zipfile

wheels, root = (pathlib.Path(argument) for argument in sys.argv[1:])
WANTED = {
    "torch": ["torch/lib/libtorch_cpu.so", "torch/lib/libc10.so", "torch/lib/libgomp.so.1"],
    "nvidia_cuda_runtime": ["nvidia/cu13/lib/libcudart.so.13"],
    "nvidia_cuda_cupti": ["nvidia/cu13/lib/libcupti.so.13"],
}
HEADERS = "torch/include/"

for distribution, libraries in WANTED.items():
    [wheel] = wheels.glob(f"{distribution}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith(HEADERS) and not name.endswith("/")]
        for done, name in enumerate(libraries + names, start=1):
            kept = name.removeprefix("torch/") if name in names else "lib/" + name.rsplit("/", 1)[1]
            path = root / kept
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as source, path.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
            if sys.stderr.isatty() and (done % 500 == 0 or done == len(libraries + names)):
                print(f"\rlibtorch: unpacking {distribution} {done}/{len(libraries + names)}", end="", file=sys.stderr)
    wheel.unlink()
if sys.stderr.isatty():
    print(file=sys.stderr)
PY

    # torch-sys links -ltorch and -lgomp by these names. The wheel's own libtorch.so would need the CUDA libraries.
    ln -s libtorch_cpu.so "$staging/root/lib/libtorch.so"
    ln -s libgomp.so.1 "$staging/root/lib/libgomp.so"
    # torch-sys compares this version with the one that it supports.
    sed -n 's/^torch==\([0-9.]*\).*/\1/p' "$pins" >"$staging/root/build-version"
    sync -f "$staging/root"
    mv -T "$staging/root" "$target"
}

mkdir -p "$cache"
exec 9>"$cache/libtorch.lock"
flock -n 9 || {
    say "waiting for another run to finish"
    flock 9
}
if [[ -d $target ]]; then
    say "found in the cache"
else
    assemble
fi

ln -sfn "$target" "$link.new"
mv -T "$link.new" "$link"
say "ready: .libtorch -> $target"
