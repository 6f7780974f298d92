#!/usr/bin/env bash
# `make images`: the Dockerfile is linted and built with stand-ins for its bases, and the images are looked at and run as
# k8s/images/compose.yaml says, with podman, where no registry of images can be reached.
#
# Needs root, as networks of containers do. Everything is in .cache/images, apart from other images of this machine: some
# gigabytes, which can be deleted. The first run takes twenty minutes, one without changes a minute. Ports 9092 and 9093
# of loopback must be free.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "run this as root" >&2; exit 1; }
state=$PWD/.cache/images
dockerfile=k8s/images/Dockerfile
version=$(sed -nE 's/^version = "(.*)"/\1/p' Cargo.toml | head -n 1)
mkdir -p "$state/cargo"
exec 9>"$state/lock"
flock -n 9 || { echo "make images runs already" >&2; exit 1; }

retry() {
  local attempt
  for attempt in 1 2 3; do
    "$@" && return 0
    echo "attempt $attempt of 3 failed: $*" >&2
    sleep $((attempt * 3))
  done
  return 1
}

# runc is what Docker runs containers with.
need_packages=()
for package in podman:podman runc:runc aardvark-dns:/usr/lib/podman/aardvark-dns netavark:/usr/lib/podman/netavark \
  iptables:iptables mmdebstrap:mmdebstrap kcat:kcat binutils:objcopy python3-venv:/usr/share/doc/python3-venv; do
  command -v "${package#*:}" >/dev/null || [ -e "${package#*:}" ] || need_packages+=("${package%%:*}")
done
apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
if [ ${#need_packages[@]} -gt 0 ]; then
  retry "${apt[@]}" update
  retry "${apt[@]}" install -y --no-install-recommends "${need_packages[@]}"
fi
ci/install.sh build
if ! cmp -s ci/images/requirements.txt "$state/python/requirements.txt"; then
  python3 -m venv --clear "$state/python"
  retry "$state/python/bin/pip" install --quiet --disable-pip-version-check -r ci/images/requirements.txt
  cp ci/images/requirements.txt "$state/python/"
fi
# Only the file: the package would start a server.
if ! [ -x "$state/prometheus/usr/bin/promtool" ]; then
  rm -rf "$state/prometheus"
  mkdir "$state/prometheus"
  retry "${apt[@]}" update
  (cd "$state/prometheus" && retry "${apt[@]}" -o APT::Sandbox::User=root download prometheus)
  dpkg -x "$state"/prometheus/prometheus_*.deb "$state/prometheus"
fi

# Limits: podman asks for more than a machine may give, and conmon has lowered the number of processes.
cat >"$state/containers.conf" <<EOF
[containers]
default_ulimits = ["nofile=$(ulimit -Hn):$(ulimit -Hn)", "nproc=16384:16384"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
network_config_dir = "$state/networks"
EOF
cat >"$state/storage.conf" <<EOF
[storage]
driver = "overlay"
graphroot = "$state/storage"
runroot = "/run/kafscale-images"
EOF
echo 'unqualified-search-registries = ["docker.io"]' >"$state/registries.conf"
export CONTAINERS_CONF=$state/containers.conf CONTAINERS_STORAGE_CONF=$state/storage.conf
export CONTAINERS_REGISTRIES_CONF=$state/registries.conf
export PATH=$state/python/bin:$state/prometheus/usr/bin:$PATH

echo "== bases"
ci/images/bases.sh "$dockerfile"

# What is fetched stays, and the build trusts the authorities that this machine trusts.
echo "== build"
mounts=(--volume "$state/cargo:/usr/local/cargo/registry")
trusted=/etc/ssl/certs/ca-certificates.crt
if [ -e "$trusted" ]; then mounts+=(--volume "$trusted:$trusted:ro"); fi
for target in broker operator test-s3; do
  timeout 3600 podman build --pull=never --network host "${mounts[@]}" -f "$dockerfile" --target "$target" \
    -t "kafscale-$target:$version" . >"$state/build-$target.log" 2>&1 || { tail -n 40 "$state/build-$target.log" >&2; exit 1; }
  echo "kafscale-$target:$version is built"
done

"$state/python/bin/python3" ci/images/check.py "$version"
