#!/usr/bin/env bash
# Makes, or finds again, the Python virtual environment of one requirements file, and prints its path.
#
# Usage: scripts/venv.sh NAME        for scripts/requirements/NAME.txt
#
# It lives below ${XDG_CACHE_HOME:-~/.cache}/escapement, keyed by the hash of the requirements (with the files that
# they include) and the Python version. A virtual environment cannot be moved once made, so a stamp file says that it
# is complete; a lock keeps two callers from making it at once.
set -euo pipefail

fail() {
    printf 'venv: %s\n' "$*" >&2
    exit 1
}

[[ $# == 1 ]] || fail "usage: scripts/venv.sh NAME"
directory=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/requirements
requirements=$directory/$1.txt
[[ -f $requirements ]] || fail "there is no $requirements"
command -v python3 >/dev/null || fail "python3 is missing: sudo apt-get install python3 python3-venv"

mapfile -t included < <(sed -n "s|^-r *|$directory/|p" "$requirements")
key=$({ python3 --version && cat "$requirements" "${included[@]}"; } | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/escapement
venv=$cache/venv-$1-$key
mkdir -p "$cache"
exec 9>"$venv.lock"
flock 9
if [[ ! -e $venv/.complete ]]; then
    # Debian's python3 has the venv module but not what it installs pip from, and says so in ten lines.
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
