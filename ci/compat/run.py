#!/usr/bin/env python3
"""Real Kafka clients against a real broker: ci/compat/run.py [--kafka] [NAME...], from the top of the repository.

NAMEs are clients (driver/clients.py), `tools` (driver/tools.py), `streams`, `connect` (driver/frameworks.py), `page` (driver/page.py) or scripts of
this directory; all of them if none is given. --kafka runs the same cases against Apache Kafka, which tells whether the suite
itself is right. --groups runs nothing but the clients' groups whose members come and go (driver/group_runs.py).
"""

import argparse
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from driver import cases, frameworks, group_runs, page, tools  # noqa: E402
from driver.broker import Broker  # noqa: E402
from driver.clients import CLIENTS, Failed, text  # noqa: E402

SCRIPTS = ("produce-consume", "consumer-group")
INSTALL_SECONDS = 900
# What install.sh ends with where a registry did not give what was asked for.
UNFETCHED_STATUS = 75


class Report:
    """One line for each case, and the counts."""

    def __init__(self):
        self.passed = self.skipped = 0
        self.failed = []

    def run(self, name, title, case, broker=None):
        began = time.monotonic()
        try:
            figures = case()
        except cases.Skipped as reason:
            self.skipped += 1
            print(f"skipped  {name}: {title} ({reason})", flush=True)
        except Exception as error:
            self.failed.append(f"{name}: {title}")
            what = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
            print(f"FAILED   {name}: {title}\n{indent(what)}", flush=True)
            if broker is not None:
                state = "the broker's log ends with" if broker.is_alive() else "THE BROKER HAS ENDED; its log"
                print(indent(f"--- {state}:\n{broker.log_tail()}"), flush=True)
        else:
            self.passed += 1
            print(f"passed   {name}: {title} ({time.monotonic() - began:.1f} s)", flush=True)
            if figures:
                print(indent(figures), flush=True)

    def end(self):
        for failure in self.failed:
            print(f"FAILED   {failure}")
        print(f"compat: {self.passed} passed, {len(self.failed)} failed, {self.skipped} skipped")
        return 1 if self.failed else 0


def indent(text):
    return "\n".join("         " + line for line in text.splitlines())


def install(report, piece):
    """Whether the piece is there. One that cannot be fetched is skipped with the reason; our own part of it is a case."""
    installed = False

    def case():
        nonlocal installed
        try:
            done = subprocess.run(
                ["ci/compat/install.sh", piece],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=INSTALL_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise cases.Skipped(f"not installed within {INSTALL_SECONDS} s") from None
        output = text(done.stdout)
        if done.returncode == UNFETCHED_STATUS:
            said = [line for line in output.splitlines() if not line.startswith("attempt ")]
            reason = said[-1] if said else "no output"
            raise cases.Skipped(f"{piece} cannot be fetched, and nothing of it runs: {reason}")
        if done.returncode != 0:
            raise Failed(output)
        installed = True

    report.run(piece, "installs", case)
    return installed


def run_clients(report, suite, clients, hub):
    """The hub writes first, since all others read what it wrote; its own cases count only where it is named."""
    for client in clients:
        if client is not hub and hub.name not in suite.written:
            report.run(hub.name, "writes for the others", lambda: write_all(suite, hub), suite.broker)
        for title, case in cases.of_client(suite, client, hub):
            report.run(client.name, title, case, suite.broker)


def run_groups(report, clients, hub, options):
    """The quickest client writes, if it is there: each round of records is a program of its own."""
    writer = next((client for client in clients if client.name == group_runs.WRITER), hub)
    for client in clients:
        if client.name in group_runs.LEFT_OUT:
            continue
        title = f"a group of up to {options.members} members that join, leave and are killed, for {options.seconds} s"

        def case(client=client):
            return group_runs.run(client, writer, options.seconds, options.members, options.kafka)

        report.run(client.name, title, case)


def write_all(suite, hub):
    for compression in hub.compressions:
        cases.write(suite, hub, compression)


def pieces_of(names):
    """What to install for the names. Readers of what others wrote are taken in their order until one is there."""
    pieces = [client.piece for client in CLIENTS if client.name in names]
    if "tools" in names:
        pieces.append("kafka")
    if any(name in names for name in frameworks.NAMES):
        pieces += ["kafka", "streams"]
    if any(script in names for script in SCRIPTS):
        pieces.append("kcat")
    if page.NAME in names:
        pieces += [page.PIECE, "browser"]
    return list(dict.fromkeys(pieces))


def find_hub(report, installed):
    """The first client that can be had: it reads what all others wrote, and they read what it wrote."""
    for client in CLIENTS:
        if client.groups_only:
            continue
        if client.piece not in installed:
            installed[client.piece] = install(report, client.piece)
        if installed[client.piece]:
            return client
    return None


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--kafka", action="store_true", help="run against Apache Kafka instead")
    arguments.add_argument("--groups", action="store_true", help="of the clients, only groups whose members come and go")
    arguments.add_argument("--seconds", type=int, default=12, help="for which they come and go (12)")
    arguments.add_argument("--members", type=int, default=6, help="of a group at the same time, at most (6)")
    arguments.add_argument("names", nargs="*")
    options = arguments.parse_args()
    known = [client.name for client in CLIENTS] + ["tools", *frameworks.NAMES, page.NAME, *SCRIPTS]
    unknown = [name for name in options.names if name not in known]
    if unknown:
        arguments.error(f"unknown: {' '.join(unknown)}; there are: {' '.join(known)}")
    names = options.names or ([client.name for client in CLIENTS] if options.groups else known)

    report = Report()
    installed = {piece: install(report, piece) for piece in pieces_of(names)}
    clients = [client for client in CLIENTS if client.name in names and installed[client.piece]]
    hub = find_hub(report, installed) if clients else None
    if hub is not None:
        run_groups(report, clients, hub, options)
    if options.groups:
        return report.end()

    broker = Broker(options.kafka)
    try:
        suite = cases.Suite(broker)
        for script in SCRIPTS:
            if script in names and installed["kcat"] and not options.kafka:
                report.run(script, "kcat", lambda s=script: cases.script(suite, s))
        if hub is not None:
            run_clients(report, suite, clients, hub)
        if "tools" in names and installed["kafka"]:
            for name, title, case in tools.all_cases(suite):
                report.run(name, title, case, broker)
        for name, title, case in frameworks.all_cases(suite):
            if name in names and installed["kafka"] and installed["streams"]:
                report.run(name, title, case, broker)
        if page.NAME in names and installed[page.PIECE] and installed["browser"] and not options.kafka:
            report.run(page.NAME, "topics, groups and shards, live, in Chromium", page.follows_what_changes)
    finally:
        status = broker.stop()
    report.run("broker", "ends cleanly on SIGTERM", lambda: ended_cleanly(status), broker)
    return report.end()


def ended_cleanly(status):
    if status != 0:
        raise Failed(f"its exit status is {status}")


if __name__ == "__main__":
    sys.exit(main())
