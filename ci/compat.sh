#!/usr/bin/env bash
# `make compat`: real Kafka clients against a real broker. `ci/compat.sh NAME...` runs only those of ci/compat/.
set -euo pipefail
cd "$(dirname "$0")/.."
if grep -q '^fn main() {}' broker/src/main.rs; then
  echo "SKIPPED: no client is driven yet, the broker does not serve."
  exit 0
fi
ci/install.sh compat
cargo build --release --locked -p kafscale-broker
if [ $# = 0 ]; then
  for script in ci/compat/*.sh; do set -- "$@" "$(basename "$script" .sh)"; done
fi
failed=()
for name in "$@"; do
  echo "== compat: $name"
  if "ci/compat/$name.sh"; then echo "   $name: passed"; else failed+=("$name"); fi
done
echo
echo "compat: $(($# - ${#failed[@]})) passed, ${#failed[@]} failed${failed[*]:+: ${failed[*]}}"
[ ${#failed[@]} = 0 ]
