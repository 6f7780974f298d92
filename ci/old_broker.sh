#!/usr/bin/env bash
# Builds the broker of another commit and prints where it is: CHAOS_OLD_BROKER=$(ci/old_broker.sh COMMIT) make chaos
set -euo pipefail
cd "$(dirname "$0")/.."
commit=$(git rev-parse --verify "${1:?usage: ci/old_broker.sh COMMIT}^{commit}")
place="$PWD/.cache/old-broker/$commit"
if [ ! -x "$place/kafscale-broker" ]; then
    mkdir -p "$place"
    # What an interrupted run has left.
    git worktree remove --force "$place/source" >&2 2>/dev/null || rm -rf "$place/source"
    git worktree prune >&2
    git worktree add --detach --force "$place/source" "$commit" >&2
    trap 'git worktree remove --force "$place/source" >&2' EXIT
    (cd "$place/source" && CARGO_TARGET_DIR="$place/target" cargo build --release --locked -p kafscale-broker >&2)
    cp "$place/target/release/kafscale-broker" "$place/"
    rm -rf "$place/target"
fi
echo "$place/kafscale-broker"
