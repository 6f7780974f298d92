#!/usr/bin/env bash
# Installs the clients of the suite, skipping what is there: ci/compat/install.sh [PIECE...], all pieces if none is named.
# Pieces: kcat confluent kafka-python-2.0 kafka-python java kafka streams go node browser; and, which only benchmarks need and
# nobody gets who does not name it: rdkafka tansu.
#
# Packages of the system come from apt; all else goes below .cache/compat, with a stamp of what it was made from. It ends
# with 75 where something could not be fetched, and with another status where our own part is at fault.
set -euo pipefail
unfetched=75
cd "$(dirname "$0")/../.."
here=$PWD/ci/compat
cache=$PWD/.cache/compat
mkdir -p "$cache"

retry() {
  local attempt
  for attempt in 1 2 3 4 5; do
    "$@" && return 0
    echo "attempt $attempt of 5 failed: $*" >&2
    sleep $((attempt * 3))
  done
  return $unfetched
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# packages COMMAND PACKAGE...: installs the packages unless the command is there.
packages() {
  local command=$1
  shift
  if command -v "$command" >/dev/null; then return 0; fi
  echo "installing $*"
  retry as_root apt-get update -qq
  retry as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >/dev/null
}

# made NAME FILE...: whether .cache/compat/NAME was made from these very files; else it has to be made again.
made() {
  local name=$1
  shift
  wanted=$(cat "$@" | sha256sum)
  [ "$(cat "$cache/$name.stamp" 2>/dev/null)" = "$wanted" ]
}

stamp() { echo "$wanted" >"$cache/$1.stamp"; }

# venv NAME: a virtual environment with the packages of python/NAME.txt.
venv() {
  packages python3 python3 python3-venv python3-pip
  if made "$1" "$here/python/$1.txt" && "$cache/$1/bin/python" -c '' 2>/dev/null; then return 0; fi
  echo "installing $1"
  rm -rf "${cache:?}/$1"
  if ! python3 -m venv "$cache/$1" 2>/dev/null; then # Debian keeps venv in a package of its own.
    retry as_root apt-get update -qq
    retry as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
    python3 -m venv "$cache/$1"
  fi
  retry "$cache/$1/bin/python" -m pip install -q --disable-pip-version-check -r "$here/python/$1.txt"
  stamp "$1"
}

# The jars of all Java pieces are fetched together.
jars() {
  packages javac default-jdk-headless
  packages mvn maven
  if made jars "$here"/java/pom.xml "$here"/java/*/pom.xml; then return 0; fi
  echo "fetching jars"
  rm -rf "${cache:?}/java"
  retry mvn -B -q -ntp -f "$here/java/pom.xml" "-Dmaven.repo.local=$cache/m2" "-Dlibs=$cache/java" package
  stamp jars
}

java_piece() {
  jars
  if made classes "$here/java/Compat.java" "$cache/jars.stamp"; then return 0; fi
  echo "compiling Compat.java"
  local generation
  for generation in 3 4; do
    rm -rf "${cache:?}/classes-$generation"
    javac -Xlint:all,-classfile,-processing -d "$cache/classes-$generation" -cp "$cache/java/clients-$generation/*" "$here/java/Compat.java"
  done
  stamp classes
}

streams_piece() {
  jars
  if made streams "$here/java/WordCount.java" "$cache/jars.stamp"; then return 0; fi
  echo "compiling WordCount.java"
  rm -rf "${cache:?}/streams"
  javac -Xlint:all,-classfile,-processing -d "$cache/streams" -cp "$cache/java/streams/*" "$here/java/WordCount.java"
  stamp streams
}

go_piece() {
  packages go golang-go
  if made go "$here"/go/go.mod "$here"/go/go.sum "$here"/go/*/*.go "$here"/go/*/*/*.go; then return 0; fi
  echo "building the Go clients"
  (cd "$here/go" && retry go mod download && go vet ./... && go build -o "$cache/go/" ./cmd/...)
  stamp go
}

# node_packages NAME: the packages that NAME/package-lock.json pins.
node_packages() {
  packages node nodejs npm
  packages npm npm
  if made "$1" "$here/$1/package.json" "$here/$1/package-lock.json"; then return 0; fi
  echo "installing packages for $1"
  mkdir -p "$cache/$1"
  cp "$here/$1/package.json" "$here/$1/package-lock.json" "$cache/$1/"
  (cd "$cache/$1" && retry npm ci --silent --no-audit --no-fund --ignore-scripts)
  stamp "$1"
}

browser_piece() {
  packages chromium chromium
  node_packages browser
}

# librdkafka's performance tool, which Debian does not have: from the sources that the crate rdkafka-sys carries, against
# Debian's library.
rdkafka_piece() {
  local name=$here/rdkafka sources
  packages cc build-essential
  if [ ! -e /usr/include/librdkafka/rdkafka.h ]; then
    echo "installing librdkafka-dev"
    retry as_root apt-get update -qq
    retry as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq librdkafka-dev >/dev/null
  fi
  if made rdkafka "$name/Cargo.toml" "$name/Cargo.lock"; then return 0; fi
  echo "building rdkafka_performance"
  rm -rf "${cache:?}/rdkafka"
  mkdir -p "$cache/rdkafka"
  retry cargo vendor -q --locked --manifest-path "$name/Cargo.toml" "$cache/rdkafka/vendor" >/dev/null
  sources=$cache/rdkafka/vendor/rdkafka-sys/librdkafka
  # It writes the config.h that the example includes; the library of these sources is not built.
  (cd "$sources" && ./configure --disable-ssl --disable-gssapi --disable-curl >/dev/null)
  cc -O2 -I /usr/include/librdkafka -I "$sources/src" -o "$cache/rdkafka/rdkafka_performance" \
    "$sources/examples/rdkafka_performance.c" -lrdkafka
  rm -rf "$cache/rdkafka/vendor"
  stamp rdkafka
}

# Another Kafka-compatible broker.
tansu_piece() {
  local version=0.6.0
  if [ "$(cat "$cache/tansu.stamp" 2>/dev/null)" = "$version" ]; then return 0; fi
  echo "building tansu, which takes a while"
  retry cargo install --quiet --locked --version "$version" --no-default-features --features dynostore --root "$cache/tansu" tansu
  echo "$version" >"$cache/tansu.stamp"
}

if [ $# = 0 ]; then set -- kcat confluent kafka-python-2.0 kafka-python java kafka streams go node browser; fi
for piece in "$@"; do
  case $piece in
    kcat) packages kcat kcat ;;
    confluent | kafka-python-2.0 | kafka-python) venv "$piece" ;;
    java) java_piece ;;
    kafka) jars ;;
    streams) streams_piece ;;
    go) go_piece ;;
    node) node_packages node ;;
    browser) browser_piece ;;
    rdkafka) rdkafka_piece ;;
    tansu) tansu_piece ;;
    *) echo "unknown piece: $piece" >&2; exit 2 ;;
  esac
done
