#!/usr/bin/env bash
# `make k8s`: the operator, its manifests and charts against a real API server.
#
# The first run builds the API server from source (a quarter of an hour); later ones take it from .cache/k8s.
# TESTS names the tests to run, default all.
set -euo pipefail
cd "$(dirname "$0")/.."
ci/install.sh test
command -v openssl >/dev/null || { echo "install openssl, then run this again" >&2; exit 1; }
ci/k8s/build.sh
# The operator is built by its tests: together with the broker it would be another one, with the features of both.
cargo build --locked -p kafscale-broker -p kafscale-test-s3
dir=$(mktemp -d)
status=0
ci/k8s/server.sh "$dir" ci/k8s/checks.sh "$dir" || status=$?
if [ "$status" = 0 ]; then rm -rf "$dir"; else echo "logs are in $dir" >&2; fi
exit "$status"
