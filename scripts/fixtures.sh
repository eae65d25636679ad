#!/usr/bin/env bash
# Makes, or finds again, the TorchScript fixtures of the tests, and prints the directory they are in.
#
# Usage: scripts/fixtures.sh
#
# They are kept below ${XDG_CACHE_HOME:-~/.cache}/escapement, keyed by the scripts that write them and their
# requirements. The directory gets its name only once it is complete.
set -euo pipefail

scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
key=$(cat "$scripts/make_fixtures.py" "$scripts/make_hostile.py" "$scripts/requirements/test.txt" | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/escapement
target=$cache/fixtures-$key
mkdir -p "$cache"
exec 9>"$cache/fixtures.lock"
flock 9
if [[ ! -d $target ]]; then
    venv=$("$scripts/venv.sh" test)
    rm -rf "$target.partial"
    "$venv/bin/python" -W ignore "$scripts/make_fixtures.py" "$target.partial" >&2
    "$venv/bin/python" -W ignore "$scripts/make_hostile.py" "$target.partial/hostile" >&2
    mv -T "$target.partial" "$target"
fi
printf '%s\n' "$target"
