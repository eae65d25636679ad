#!/usr/bin/env bash
# Fuzzes what reads foreign bytes, each target for SECONDS. Stable Rust, no sanitizer; cargo-fuzz is installed into the
# cache outside the tree where it is missing.
#
# Usage: scripts/fuzz.sh [SECONDS]        60 unless told
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seconds=${1:-60}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || { echo "usage: scripts/fuzz.sh [SECONDS]" >&2; exit 64; }
version=0.13.2
tools=${XDG_CACHE_HOME:-$HOME/.cache}/escapement/cargo-fuzz-$version
if [[ ! -x $tools/bin/cargo-fuzz ]]; then
    echo "fuzz: building cargo-fuzz $version (once per machine)" >&2
    cargo install --quiet --locked --root "$tools" --version "$version" cargo-fuzz
fi
export PATH=$tools/bin:$PATH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd fuzz && cargo run --quiet --release --bin corpus -- "$work")
for target in fuzz/fuzz_targets/*.rs; do
    name=$(basename "$target" .rs)
    echo "fuzz: $name, $seconds s"
    # A crash leaves its input in fuzz/artifacts, which its last lines name.
    if ! cargo fuzz run --sanitizer none "$name" "$work/$name" -- -max_total_time="$seconds" -rss_limit_mb=4096 \
        -timeout=10 -print_final_stats=1 >"$work/$name.log" 2>&1; then
        tail -n 40 "$work/$name.log" >&2
        exit 1
    fi
    grep -E '^stat::(number_of_executed_units|peak_rss_mb)' "$work/$name.log"
done
