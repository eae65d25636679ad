#!/usr/bin/env bash
# Makes the Python virtual environment of one requirements file, or finds that of an earlier run, and prints its path.
#
# Usage: scripts/venv.sh NAME        for python/requirements/NAME.txt
#
# It is kept below ${XDG_CACHE_HOME:-~/.cache}/escapement. The key is the hash of the requirements, of the files
# that they include, and of the Python version. A virtual environment cannot be moved after it was made, so a
# stamp file marks a complete one. A lock keeps two callers from making it at the same time. If another file
# includes NAME.txt and its environment is complete, that one is printed, so that PyTorch is not installed twice.
set -euo pipefail

fail() {
    printf 'venv: %s\n' "$*" >&2
    exit 1
}

[[ $# == 1 ]] || fail "usage: scripts/venv.sh NAME"
directory=$(cd "$(dirname "${BASH_SOURCE[0]}")/../python/requirements" && pwd)
requirements=$directory/$1.txt
[[ -f $requirements ]] || fail "there is no $requirements"
command -v python3 >/dev/null || fail "python3 is missing: sudo apt-get install python3 python3-venv"

cache=${XDG_CACHE_HOME:-$HOME/.cache}/escapement

# The path of the environment of one requirements file.
venv_of() {
    local included key
    mapfile -t included < <(sed -n "s|^-r *|$directory/|p" "$1")
    key=$({ python3 --version && cat "$1" "${included[@]}"; } | sha256sum | cut -c1-16)
    printf '%s/venv-%s-%s\n' "$cache" "$(basename "$1" .txt)" "$key"
}

venv=$(venv_of "$requirements")
if [[ ! -e $venv/.complete ]]; then
    for other in "$directory"/*.txt; do
        if grep -qxE -- "-r *$1\.txt" "$other" && [[ -e $(venv_of "$other")/.complete ]]; then
            venv_of "$other"
            exit
        fi
    done
fi
mkdir -p "$cache"
exec 9>"$venv.lock"
flock 9
if [[ ! -e $venv/.complete ]]; then
    # Debian's python3 has the venv module but not ensurepip. Without this check python3 reports it in ten lines.
    python3 -c 'import ensurepip, venv' 2>/dev/null ||
        fail "python3-venv is missing: sudo apt-get install python3-venv"
    printf 'venv: installing the pinned packages of %s (once per machine)\n' "$1" >&2
    rm -rf "$venv"
    python3 -m venv "$venv" >&2 || fail "python3 -m venv $venv failed, see above"
    "$venv/bin/python" -m pip install --quiet --no-cache-dir --disable-pip-version-check \
        --requirement "$requirements" >&2 || fail "installing $requirements failed, see above"
    touch "$venv/.complete"
fi
printf '%s\n' "$venv"
