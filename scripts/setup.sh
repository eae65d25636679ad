#!/usr/bin/env bash
# Installs what the tests need besides Rust: a C++ compiler (for libtorch's bindings), Python (for the comparison with
# PyTorch and the training example), and libtorch. As root it installs Debian packages; else it names the missing ones.
# It is safe to run again.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
command -v g++ >/dev/null || missing+=(g++)
command -v python3 >/dev/null || missing+=(python3)
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
command -v systemd-analyze >/dev/null || missing+=(systemd)
command -v flock >/dev/null || missing+=(util-linux)

if [ "${#missing[@]}" -gt 0 ]; then
  if [ "$(id -u)" -ne 0 ]; then
    echo "setup: missing Debian packages; run: sudo apt-get install -y ${missing[*]}" >&2
    exit 1
  fi
  echo "setup: installing ${missing[*]}" >&2
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
fi

if ! command -v cargo >/dev/null; then
  echo "setup: missing Rust 1.89 or newer; see https://rustup.rs" >&2
  exit 1
fi

scripts/libtorch.sh
