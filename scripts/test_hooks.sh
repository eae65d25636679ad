#!/usr/bin/env bash
# Shows that a plain build has no test hooks. It first looks at the program that `cargo test` builds, which has them: a
# search that does not find them there is broken.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

program=${CARGO_TARGET_DIR:-target}/debug/escapement
hooks() {
    grep --text --only-matching 'ESCAPEMENT_TEST_[A-Z_]*' "$program" | sort -u
}

cargo test --quiet --no-run --test tidy
if ! hooks >/dev/null; then
    echo "test_hooks.sh: no hooks in the program of the tests: the search is broken" >&2
    exit 1
fi
cargo build --quiet
if hooks; then
    echo "test_hooks.sh: the plain program reads the variables above" >&2
    exit 1
fi
echo "test result: ok. 1 passed; 0 failed; 0 ignored (no test hooks in a plain build)"
