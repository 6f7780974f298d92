#!/usr/bin/env bash
# Starts etcd, a real API server and its controllers on loopback, with certificates of their own, for as long as the
# command given after the directory runs: ci/k8s/server.sh DIRECTORY COMMAND...
#
# DIRECTORY then has admin.conf (may do everything) and the logs. There is no kubelet: nothing runs the pods.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
bin=$root/.cache/k8s/bin
dir=$1
shift
mkdir -p "$dir"
pids=()

end() {
  trap - EXIT INT TERM
  # The API server waits for etcd when it ends: in the order opposite to the start.
  for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
    kill "${pids[i]}" 2>/dev/null || true
    for _ in $(seq 1 50); do
      kill -0 "${pids[i]}" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL "${pids[i]}" 2>/dev/null || true
  done
  wait 2>/dev/null || true
}
trap end EXIT INT TERM

read -r etcd_client etcd_peer secure controllers < <(python3 -c '
import socket
held = [socket.socket() for _ in range(4)]
for one in held: one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in held))')

# certificate NAME SUBJECT [EXTENSION]: signed by our own authority, for an hour's tests and a day at most.
certificate() {
  openssl req -new -newkey rsa:2048 -nodes -keyout "$dir/$1.key" -out "$dir/$1.csr" -subj "$2" 2>/dev/null
  openssl x509 -req -in "$dir/$1.csr" -CA "$dir/ca.crt" -CAkey "$dir/ca.key" -CAcreateserial -days 1 -out "$dir/$1.crt" \
    -extfile <(echo "${3:-extendedKeyUsage=clientAuth}") 2>/dev/null
}

# kubeconfig NAME: for who has the certificate of that name.
kubeconfig() {
  KUBECONFIG=$dir/$1.conf
  export KUBECONFIG
  "$bin/kubectl" config set-cluster test --server "https://127.0.0.1:$secure" --certificate-authority "$dir/ca.crt" --embed-certs >/dev/null
  "$bin/kubectl" config set-credentials "$1" --client-certificate "$dir/$1.crt" --client-key "$dir/$1.key" --embed-certs >/dev/null
  "$bin/kubectl" config set-context test --cluster test --user "$1" >/dev/null
  "$bin/kubectl" config use-context test >/dev/null
}

openssl req -x509 -newkey rsa:2048 -nodes -keyout "$dir/ca.key" -out "$dir/ca.crt" -subj /CN=kafscale-test-ca -days 1 2>/dev/null
certificate server /CN=kube-apiserver $'subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth'
certificate admin /O=system:masters/CN=admin
# They may do everything: only their own work is needed here, not their accounts.
certificate controllers /O=system:masters/CN=controllers
openssl genrsa -out "$dir/tokens.key" 2048 2>/dev/null

etcd --name k8s --data-dir "$dir/etcd" --log-level error --unsafe-no-fsync \
  --listen-client-urls "http://127.0.0.1:$etcd_client" --advertise-client-urls "http://127.0.0.1:$etcd_client" \
  --listen-peer-urls "http://127.0.0.1:$etcd_peer" --initial-advertise-peer-urls "http://127.0.0.1:$etcd_peer" \
  --initial-cluster "k8s=http://127.0.0.1:$etcd_peer" >"$dir/etcd.log" 2>&1 &
pids+=($!)

"$bin/kube-apiserver" --etcd-servers "http://127.0.0.1:$etcd_client" \
  --bind-address 127.0.0.1 --secure-port "$secure" --advertise-address 127.0.0.1 --endpoint-reconciler-type none \
  --tls-cert-file "$dir/server.crt" --tls-private-key-file "$dir/server.key" --client-ca-file "$dir/ca.crt" \
  --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$dir/tokens.key" \
  --service-account-signing-key-file "$dir/tokens.key" --service-cluster-ip-range 10.0.0.0/16 \
  --authorization-mode RBAC >"$dir/apiserver.log" 2>&1 &
pids+=($!)

kubeconfig controllers
"$bin/kube-controller-manager" --kubeconfig "$dir/controllers.conf" --bind-address 127.0.0.1 --secure-port "$controllers" \
  --cert-dir "$dir/controllers-certs" --leader-elect=false --use-service-account-credentials=false \
  --controllers statefulset-controller,garbage-collector-controller,namespace-controller,disruption-controller \
  >"$dir/controllers.log" 2>&1 &
pids+=($!)

kubeconfig admin
for _ in $(seq 1 600); do
  "$bin/kubectl" get --raw /readyz >/dev/null 2>&1 && break
  kill -0 "${pids[1]}" 2>/dev/null || break
  sleep 0.2
done
"$bin/kubectl" get --raw /readyz >/dev/null || { tail -n 30 "$dir/apiserver.log" >&2; exit 1; }

status=0
"$@" || status=$?
# What runs the pods' owners must have run to the end, or nothing was shown.
for pid in "${pids[@]}"; do
  kill -0 "$pid" 2>/dev/null || { echo "a server ended during the tests; see $dir" >&2; status=1; }
done
exit "$status"
