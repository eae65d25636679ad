#!/usr/bin/env bash
# Makes the TorchScript fixtures of the tests, or finds those of an earlier run, and prints their directory.
#
# Usage: scripts/fixtures.sh
#
# The fixtures are kept below ${XDG_CACHE_HOME:-~/.cache}/escapement. The key is the hash of the programs that write
# them and of their requirements. The directory gets its name only after it is complete.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
sources=("$root"/python/fixtures/{torch_modules,hostile_modules}.py "$root/python/requirements/test.txt")
key=$(cat "${sources[@]}" | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/escapement
target=$cache/fixtures-$key
mkdir -p "$cache"
exec 9>"$cache/fixtures.lock"
flock 9
if [[ ! -d $target ]]; then
    venv=$("$root/scripts/venv.sh" test)
    rm -rf "$target.partial"
    export PYTHONPATH=$root/python
    "$venv/bin/python" -W ignore -m fixtures.torch_modules "$target.partial" >&2
    "$venv/bin/python" -W ignore -m fixtures.hostile_modules "$target.partial/hostile" >&2
    mv -T "$target.partial" "$target"
fi
printf '%s\n' "$target"
