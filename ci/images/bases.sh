#!/usr/bin/env bash
# Makes local images under the names of the Dockerfile's bases, for machines that reach no registry of images: bases.sh DOCKERFILE.
# See ci/images.sh, which says where they are kept.
#
# Each has what the real one has as far as ours can tell: Debian's packages, this machine's Rust, and an etcd from its source.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=$(cd "$here/../.." && pwd)/.cache
dockerfile=$1

# What FROM lines name and no stage is.
named=$(sed -nE 's/^FROM ([^ ]+).*/\1/p' "$dockerfile" | sort -u)
stages=$(sed -nE 's/^FROM .* AS ([^ ]+)$/\1/p' "$dockerfile")
bases=$(grep -vxF "$stages" <<<"$named")

# base PATTERN: the one of that form.
base() {
  local names
  names=$(grep -E "$1" <<<"$bases") || true
  [ -n "$names" ] && [ "$(wc -l <<<"$names")" = 1 ] || { echo "the Dockerfile has no base or several like $1: $names" >&2; exit 1; }
  echo "$names"
}
rust=$(base '^rust:[0-9.]+-bookworm$')
distroless=$(base '^gcr\.io/distroless/cc-debian12:nonroot$')
etcd=$(base '^gcr\.io/etcd-development/etcd:v[0-9.]+$')
[ "$(wc -l <<<"$bases")" = 3 ] || { echo "the Dockerfile has a base that nobody makes here" >&2; exit 1; }

# They are made again when what makes them changes, or what goes into them.
grep -qF "go.etcd.io/etcd/server/v3 ${etcd##*:} " "$here/../k8s/etcd/go.mod" || { echo "$etcd is not the version in ci/k8s/etcd/go.mod" >&2; exit 1; }
version=${rust#rust:}
case "$(rustc --version)" in
  "rustc ${version%-bookworm}".* | "rustc ${version%-bookworm} "*) ;;
  *) echo "$rust is not the version of this machine: $(rustc --version)" >&2; exit 1 ;;
esac
stamp=$({ cat "$here/bases.sh" "$here/../k8s/etcd/go.sum"; rustc --version; } | sha256sum | cut -d' ' -f1)

made=$cache/images/bases.stamp
if [ "$(cat "$made" 2>/dev/null)" = "$stamp" ] && podman image exists "$rust" && podman image exists "$distroless" && podman image exists "$etcd"; then
  exit 0
fi

"$here/../k8s/build.sh" etcd
dir=$(mktemp -d -p "$cache" bases.XXXXXX)
trap 'rm -rf "$dir"' EXIT

# import DIRECTORY NAME SETTING...: the directory as an image.
import() {
  local from=$1 name=$2 settings=() setting
  shift 2
  for setting in "$@"; do settings+=(--change "$setting"); done
  echo "importing $name"
  tar -C "$from" -c . | podman import --quiet "${settings[@]}" - "$name" >/dev/null
}

echo "building Debian"
shared=(base-files netbase tzdata media-types libc6 libssl3 libgcc-s1 libgomp1 libstdc++6 ca-certificates)
tools=(gcc g++ make libc6-dev curl git pkg-config)
for attempt in 1 2 3; do
  if mmdebstrap --quiet --variant=apt --include="$(IFS=,; echo "${shared[*]} ${tools[*]}" | tr ' ' ,)" bookworm "$dir/debian"; then break; fi
  echo "attempt $attempt of 3 to build Debian failed" >&2
  rm -rf "$dir/debian"
  sleep $((attempt * 3))
done
[ -d "$dir/debian" ] || { echo "Debian could not be built" >&2; exit 1; }

# Distroless: the files of its packages and nothing of what they depend on, so there is no shell.
mkdir -p "$dir"/distroless/usr/{bin,sbin,lib,lib64} "$dir/distroless/etc"
{ chroot "$dir/debian" dpkg -L "${shared[@]}"; echo /etc/ssl/certs/ca-certificates.crt; } |
  sed -n 's|^/||p' | grep -vE '^\.?$|^usr/sbin/' | sort -u >"$dir/files"
tar -C "$dir/debian" --no-recursion -c --files-from "$dir/files" | tar -C "$dir/distroless" -x --keep-directory-symlink
cat >"$dir/distroless/etc/passwd" <<EOF
root:x:0:0:root:/root:/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin
nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin
EOF
printf 'root:x:0:\nnobody:x:65534:\nnonroot:x:65532:\n' >"$dir/distroless/etc/group"
install -d -o 65532 -g 65532 -m 700 "$dir/distroless/home/nonroot"
import "$dir/distroless" "$distroless" USER=65532 WORKDIR=/home/nonroot ENV=SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt

mkdir -p "$dir"/etcd/usr/local/bin "$dir"/etcd/etc "$dir"/etcd/var/lib/etcd
cp "$cache"/k8s/bin/{etcd,etcdctl,etcdutl} "$dir/etcd/usr/local/bin/"
cp "$dir"/distroless/etc/{passwd,group} "$dir/etcd/etc/"
import "$dir/etcd" "$etcd" CMD=/usr/local/bin/etcd

# As the real one has it: without formatter, lints and documentation.
mkdir -p "$dir"/debian/usr/local/rust "$dir"/debian/usr/local/cargo/bin
tar -C "$(rustc --print sysroot)" -c bin/cargo bin/rustc bin/rustdoc lib | tar -C "$dir/debian/usr/local/rust" -x
for tool in cargo rustc rustdoc; do ln -s "../../rust/bin/$tool" "$dir/debian/usr/local/cargo/bin/$tool"; done
import "$dir/debian" "docker.io/library/$rust" ENV=CARGO_HOME=/usr/local/cargo \
  ENV=PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
echo "$stamp" >"$made"
