# shellcheck shell=bash
# Sourced by scripts that print where their time went: step NAME COMMAND..., and print_times at the end.

step_times=()

# Runs the command, prints its name before and remembers the seconds that it took.
step() {
  local name=$1 began=$SECONDS status=0
  shift
  echo "== $name" >&2
  "$@" || status=$?
  step_times+=("$(printf '%6d s  %s' $((SECONDS - began)) "$name")")
  return "$status"
}

print_times() {
  printf '%s\n' "${step_times[@]}"
}
