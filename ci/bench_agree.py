#!/usr/bin/env python3
"""Whether kafscale-bench and kafka-producer-perf-test measure the same: ci/bench_agree.py --help.

Both put the same load on one broker, in turns: one producer with one connection, one partition, idempotent, acks=all, records
of 1 KiB, batches of 16 KiB (15 records), linger 5 ms, five requests on their way. Once on a schedule, once as fast as it goes.
Printed are the medians of all turns, and the ratio of the throughputs; it ends with 1 if that is further from 1 than --tolerance.

The warm-up of both is not counted. For Kafka's tool it ends when so many records were handed over (--warmup-records), not when
they were acknowledged: with its usual 32 MiB of buffer, time that counts would go to records that do not. So as fast as it goes it
gets the room of 16 batches, which keeps five requests on their way as well.

Latencies differ by what they are from, and are printed without a verdict:

  on a schedule      kafscale-bench counts from when a record was due. Kafka's tool counts from the call to send, and its sends
                     come in bursts, since it sleeps for whole milliseconds and then makes up for it: a broker that stalls is not
                     charged for the records that its full buffer kept from being sent.
  as fast as it goes kafscale-bench counts from the write of a request, as it makes the next batch when there is room for it. In
                     Kafka's tool records wait in its buffer first, so that its latency is about the 16 batches divided by the
                     throughput, where ours is five.

The default is this broker on S3, where the time of a put decides how fast one connection goes. Where the cores decide, the two
differ as fast as they go, by more the fewer cores there are: Kafka's tool needs several times the CPU of kafscale-bench, and takes
it from the broker. Where the disk decides (a sync of 15 KiB five times on its way), it may change from one run to the next.

Needs what ci/compat/install.sh has for Kafka (it installs it), and a release build.
"""

import argparse
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile

import bench_compare
from bench_compare import BROKERS, RECORD_BYTES, ROOT, Broker, Figures, bench, java_command, java_figures, java_summaries, tool

BATCH_BYTES = 16_384
# What of records of 1 KiB fits into such a batch with all that is around them.
RECORDS_A_BATCH = 15
LINGER_MS = 5
IN_FLIGHT = 5
BUFFER_BYTES = 16 * BATCH_BYTES
FIGURES = [
    ("MB/s", "bytes_per_s", 1e6),
    ("p50 ms", "publish_p50_ms", 1),
    ("p99 ms", "publish_p99_ms", 1),
    ("p99.9 ms", "publish_p99.9_ms", 1),
]


def ours(broker: Broker, rate: int, arguments: argparse.Namespace) -> Figures:
    words = [
        "--topic", "agree", "--partitions", "1", "--producers", "1", "--consumers", "0", "--record-bytes", str(RECORD_BYTES),
        "--batch-bytes", str(RECORDS_A_BATCH * RECORD_BYTES), "--linger-ms", str(LINGER_MS), "--in-flight", str(IN_FLIGHT),
        "--rate", str(rate), "--seconds", str(arguments.seconds), "--warmup-s", str(arguments.warmup),
    ]  # fmt: skip
    return bench(broker, words, arguments.seconds + arguments.warmup)


def theirs(broker: Broker, rate: int, expected: float, arguments: argparse.Namespace) -> Figures:
    """As long as ours if it goes at the expected rate, in records a second: the tool has a number of records, not a time."""
    warmup = int(expected * arguments.warmup)
    properties = [
        f"bootstrap.servers=127.0.0.1:{broker.port}", "acks=all", "enable.idempotence=true", f"batch.size={BATCH_BYTES}",
        f"linger.ms={LINGER_MS}", f"max.in.flight.requests.per.connection={IN_FLIGHT}",
    ]  # fmt: skip
    if not rate:
        properties.append(f"buffer.memory={BUFFER_BYTES}")
    records = warmup + int(expected * arguments.seconds)
    said, _ = tool(broker, "kafka-producer-perf-test", java_command("agree", records, rate or -1, warmup, properties))
    # The last summary is that without the warm-up.
    return java_figures(java_summaries(said)[-1])


def shape(broker: Broker, rate: int, arguments: argparse.Namespace) -> tuple[list[str], bool]:
    """The table of one load, and whether they agree."""
    found: dict[str, list[Figures]] = {"kafscale-bench": [], "kafka-producer-perf-test": []}
    for turn in range(arguments.turns):
        found["kafscale-bench"].append(ours(broker, rate, arguments))
        bench_compare.rest(broker.pid)
        expected = rate or found["kafscale-bench"][-1]["bytes_per_s"] / RECORD_BYTES
        found["kafka-producer-perf-test"].append(theirs(broker, rate, expected, arguments))
        bench_compare.rest(broker.pid)
        print(f"turn {turn + 1} of {arguments.turns} done", file=sys.stderr)
    title = f"{rate} records/s" if rate else "as fast as it goes"
    lines = [f"| {title} | " + " | ".join(found) + " | ratio |", "|---|---|---|---|"]
    agree = True
    for name, figure, divisor in FIGURES:
        mine, other = (statistics.median(one[figure] for one in runs) / divisor for runs in found.values())
        ratio = mine / other if other else float("nan")
        lines.append(f"| {name} | {mine:.2f} | {other:.2f} | {ratio:.3f} |")
        if figure == "bytes_per_s":
            agree = abs(ratio - 1) <= arguments.tolerance
    each = "; ".join(f"{name} " + ", ".join(f"{one['bytes_per_s'] / 1e6:.1f}" for one in runs) for name, runs in found.items())
    lines.append(f"\nMB/s of each turn: {each}. {'They agree' if agree else 'They do NOT agree'} within {arguments.tolerance:.0%}.\n")
    return lines, agree


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", choices=BROKERS, default="kafscale-s3", help="on which both are run")
    parser.add_argument("--rate", type=int, default=500, help="records/s on the schedule, which both must be able to hold")
    parser.add_argument("--turns", type=int, default=3, help="how often each of the two has its turn")
    parser.add_argument("--seconds", type=int, default=8, help="that count of each run")
    parser.add_argument("--warmup", type=int, default=4, help="seconds before, in which Java's compiler gets its work done")
    parser.add_argument("--dir", type=pathlib.Path, help="where the broker's data goes, instead of the directory for temporary files")
    parser.add_argument("--tolerance", type=float, default=0.1, help="how far the ratio of throughputs may be from 1")
    arguments = parser.parse_args()
    subprocess.run([ROOT / "ci/compat/install.sh", "kafka"], check=True, timeout=1800)
    # An end from outside is one as well: what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    directory = pathlib.Path(tempfile.mkdtemp(prefix="bench-agree-", dir=arguments.dir))
    verdicts = {}
    try:
        with Broker(arguments.broker, directory) as broker:
            for name, rate in (("schedule", arguments.rate), ("fast", 0)):
                lines, verdicts[name] = shape(broker, rate, arguments)
                print("\n".join(lines), flush=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if not all(verdicts.values()):
        sys.exit(1)


main()
