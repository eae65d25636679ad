#!/usr/bin/env bash
# Every test of the project, from a fresh clone: set-up, formatting, lints, the Rust tests with and without
# libtorch, parity with PyTorch, the ring's model, the Python tests, and docs/GETTING_STARTED.md. Ends with the
# sum of what the runners counted.
#
#   scripts/test.sh          what every change must pass
#   scripts/test.sh --long   the same with the long runs: see docs/TESTING.md
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

long=false
case "${1:-}" in
    "") ;;
    --long) long=true ;;
    *)
        echo "usage: scripts/test.sh [--long]" >&2
        exit 64
        ;;
esac

log=$(mktemp)
trap 'rm -f "$log"' EXIT

step() {
    printf '\n== %s\n' "$*"
    "$@" 2>&1 | tee -a "$log"
}

if $long; then
    export ESCAPEMENT_LONG=1
fi
step scripts/setup.sh
step cargo fmt --all --check
step cargo clippy --quiet --all-targets -- -D warnings

# The default build has no libtorch in it, and must pass by itself.
step cargo test --quiet
step scripts/test_hooks.sh
if $long; then
    step scripts/parity.sh --full
    ESCAPEMENT_KILL_CYCLES=10000 step cargo test --quiet --test kill
    ESCAPEMENT_LONG=1 step cargo test --quiet --test hot_path
else
    step scripts/parity.sh
fi

step cargo clippy --quiet --all-targets --features torch -- -D warnings
# What libtorch changes: the policies that only it runs, hostile ones, and bundles whose golden vectors it proves.
step cargo test --quiet --features torch --test torch
step cargo test --quiet --features torch --test commands predict::
step cargo test --quiet --features torch --test bundle serving::

# The models of the ring, the lease and the state word: every interleaving within the bound. They have a target folder of
# their own, because --cfg loom changes every crate.
if $long; then
    export ESCAPEMENT_LOOM_FULL=1
fi
RUSTFLAGS="--cfg loom" step cargo test --quiet --release --target-dir target/loom -p escapement-ring -p escapement-engine --lib model

# The program with both backends, built by the tests with libtorch. It is named, so that no Python test is skipped.
export ESCAPEMENT_BINARY=${CARGO_TARGET_DIR:-$PWD/target}/debug/escapement
step scripts/test_python.sh
unset ESCAPEMENT_BINARY
step scripts/test_getting_started.sh

# cargo's and pytest's own summaries, added up.
awk '
    /^test result: / { add(0) }
    /^=+ .*passed.* in [0-9.]+s/ || /^[0-9]+ passed.* in [0-9.]+s/ { add(1) }
    function add(python, i) {
        for (i = 1; i < NF; i++) {
            if ($(i + 1) ~ /^passed/) passed += $i
            if ($(i + 1) ~ /^failed/) failed += $i
            if ($(i + 1) ~ /^(skipped|ignored)/) skipped += $i
        }
    }
    END { printf "\n%d passed, %d failed, %d skipped\n", passed, failed, skipped; exit passed == 0 || failed > 0 }
' "$log"
