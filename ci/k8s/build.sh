#!/usr/bin/env bash
# Builds a real API server, its controllers, Helm, and the etcd that the operator runs from source into .cache/k8s/bin,
# unless they are there. `build.sh etcd` builds the etcd alone.
#
# Versions and checksums are in go.mod and go.sum beside this file and in etcd/. The first build takes a quarter of an hour on two cores.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bin=$(cd "$here/../.." && pwd)/.cache/k8s/bin
kubernetes=v1.34.2
tools=("k8s.io/kubernetes/cmd/kube-apiserver" "k8s.io/kubernetes/cmd/kube-controller-manager" "k8s.io/kubernetes/cmd/kubectl" "helm.sh/helm/v3/cmd/helm")

grep -qE "k8s.io/kubernetes $kubernetes( |\$)" "$here/go.mod" || { echo "$0 and go.mod name different versions of Kubernetes" >&2; exit 1; }
command -v go >/dev/null || { echo "install Go 1.26 or later, then run this again" >&2; exit 1; }
mkdir -p "$bin"
stamp=$(cat "$here/go.mod" "$here/go.sum" "$here/build.sh" | sha256sum | cut -d' ' -f1)

# The API server compares its version with those of others: an unset one is not accepted.
version=k8s.io/component-base/version
flags="-s -w -X $version.gitVersion=$kubernetes -X $version.gitMajor=1 -X $version.gitMinor=34"
# Helm takes itself for the client of an old Kubernetes otherwise, and refuses charts that need a newer one.
for package in chartutil lint/rules; do
  flags+=" -X helm.sh/helm/v3/pkg/$package.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/$package.k8sVersionMinor=34"
done

# build NAME PACKAGE MODULE: with the stamp and the flags of the moment.
build() {
  local name=$1 tool=$2 module=$3 attempt done
  if [ -x "$bin/$name" ] && [ "$(cat "$bin/$name.stamp" 2>/dev/null)" = "$stamp" ]; then return 0; fi
  echo "building $name"
  done=no
  # Downloads fail now and then; what was fetched and compiled stays.
  for attempt in 1 2 3; do
    if (cd "$module" && go build -p "${K8S_BUILD_JOBS:-2}" -trimpath -ldflags "$flags" -o "$bin/$name" "$tool"); then
      done=yes
      break
    fi
    echo "attempt $attempt of 3 to build $name failed" >&2
    sleep $((attempt * 3))
  done
  [ "$done" = yes ] || exit 1
  echo "$stamp" >"$bin/$name.stamp"
}

if [ "${1:-all}" != etcd ]; then
  for tool in "${tools[@]}"; do build "${tool##*/}" "$tool" "$here"; done
fi

# Its modules are not those of Kubernetes. Without C, as its makers build it: its image has no library.
export CGO_ENABLED=0
stamp=$(cat "$here/etcd/go.mod" "$here/etcd/go.sum" "$here/build.sh" | sha256sum | cut -d' ' -f1)
flags="-s -w"
build etcd go.etcd.io/etcd/server/v3 "$here/etcd"
build etcdctl go.etcd.io/etcd/etcdctl/v3 "$here/etcd"
build etcdutl go.etcd.io/etcd/etcdutl/v3 "$here/etcd"
