#!/usr/bin/env bash
# Runs the comparison of policy engines in one run on one core: Escapement, RTNeural, ONNX Runtime, tract, libtorch.
#
# Usage: benches/rivals/policy.sh [--core N] [--calls N] [--rate N]...
#
# Run scripts/libtorch.sh once before, or set LIBTORCH. Without either, libtorch is left out, with a message. On Debian,
# RTNeural is fetched through apt. Elsewhere set RTNEURAL to a checkout with its submodules, or it is left out.
# The networks and the Python environment that writes them are kept below ${XDG_CACHE_HOME:-~/.cache}/escapement.
set -euo pipefail

rivals=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$rivals/../.." && pwd)
venv=$("$root/scripts/venv.sh" rivals)

key=$(cat "$rivals/models.py" "$root/python/requirements/rivals.txt" | sha256sum | cut -c1-16)
models=${XDG_CACHE_HOME:-$HOME/.cache}/escapement/rivals-$key
if [[ ! -d $models ]]; then
    rm -rf "$models.partial"
    "$venv/bin/python" "$rivals/models.py" "$models.partial" >&2
    mv -T "$models.partial" "$models"
fi

libraries=("$venv"/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime.so.*)
export ORT_DYLIB_PATH=${libraries[0]}

features=policy
if [[ -n ${RTNEURAL:-} ]] || RTNEURAL=$("$rivals/rtneural/fetch.sh"); then
    export RTNEURAL
    features+=,rtneural
else
    echo "rivals: RTNeural is left out, see above" >&2
fi
if [[ -z ${LIBTORCH:-} && -e $root/.libtorch ]]; then
    LIBTORCH=$root/.libtorch
fi
if [[ -n ${LIBTORCH:-} ]]; then
    export LIBTORCH LD_LIBRARY_PATH=$LIBTORCH/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    features+=,torch
else
    echo "rivals: libtorch is left out: run scripts/libtorch.sh, or set LIBTORCH" >&2
fi
cd "$rivals"
# Not --locked: what Escapement itself depends on may be newer than this package's lock file, which pins the rivals.
exec cargo run --release --quiet --features "$features" --bin policy -- "$models" "$@"
