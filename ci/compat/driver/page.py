"""The status page in a real browser: what it shows is what is there, and it follows what changes."""

import json
import os
import queue
import shutil
import subprocess
import threading
import time

from .broker import Broker
from .clients import CACHE, CLIENTS, PROGRAMS, Failed, text, wait_until
from .group_runs import Load

NAME = "page"
PARTITIONS = 12
SECONDS = 60
# Which client writes, and which one reads.
CLIENT = "franz-go"
PIECE = next(client.piece for client in CLIENTS if client.name == CLIENT)
# Names of groups may be anything; none of it may become part of the page.
GROUP = '<img src=x onerror="document.title=1">/100% ä'


class Browser:
    """Headless Chromium with one page open."""

    def __init__(self, url):
        self.url = url
        self._answers = queue.Queue()
        self._errors = []
        self.process = subprocess.Popen(
            ["node", f"{PROGRAMS}/browser/page.js"],
            env={**os.environ, "COMPAT_NODE_MODULES": f"{CACHE}/browser", "CHROMIUM": shutil.which("chromium")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for stream, put in ((self.process.stdout, self._answers.put), (self.process.stderr, self._errors.append)):
            threading.Thread(target=self._keep, args=(stream, put), daemon=True).start()

    @staticmethod
    def _keep(stream, put):
        for line in stream:
            put(line)

    def do(self, **command):
        """Carries a command out. Gives what the page shows then."""
        self.process.stdin.write((json.dumps(command) + "\n").encode())
        self.process.stdin.flush()
        try:
            shown = json.loads(self._answers.get(timeout=SECONDS))
        except queue.Empty:
            raise Failed(f"the browser does not answer to {command}\n{text(b''.join(self._errors))}") from None
        if shown["errors"]:
            raise Failed(f"errors in the browser: {shown['errors']}")
        if shown["title"] != "Kafscale":
            raise Failed(f"the page's title has become {shown['title']}")
        return shown

    def go(self, path):
        return self.do(go=f"{self.url}{path}")

    def wait(self, what, condition):
        """Looks until the condition holds for what is shown, without loading anything again."""
        until = time.monotonic() + SECONDS
        while True:
            shown = self.do(look=True)
            if condition(shown):
                return shown
            if time.monotonic() > until:
                raise Failed(f"not within {SECONDS} s: {what}; the page shows {json.dumps(shown, ensure_ascii=False)}")
            time.sleep(0.2)

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def rows(shown, table):
    return shown["tables"].get(table, [])


def number(shown):
    """A number as the page writes it."""
    return int(shown.replace(",", ""))


def follows_what_changes():
    client = next(client for client in CLIENTS if client.name == CLIENT)
    broker = Broker(False, PARTITIONS)
    members, load, browser = [], None, None
    try:
        load = Load(client, broker.bootstrap, "page-load")
        client.write(broker.bootstrap, "page-other", "none", [[] for _ in range(PARTITIONS - 1)] + [one_record()])
        browser = Browser(f"http://{broker.http}")
        check_overview(browser)
        check_topics(browser)
        for _ in range(2):
            members.append(client.join(broker.bootstrap, GROUP, ["page-load"]))
        check_group(browser, members, load)
    except Failed as failure:
        raise Failed(f"{failure}\n--- the broker's log ends with:\n{broker.log_tail()}") from None
    finally:
        if load is not None:
            load.stop()
        for member in members:
            member.kill()
        if browser is not None:
            browser.close()
        broker.stop()


def one_record():
    return [{"partition": PARTITIONS - 1, "timestamp": 1, "key": None, "value": "YQ==", "headers": []}]


def check_overview(browser):
    browser.go("/")
    shown = browser.wait("two topics and their traffic", lambda shown: shown["figures"].get("Topics") == "2")
    shards = rows(shown, "shards")
    if sum(number(shard["Partitions"]) for shard in shards) != 2 * PARTITIONS:
        raise Failed(f"the shards own {shards}")
    browser.wait("load on a shard", lambda shown: any(shard["Load"] != "0 %" for shard in rows(shown, "shards")))
    browser.wait("records that come in", lambda shown: shown["figures"]["Records in/s"] != "0")


def check_topics(browser):
    browser.do(click="Topics")

    def named(shown, *names):
        return [topic["Topic"] for topic in rows(shown, "topics")] == list(names)

    first = browser.wait("both topics", lambda shown: named(shown, "page-load", "page-other"))
    offsets = number(rows(first, "topics")[0]["Offsets"])
    browser.wait("more records", lambda shown: number(rows(shown, "topics")[0]["Offsets"]) > offsets)
    browser.do(type="other")
    browser.wait("one topic that matches", lambda shown: named(shown, "page-other"))
    browser.do(click="page-other")
    shown = browser.wait("its partitions", lambda shown: len(rows(shown, "partitions")) == PARTITIONS)
    ends = [partition["End"] for partition in rows(shown, "partitions")]
    if ends != ["0"] * (PARTITIONS - 1) + ["1"]:
        raise Failed(f"page-other ends at {ends}")


def check_group(browser, members, load):
    wait_until(members, lambda: all(member.records for member in members), SECONDS, "both members read")
    browser.do(click="Groups")
    shown = browser.wait("the group", lambda shown: rows(shown, "groups"))
    group = rows(shown, "groups")[0]
    if (group["Group"], group["Type"]) != (GROUP, "classic"):
        raise Failed(f"the group is shown as {group}")
    browser.do(click=GROUP)
    shown = browser.wait("its members", lambda shown: len(rows(shown, "members")) == 2)
    if shown["heading"] != f"Group {GROUP}":
        raise Failed(f"the heading is {shown['heading']}")

    def is_read_by(shown, count):
        readers = [partition["Member"] for partition in rows(shown, "assignment")]
        ids = {member["Member"] for member in rows(shown, "members")}
        return len(readers) == PARTITIONS and len(set(readers)) == count and set(readers) == ids

    browser.wait("each partition's reader", lambda shown: is_read_by(shown, 2))
    members.pop().leave()
    browser.wait("one reader of all partitions", lambda shown: is_read_by(shown, 1))
    load.stop()
    browser.wait("no lag", lambda shown: rows(shown, "group") and rows(shown, "group")[0]["Lag"] == "0")
    if picture := os.environ.get("PICTURE"):
        browser.do(picture=picture)
