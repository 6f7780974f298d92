#!/usr/bin/env bash
# Installs what the build and the tests need, skipping what is there. Safe to run again.
set -euo pipefail

retry() {
  local attempt
  for attempt in 1 2 3 4 5; do
    "$@" && return 0
    echo "attempt $attempt of 5 failed: $*" >&2
    sleep $((attempt * 3))
  done
  return 1
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

need_packages=()
command -v cc >/dev/null || need_packages+=(build-essential)
command -v git >/dev/null || need_packages+=(git)
command -v curl >/dev/null || need_packages+=(curl ca-certificates)
# etcd's client is generated from its interface files.
command -v protoc >/dev/null || need_packages+=(protobuf-compiler)
if [ "${1:-build}" = test ]; then
  # Tests start members of their own, on ports of their own.
  command -v etcd >/dev/null || need_packages+=(etcd-server)
  # Segments have a second reader.
  command -v python3 >/dev/null || need_packages+=(python3)
fi
if [ "${1:-build}" = compat ]; then
  # What runs the suite; its clients install themselves, see ci/compat/install.sh.
  command -v python3 >/dev/null || need_packages+=(python3 python3-venv python3-pip)
fi
if [ ${#need_packages[@]} -gt 0 ]; then
  retry as_root apt-get update -qq
  retry as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${need_packages[@]}"
fi

if ! command -v cargo >/dev/null; then
  retry sh -c 'curl -fsSL https://sh.rustup.rs | sh -s -- -y --profile minimal'
  # shellcheck disable=SC1091
  . "$HOME/.cargo/env"
fi
if [ "${1:-build}" = test ]; then
  cargo fmt --version >/dev/null 2>&1 || retry rustup component add rustfmt
  cargo clippy --version >/dev/null 2>&1 || retry rustup component add clippy
fi
retry cargo fetch --locked --quiet
