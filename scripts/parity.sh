#!/usr/bin/env bash
# Compares the native backend with PyTorch: makes the cases once per machine, then runs tests/native/parity.rs on them.
#
# Usage: scripts/parity.sh [--full] [--path-only]
#
# --full is the release bar: 2000 random networks and 10000 observations for each trained policy, some ten minutes
# to make; without it 200 and 500. --path-only prints what ESCAPEMENT_PARITY is to be set to and stops there.
#
# The cases live below ${XDG_CACHE_HOME:-~/.cache}/escapement, keyed by the hash of what makes them.
set -euo pipefail

scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
networks=200 rows=500 path_only=false
for argument in "$@"; do
    case $argument in
        --full) networks=2000 rows=10000 ;;
        --path-only) path_only=true ;;
        *)
            printf 'usage: scripts/parity.sh [--full] [--path-only]\n' >&2
            exit 64
            ;;
    esac
done

key=$({ cat "$scripts"/make_parity.py "$scripts"/parity_cases/*.py "$scripts/requirements/test.txt" && echo "$networks $rows"; } |
    sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/escapement
cases=$cache/parity-$key
mkdir -p "$cache"
exec 9>"$cases.lock"
flock 9
if [[ ! -e $cases/.complete ]]; then
    venv=$("$scripts/venv.sh" test)
    printf 'parity: exporting %s random networks and the trained policies (once per machine)\n' "$networks" >&2
    rm -rf "$cases"
    "$venv/bin/python" "$scripts/make_parity.py" "$cases" --networks "$networks" --rows "$rows" >&2
    touch "$cases/.complete"
fi
flock -u 9

if $path_only; then
    printf '%s\n' "$cases"
    exit 0
fi
cd "$scripts/.."
ESCAPEMENT_PARITY=$cases ESCAPEMENT_PARITY_REQUIRED=1 cargo test --test native parity:: -- --nocapture
