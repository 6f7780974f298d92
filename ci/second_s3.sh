#!/usr/bin/env bash
# `make second-s3`: the object store and a broker against an S3 server that is not ours: SeaweedFS.
#
# Go builds it once, from its source, into .cache/second-s3. It listens on loopback only and keeps everything in a directory
# that goes away. The broker is killed ROUNDS times (10).
set -euo pipefail
cd "$(dirname "$0")/.."
module=github.com/seaweedfs/seaweedfs
version=v0.0.0-20261109003541-7506e5f91cd6
weed=$PWD/.cache/second-s3/weed-$version

# In its own module: it replaces a dependency, and `go install` refuses such modules.
build() {
  local source
  source=$(go mod download -json "$module@$version" | sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p') &&
    [ -n "$source" ] &&
    mkdir -p "${weed%/*}" &&
    (cd "$source" && go build -mod=readonly -buildvcs=false -o "$weed.new" ./weed) &&
    mv "$weed.new" "$weed"
}

if ! [ -x "$weed" ]; then
  command -v go >/dev/null || { echo "SeaweedFS is built with Go (1.26 or later): install it first" >&2; exit 1; }
  for attempt in 1 2 3; do
    if build; then break; fi
    echo "attempt $attempt of 3 to build SeaweedFS failed" >&2
    sleep $((attempt * 3))
  done
  [ -x "$weed" ]
fi
ci/install.sh test

dir=$(mktemp -d)
pid=
end() {
  trap - EXIT
  if [ -n "$pid" ]; then
    # Nothing of it is needed again.
    kill -9 "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  fi
  rm -rf "$dir"
}
trap end EXIT
trap 'exit 1' INT TERM

export TEST_S3_BUCKET=records TEST_S3_ACCESS_KEY=test TEST_S3_SECRET_KEY=secret
cat >"$dir/s3.json" <<EOF
{"identities": [{"name": "test", "actions": ["Admin", "Read", "List", "Tagging", "Write"],
  "credentials": [{"accessKey": "$TEST_S3_ACCESS_KEY", "secretKey": "$TEST_S3_SECRET_KEY"}]}]}
EOF
port=$((20000 + RANDOM % 10000))
export TEST_S3_ENDPOINT=http://127.0.0.1:$port
mkdir "$dir/data"
(
  cd "$dir"
  # Its telemetry goes to a host of its makers; some of its settings are looked for in HOME.
  HOME=$dir exec "$weed" -logtostderr=true server -dir="$dir/data" -ip=127.0.0.1 -ip.bind=127.0.0.1 \
    -master.telemetry=false -master.volumeSizeLimitMB=1024 -volume.max=100 \
    -master.port=$((port + 1)) -master.port.grpc=$((port + 2)) -volume.port=$((port + 3)) -volume.port.grpc=$((port + 4)) \
    -filer=true -filer.port=$((port + 5)) -filer.port.grpc=$((port + 6)) -filer.localSocket="$dir/filer.sock" \
    -s3=true -s3.port="$port" -s3.port.grpc=$((port + 7)) -s3.port.iceberg=0 -s3.port.lance=0 -s3.localSocket="$dir/s3.sock" \
    -s3.config="$dir/s3.json" -s3.allowBackslashInKey=true
) >"$dir/log" 2>&1 &
pid=$!

create_bucket() {
  curl -fsS --max-time 5 -X PUT --aws-sigv4 aws:amz:us-east-1:s3 --user "$TEST_S3_ACCESS_KEY:$TEST_S3_SECRET_KEY" \
    "$TEST_S3_ENDPOINT/$TEST_S3_BUCKET"
}
for _ in $(seq 1 120); do
  if create_bucket 2>"$dir/curl" || ! kill -0 "$pid" 2>/dev/null; then break; fi
  sleep 0.5
done
if ! kill -0 "$pid" 2>/dev/null || [ -s "$dir/curl" ]; then
  echo "SeaweedFS did not start, or makes no bucket; it and curl say:" >&2
  tail -n 40 "$dir/log" "$dir/curl" >&2
  exit 1
fi
"$weed" version

# Runs the ignored tests whose names begin so. That there are none is a failure, too.
run_tests() {
  local name=$1
  shift
  if ! cargo test --locked "$@" -- --ignored --nocapture "$name" 2>&1 | tee "$dir/tests" ||
    ! grep -q '^test result: ok\. [1-9]' "$dir/tests"; then
    echo "FAILED: $name; the end of SeaweedFS's log:" >&2
    tail -n 20 "$dir/log" >&2
    exit 1
  fi
}
run_tests object_store::s3::tests::elsewhere -p kafscale-storage-engine --lib
KAFSCALE_KILL_ROUNDS=${ROUNDS:-10} run_tests kill::elsewhere -p kafscale-broker --test e2e
