#!/usr/bin/env python3
"""Runs the test binaries that cargo has built, several at a time: ci/run_tests.py CARGO_MESSAGES OPTION...

CARGO_MESSAGES is what `cargo test OPTION... --no-run --message-format=json` printed. The chaos test has a lane of its own: it takes three
minutes whatever runs beside it, and most of them it waits. All other binaries share the machine's cores, the longest first.
A binary's output is printed when it ends. The last lines tell how long each binary took, and how many tests passed.
"""

import json
import os
import re
import subprocess
import sys
import threading
import time

# Wait more than they compute, so they run beside everything else.
WAITING = {"chaos"}
# Started first, in this order: the others fill what is left of their time.
LONG = ["sim", "e2e", "etcd", "tools", "fencing_model"]
# No test binary takes longer, unless it hangs.
LIMIT_SECONDS = 1800
RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed;", re.MULTILINE)


class Binary:
    """A test binary, and what came of it."""

    def __init__(self, name, command, directory):
        self.name = name
        self.command = command
        self.directory = directory
        self.seconds = 0.0
        self.passed = self.failed = 0

    def run(self, printing):
        began = time.monotonic()
        try:
            done = subprocess.run(
                self.command,
                cwd=self.directory,
                env={**os.environ, "CARGO_MANIFEST_DIR": self.directory},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=LIMIT_SECONDS,
            )
            output, status = done.stdout, done.returncode
        except subprocess.TimeoutExpired as hanging:
            output = (hanging.stdout or b"") + f"\n{self.name} did not end within {LIMIT_SECONDS} s\n".encode()
            status = 1
        self.seconds = time.monotonic() - began
        text = output.decode(errors="replace")
        for passed, failed in RESULT.findall(text):
            self.passed += int(passed)
            self.failed += int(failed)
        # A binary that crashes prints no result.
        if status != 0 and self.failed == 0:
            self.failed = 1
        with printing:
            print(f"-- {self.name}", flush=True)
            sys.stdout.write(text)
            sys.stdout.flush()


def built(messages):
    """The test binaries among cargo's messages."""
    binaries = []
    with open(messages, encoding="utf-8") as lines:
        for line in lines:
            message = json.loads(line)
            if message.get("reason") != "compiler-artifact" or not message["profile"]["test"] or not message["executable"]:
                continue
            target = message["target"]
            directory = os.path.dirname(message["manifest_path"])
            name = target["name"]
            if target["kind"] != ["test"]:
                name += f" ({target['kind'][0]})"
            binaries.append(Binary(name, [message["executable"]], directory))
    return binaries


def order(binary):
    return LONG.index(binary.name) if binary.name in LONG else len(LONG)


def run_lane(queue, lock, printing):
    while True:
        with lock:
            if not queue:
                return
            binary = queue.pop(0)
        binary.run(printing)


def main():
    binaries = built(sys.argv[1])
    if not binaries:
        sys.exit("cargo built no test binary")
    doc = Binary("documentation examples", ["cargo", "test", *sys.argv[2:], "--doc", "--quiet"], os.getcwd())
    waiting = [binary for binary in binaries if binary.name in WAITING]
    others = sorted((binary for binary in binaries if binary.name not in WAITING), key=order) + [doc]
    lock, printing = threading.Lock(), threading.Lock()
    lanes = [(others, lock)] * (os.cpu_count() or 1) + [([binary], threading.Lock()) for binary in waiting]
    every = waiting + list(others)
    threads = [threading.Thread(target=run_lane, args=(queue, lock, printing)) for queue, lock in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    print("\nseconds  passed  failed  binary")
    for binary in sorted(every, key=lambda binary: -binary.seconds):
        if binary.seconds >= 1 or binary.failed:
            print(f"{binary.seconds:7.1f}  {binary.passed:6}  {binary.failed:6}  {binary.name}")
    passed = sum(binary.passed for binary in every)
    failed = sum(binary.failed for binary in every)
    print(f"\ntests: {passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
