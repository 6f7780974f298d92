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
passed=0
skipped=0
failed=()
for name in "$@"; do
  echo "== compat: $name"
  status=0
  "ci/compat/$name.sh" || status=$?
  case $status in
    0) passed=$((passed + 1)) && echo "   $name: passed" ;;
    77) skipped=$((skipped + 1)) ;; # The script has said why.
    *) failed+=("$name") ;;
  esac
done
echo
echo "compat: $passed passed, $skipped skipped, ${#failed[@]} failed${failed[*]:+: ${failed[*]}}"
[ ${#failed[@]} = 0 ]
