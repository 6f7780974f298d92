#!/usr/bin/env bash
# The chart over a matrix of values: lint, render, and a dry run on the API server; and what kustomize has is what the chart
# renders. KUBECONFIG is the administrator's. UPDATE=1 writes k8s/kustomize/operator.yaml again.
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH=$PWD/.cache/k8s/bin:$PATH
export PATH
chart=k8s/helm/kafscale
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

render() { helm template kafscale "$chart" --namespace kafscale-system "$@"; }

{ echo "# Made from the chart by \`UPDATE=1 ci/k8s/charts.sh\`; do not edit."; render; } >"$dir/operator.yaml"
if [ "${UPDATE:-}" = 1 ]; then cp "$dir/operator.yaml" k8s/kustomize/operator.yaml; exit 0; fi
cmp "$dir/operator.yaml" k8s/kustomize/operator.yaml || { echo "stale: run UPDATE=1 ci/k8s/charts.sh" >&2; exit 1; }

cluster=(--set cluster.create=true --set cluster.spec.s3.bucket=records --set 'cluster.spec.etcd.endpoints={http://etcd:2379}')
# Of the API server's own kinds. Those of the Prometheus operator are not on it.
matrix=(
  ""
  "--set operator.replicas=1"
  "--set operator.watchNamespace=default"
  "--set networkPolicy.enabled=true"
  "--set networkPolicy.enabled=true --set networkPolicy.kafkaFrom[0].podSelector.matchLabels.app=client --set networkPolicy.httpFrom[0].ipBlock.cidr=10.0.0.0/8"
  "--set monitoring.dashboards.enabled=true"
  "--set operator.image.tag=1.2.3 --set operator.brokerImage=registry.example/broker:2 --set operator.leaseSeconds=30 --set imagePullSecrets[0].name=pull"
  "--set operator.bootstrap=kafka.example:9092 --set operator.nodeSelector.disk=nvme --set operator.tolerations[0].operator=Exists --set operator.serviceAccount.annotations.role=r"
  "${cluster[*]}"
  "--set cluster.create=true --set cluster.spec.s3.bucket=records --set operator.etcdImage=registry.example/etcd:3"
  "${cluster[*]} --set cluster.spec.brokers.replicas=5 --set cluster.spec.brokers.service.type=LoadBalancer"
)
count=0
for values in "${matrix[@]}"; do
  read -ra arguments <<<"$values"
  helm lint --quiet --strict "$chart" "${arguments[@]}"
  render "${arguments[@]}" >"$dir/rendered.yaml"
  # Strict: a field that no schema has is an error.
  kubectl apply --dry-run=server --validate=strict --server-side --force-conflicts -f "$dir/rendered.yaml" >/dev/null
  count=$((count + 1))
done

# The Prometheus operator's kinds: rendered, and each expression is in the rule.
render --set monitoring.serviceMonitor.enabled=true --set monitoring.rules.enabled=true >"$dir/rendered.yaml"
helm lint --quiet --strict "$chart" --set monitoring.serviceMonitor.enabled=true --set monitoring.rules.enabled=true
[ "$(grep -c '^kind: ServiceMonitor' "$dir/rendered.yaml")" = 2 ]
[ "$(grep -c '^ *- alert:' "$dir/rendered.yaml")" = "$(grep -c '^ *- alert:' "$chart/alerts.yaml")" ]

# What must not be.
refused() {
  if render "${@:2}" >"$dir/refused" 2>&1; then echo "the chart takes ${*:2}" >&2; exit 1; fi
  grep -q "$1" "$dir/refused" || { echo "no word of $1:" >&2; cat "$dir/refused" >&2; exit 1; }
}
refused replicas --set operator.replicas=0
refused operatr --set operatr.replicas=2
refused leaseSeconds --set operator.leaseSeconds=1
refused pullPolicy --set operator.image.pullPolicy=Sometimes
refused s3 --set cluster.create=true
# The definitions refuse on the server what the chart cannot know.
render "${cluster[@]}" --set cluster.spec.brokers.replicas=0 >"$dir/rendered.yaml"
if kubectl apply --dry-run=server --server-side --force-conflicts -f "$dir/rendered.yaml" >"$dir/refused" 2>&1; then
  echo "the API server takes a cluster without brokers" >&2
  exit 1
fi
grep -q "a cluster has 1 to 1000 brokers" "$dir/refused"
echo "$count sets of values rendered, linted and taken by the API server"
