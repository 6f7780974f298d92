#!/usr/bin/env python3
"""Instructions of pieces of the hot path against a committed baseline: ci/bench_check.py [--update] [NAME...]

Instructions do not depend on how busy the machine is. Each piece (bench/micro/src/lib.rs) runs under callgrind TIMES times
and twice as often; the difference is what the work takes, without what prepares it. A piece fails if it takes more than
TOLERANCE more than bench/micro/instructions.json says. It also fails if it takes that much less: then --update writes the gain
down, and it is kept. Another compiler, C library or processor counts otherwise; the baseline says which ones it is from.
"""

import argparse
import json
import os
import pathlib
import platform
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BASELINE = ROOT / "bench/micro/instructions.json"
TOLERANCE = 0.02
TIMES = 20
SECONDS_MAX = 300


def build() -> pathlib.Path:
    """Builds the program, and says where it is."""
    subprocess.run(["cargo", "build", "--release", "--locked", "-p", "kafscale-bench-micro"], cwd=ROOT, check=True)
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/kafscale-instructions"


def instructions(program: pathlib.Path, name: str, times: int) -> int:
    """What callgrind counts for the whole program."""
    words = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", str(program), name, str(times)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS_MAX)
    counted = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not counted:
        sys.exit(f"{' '.join(words)}: {done.stderr[-2000:]}")
    return int(counted.group(1))


def made_by() -> dict[str, str]:
    """What the counts depend on besides the code."""
    rustc = subprocess.run(["rustc", "--version"], cwd=ROOT, capture_output=True, text=True, check=True)
    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return {
        "rustc": rustc.stdout.strip(),
        "libc": " ".join(platform.libc_ver()),
        "processor": model.group(1) if model else platform.machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="writes the baseline instead of comparing with it")
    parser.add_argument("names", nargs="*", help="only these pieces")
    arguments = parser.parse_args()
    program = build()
    known = subprocess.run([program], capture_output=True, text=True, check=True, timeout=60).stdout.split()
    baseline = json.loads(BASELINE.read_text()) if BASELINE.exists() else {"made_by": {}, "instructions": {}}
    if not arguments.update and baseline["made_by"] != made_by():
        print(f"note: the baseline was made by {baseline['made_by']}, this is {made_by()}")
    counts: dict[str, int] = {}
    failed = []
    for name in arguments.names or known:
        once, twice = (instructions(program, name, times) for times in (TIMES, 2 * TIMES))
        counts[name] = (twice - once) // TIMES
        before = baseline["instructions"].get(name)
        change = f"{counts[name] / before - 1:+.1%}" if before else "new"
        print(f"{name:<32} {counts[name]:>12,} {change:>8}", flush=True)
        if not before or abs(counts[name] / before - 1) > TOLERANCE:
            failed.append(name)
    if arguments.update:
        kept = {name: count for name, count in (baseline["instructions"] | counts).items() if name in known}
        BASELINE.write_text(json.dumps({"made_by": made_by(), "instructions": kept}, indent=2) + "\n")
        return
    if not arguments.names:
        failed += [f"{name} (gone)" for name in baseline["instructions"] if name not in known]
    if failed:
        sys.exit(f"not as in {BASELINE.relative_to(ROOT)}: {', '.join(failed)}")


main()
