#!/usr/bin/env bash
# Compares the native backend with PyTorch: makes the cases once per machine, then runs the parity test on them.
#
# Usage: scripts/parity.sh [--full] [--path-only]
#
# --full makes what a release must pass: 2000 random networks, and 10000 observations for each trained policy. That
# takes about ten minutes. Without it the numbers are 200 and 500. --path-only prints the directory for
# ESCAPEMENT_PARITY and runs no test.
#
# The cases are kept below ${XDG_CACHE_HOME:-~/.cache}/escapement. The key is the hash of the programs that make them.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
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

key=$({ cat "$root"/python/parity_cases/*.py "$root/python/requirements/test.txt" && echo "$networks $rows"; } |
    sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/escapement
cases=$cache/parity-$key
mkdir -p "$cache"
exec 9>"$cases.lock"
flock 9
if [[ ! -e $cases/.complete ]]; then
    venv=$("$root/scripts/venv.sh" test)
    printf 'parity: exporting %s random networks and the trained policies (once per machine)\n' "$networks" >&2
    rm -rf "$cases"
    PYTHONPATH=$root/python "$venv/bin/python" -m parity_cases "$cases" --networks "$networks" --rows "$rows" >&2
    touch "$cases/.complete"
fi
flock -u 9

if $path_only; then
    printf '%s\n' "$cases"
    exit 0
fi
cd "$root"
ESCAPEMENT_PARITY=$cases ESCAPEMENT_PARITY_REQUIRED=1 cargo test --test native parity:: -- --nocapture
