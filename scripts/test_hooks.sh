#!/usr/bin/env bash
# Shows that the program has no test hooks unless the feature planted-faults is on. Run it after `cargo test`, whose
# program has the hooks: the search must find them there, or it would find nothing anywhere.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

program=${CARGO_TARGET_DIR:-target}/debug/escapement
hooks() {
    grep --text --only-matching 'ESCAPEMENT_TEST_[A-Z_]*' "$program" | sort -u
}

cargo build --quiet --features planted-faults
if ! hooks >/dev/null; then
    echo "test_hooks.sh: no hooks in a program built with planted-faults: the search is broken" >&2
    exit 1
fi
cargo build --quiet
if hooks; then
    echo "test_hooks.sh: the program above has hooks, and is built without planted-faults" >&2
    exit 1
fi
echo "test result: ok. 1 passed; 0 failed; 0 ignored (no test hooks in a plain build)"
