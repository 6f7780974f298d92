#!/usr/bin/env bash
# What `make k8s` checks once the API server runs; KUBECONFIG is the administrator's. See ci/k8s.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."
dir=$1
PATH=$PWD/.cache/k8s/bin:$PATH
export PATH

echo "== manifests"
kubectl apply --server-side -k k8s/kustomize >/dev/null
kubectl wait --for condition=Established --timeout 60s crd -l app.kubernetes.io/part-of=kafscale

# The operator of the tests may do what ours may do in production, and nothing else.
token=$(kubectl create token kafscale-operator --namespace kafscale-system --duration 2h)
cp "$dir/admin.conf" "$dir/operator.conf"
KUBECONFIG=$dir/operator.conf kubectl config set-credentials operator --token "$token" >/dev/null
KUBECONFIG=$dir/operator.conf kubectl config set-context test --user operator >/dev/null
KUBECONFIG=$dir/operator.conf kubectl config unset users.admin >/dev/null

echo "== charts"
ci/k8s/charts.sh

echo "== tests"
export KAFSCALE_TEST_KUBECONFIG=$dir/admin.conf
export KAFSCALE_TEST_OPERATOR_KUBECONFIG=$dir/operator.conf
export KAFSCALE_TEST_BIN=${KAFSCALE_TEST_BIN:-$(cd "${CARGO_TARGET_DIR:-target}/debug" && pwd)}
export KAFSCALE_TEST_DIR=$dir
cargo test --locked -p kafscale-operator --test apiserver -- --ignored --show-output --test-threads 2 ${TESTS:-}
