#!/usr/bin/env bash
# Lints, type-checks and tests all Python code, in a virtual environment that it makes itself.
#
# Usage: scripts/test_python.sh [PYTEST ARGUMENT...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=$(scripts/venv.sh test)/bin/python
caches=${XDG_CACHE_HOME:-$HOME/.cache}/escapement/checkers
settings=python/pyproject.toml
export PYTHONDONTWRITEBYTECODE=1

"$python" -m ruff check --quiet --config "$settings" --cache-dir "$caches/ruff" python scripts
"$python" -m ruff format --check --quiet --config "$settings" --cache-dir "$caches/ruff" python scripts
"$python" -m mypy --no-error-summary --config-file "$settings" --cache-dir "$caches/mypy" python scripts
"$python" -m pytest -c "$settings" --rootdir . -o cache_dir="$caches/pytest" python/tests "$@"
