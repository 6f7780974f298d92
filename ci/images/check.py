#!/usr/bin/env python3
"""Looks at the images that ci/images.sh has built, and runs k8s/images/compose.yaml with them: check.py VERSION.

What holds is asked of the kernel and of clients where it can be, not of what was configured. Containers, volumes and the network
are of a project of their own and go away at the end. The last line says how many checks passed.
"""

import json
import os
import re
import resource
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "k8s/images/compose.yaml"
PROJECT = "kafscale-check"
SERVICES = ["etcd", "s3", "broker"]
SHELLS = {"sh", "ash", "bash", "busybox", "csh", "dash", "ksh", "tcsh", "zsh"}
USER = 65532
PATIENCE_SECONDS = 60
RECORDS = 20_000
BOOTSTRAP = "localhost:9092"
# Exit codes of podman and of the loader: what was to run has not run.
NOT_RUN = (125, 126, 127)

passed = 0
failed: list[str] = []


def check(what: str, ok: bool, seen: object = "") -> None:
    """Counts, and says what was seen where it does not hold."""
    global passed
    if ok:
        passed += 1
        print(f"ok      {what}", flush=True)
    else:
        failed.append(what)
        print(f"FAILED  {what}: {seen}", flush=True)


def run(*command: str, timeout: float = 120, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Where the compose file is: podman takes the paths in it from there, too."""
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False, cwd=COMPOSE.parent
    )


def podman(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return run("podman", *arguments, timeout=timeout)


def once(image: str, *arguments: str, program: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs an image, or a program in it, to its end, which comes soon."""
    options = ["--rm", "--network", "none", "--timeout", "30", *(["--entrypoint", program] if program else [])]
    return podman("run", *options, image, *arguments)


def inspect(kind: str, name: str) -> dict[str, Any]:
    described: list[dict[str, Any]] = json.loads(podman(kind, "inspect", name).stdout)
    return described[0]


def until(holds: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.2)
    return False


# The images.


def crates(binary: Path) -> set[tuple[str, str]]:
    """What cargo-auditable wrote into a binary: the names and versions of what it is made of."""
    with tempfile.NamedTemporaryFile() as section:
        run("objcopy", "--dump-section", f".dep-v0={section.name}", str(binary), "/dev/null")
        data = Path(section.name).read_bytes()
    if not data:
        return set()
    return {(crate["name"], crate["version"]) for crate in json.loads(zlib.decompress(data))["packages"]}


def locked_crates() -> set[tuple[str, str]]:
    text = (ROOT / "Cargo.lock").read_text(encoding="utf-8")
    return set(re.findall(r'^name = "(.+)"\nversion = "(.+)"$', text, re.MULTILINE))


def look_at(name: str, version: str) -> None:
    image = f"kafscale-{name}:{version}"
    binary = f"/usr/local/bin/kafscale-{name}"
    config = inspect("image", image)
    print(f"        {image}: {config['Size'] / 1e6:.1f} MB")
    check(f"{name}: its user is {USER}", config["User"] == f"{USER}:{USER}", config["User"])
    root = Path(podman("image", "mount", image).stdout.strip())
    assert root.is_absolute(), f"{image} cannot be looked into"
    try:
        files = [Path(folder) / file for folder, _, files in os.walk(root) for file in files]
        shells = [str(file.relative_to(root)) for file in files if file.name in SHELLS and "bin" in file.parent.name]
        check(f"{name}: there is no shell", not shells, shells)
        privileged = [file for file in files if not file.is_symlink() and file.stat().st_mode & (stat.S_ISUID | stat.S_ISGID)]
        check(f"{name}: no program gives rights", not privileged, privileged)
        listed = crates(root / binary.lstrip("/"))
        unknown = listed - locked_crates()
        check(
            f"{name}: the binary lists the {len(listed)} crates it is made of, as locked",
            (f"kafscale-{name}", version) in listed and len(listed) > 20 and not unknown,
            unknown or "there is no list",
        )
        loaders = [str(path.relative_to(root)) for path in [*root.glob("lib64/ld-linux-*"), *root.glob("lib/ld-linux-*")]]
    finally:
        podman("image", "unmount", image)
    loader = f"/{loaders[0]}" if loaders else "/no-loader"
    found = once(image, "--list", binary, program=loader)
    libraries = found.stdout.split("\n")
    check(
        f"{name}: all its libraries are there",
        found.returncode == 0 and "libc.so.6" in found.stdout and "not found" not in found.stdout,
        [line for line in libraries if "not found" in line] or found.stderr,
    )
    shown = once(image, "--help")
    check(
        f"{name}: it starts, and says how it is used",
        shown.returncode not in NOT_RUN and f"kafscale-{name}" in shown.stdout + shown.stderr,
        shown,
    )


def look_at_the_operator(version: str) -> None:
    image = f"kafscale-operator:{version}"
    crds = once(image, "crds").stdout
    check(
        "operator: it has the definitions of this tree",
        crds == (ROOT / "k8s/crds/kafscale.io.yaml").read_text(encoding="utf-8"),
        crds[:200],
    )
    etcd = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]["etcd"]["image"]
    tool = once(image, "version", program="/usr/local/bin/etcdutl").stdout
    check("operator: its etcdutl is of the version of etcd", f"etcdutl version: {etcd.split(':v')[1]}\n" in tool, tool)


def where_io_uring_is_forbidden(version: str) -> None:
    refused = once(f"kafscale-broker:{version}")
    said = refused.stdout + refused.stderr
    check(
        "broker: under podman's own seccomp profile it says that it needs io_uring, and ends",
        refused.returncode not in (0, *NOT_RUN) and "a container must allow io_uring_setup" in said,
        said,
    )


# The compose file.


def override(directory: Path) -> Path:
    """A second compose file with what podman or this machine cannot do as the first says. What is changed is printed."""
    changes: dict[str, list[str]] = {}
    volumes = []
    for name, service in yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"].items():
        if name not in SERVICES:
            continue
        lines = changes.setdefault(name, [])
        if mounts := service.get("tmpfs"):
            # Only podman's volumes can be in memory and have an owner.
            print(f"        {name}: volumes in memory stand for tmpfs mounts")
            lines += ["tmpfs: !override []", "volumes:"]
            for number, mount in enumerate(mounts):
                path, _, options = mount.partition(":")
                lines.append(f"  - {name}-memory-{number}:{path}")
                settings = {"type": "tmpfs", "device": "tmpfs", "o": options}
                volumes.append(f"{name}-memory-{number}: {json.dumps({'driver_opts': settings})}")
        if limits := service.get("ulimits"):
            # Else podman asks for what a machine may not give, see ci/images.sh.
            allowed = {"nofile": resource.getrlimit(resource.RLIMIT_NOFILE)[1], "nproc": 16384, **limits}
            for limit, value in limits.items():
                if run("prlimit", f"--{limit}={value}:{value}", "true").returncode != 0:
                    allowed[limit] = int(run("prlimit", "--raw", "--noheadings", "--output", "HARD", f"--{limit}").stdout)
                    print(f"        {name}: this machine allows {limit} of {allowed[limit]}, not of {value}")
            lines.append(f"ulimits: !override {json.dumps(allowed)}")
    text = "services:\n"
    for name, lines in changes.items():
        text += f"  {name}:{'' if lines else ' {}'}\n" + "".join(f"    {line}\n" for line in lines)
    text += "volumes:\n" + "".join(f"  {line}\n" for line in volumes)
    path = directory / "override.yaml"
    path.write_text(text, encoding="utf-8")
    return path


class Project:
    """The services of the compose file, as containers."""

    def __init__(self, second_file: Path) -> None:
        self.base = ["podman-compose", "--project-name", PROJECT, "--in-pod=false", "-f", str(COMPOSE), "-f", str(second_file)]

    def compose(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run(*self.base, *arguments, timeout=180)

    def container(self, service: str) -> dict[str, Any]:
        return inspect("container", f"{PROJECT}_{service}_1")

    def pid(self, service: str) -> int:
        return int(self.container(service)["State"]["Pid"])

    def log(self, service: str) -> str:
        answer = podman("logs", "--tail", "30", f"{PROJECT}_{service}_1")
        return answer.stdout + answer.stderr

    def remove(self) -> None:
        of_it = f"label=io.podman.compose.project={PROJECT}"
        for container in podman("ps", "--all", "--quiet", "--filter", of_it).stdout.split():
            podman("rm", "--force", "--time", "2", container)
        for volume in podman("volume", "ls", "--quiet", "--filter", of_it).stdout.split():
            podman("volume", "rm", "--force", volume)
        for network in podman("network", "ls", "--quiet", "--filter", of_it).stdout.split():
            podman("network", "rm", "--force", network)


def kcat(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return run("timeout", "60", "kcat", "-q", "-b", BOOTSTRAP, *arguments, stdin=stdin)


def read_back() -> str:
    return kcat("-C", "-t", "numbers", "-o", "beginning", "-e", "-f", "%k:%s\n").stdout


def serves() -> bool:
    return kcat("-L", "-m", "2").returncode == 0


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def look_at_the_running_broker(project: Project, second_file: Path) -> None:
    """What the compose file forbids it, as the kernel knows it."""
    pid = project.pid("broker")
    status = status_of(pid)
    check(
        "the running broker is user 65532 in all respects",
        set(status["Uid"].split() + status["Gid"].split()) == {str(USER)},
        status["Uid"],
    )
    held = {name: status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    check("it has no capability and can get none", all(int(value, 16) == 0 for value in held.values()), held)
    check("it cannot gain privileges", status["NoNewPrivs"] == "1", status["NoNewPrivs"])
    check("it is under a seccomp filter", status["Seccomp"] == "2", status["Seccomp"])
    applied = json.loads((Path(project.container("broker")["OCIConfigPath"])).read_text(encoding="utf-8"))["linux"]["seccomp"]
    profile = json.loads((ROOT / "k8s/seccomp/kafscale.json").read_text(encoding="utf-8"))
    names = {name for rule in profile["syscalls"] for name in rule["names"]}
    in_effect = {name for rule in applied["syscalls"] for name in rule["names"]}
    check(
        "the filter is the profile of k8s/seccomp",
        names == in_effect and applied["defaultAction"] == profile["defaultAction"],
        names ^ in_effect,
    )
    mounts = {
        fields[4]: fields[5].split(",") + [fields[fields.index("-") + 1]]
        for fields in (line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text(encoding="utf-8").splitlines())
    }
    check("its root file system is read-only", "ro" in mounts["/"], mounts["/"])
    check("its data directory is in memory", mounts.get("/var/lib/kafscale", [""])[-1] == "tmpfs", mounts.keys())
    directory = Path(f"/proc/{pid}/root/var/lib/kafscale").stat()
    check("its data directory is its own", directory.st_uid == USER, directory)
    wanted = re.search(r'"memlock": (\d+)', second_file.read_text(encoding="utf-8"))
    limits = Path(f"/proc/{pid}/limits").read_text(encoding="utf-8")
    allowed = re.search(r"Max locked memory +(\d+)", limits)
    check("it may lock as much memory as asked for", bool(wanted and allowed and wanted[1] == allowed[1]), limits)
    rings = [link for link in Path(f"/proc/{pid}/fd").iterdir() if "io_uring" in os.readlink(link)]
    check("it works with io_uring", bool(rings), os.listdir(f"/proc/{pid}/fd"))


def open_ports() -> list[str]:
    return sorted(
        line.split(" -> ")[1] for service in SERVICES for line in podman("port", f"{PROJECT}_{service}_1").stdout.splitlines()
    )


def get(path: str) -> str:
    return run(
        "curl", "-sS", "--max-time", "5", "--noproxy", "*", "-w", "\n%{http_code}", f"http://localhost:9093{path}"
    ).stdout


def run_the_services(project: Project, second_file: Path) -> None:
    started = project.compose("up", "--detach", "--no-build", *SERVICES)
    if not until(serves):
        check(
            "etcd, the S3 server and the broker run, and a client is served",
            False,
            "\n".join([started.stdout, started.stderr, *map(project.log, SERVICES)]),
        )
        return
    check("etcd, the S3 server and the broker run, and a client is served", True)
    healthy = podman("healthcheck", "run", f"{PROJECT}_etcd_1")
    check("the health check of etcd works", healthy.returncode == 0, healthy)
    check(
        "only Kafka's port and the status page's are open, on loopback",
        open_ports() == ["127.0.0.1:9092", "127.0.0.1:9093"],
        open_ports(),
    )
    look_at_the_running_broker(project, second_file)

    sent = "".join(f"{number}:record {number} of {RECORDS}\n" for number in range(RECORDS))
    produced = kcat("-P", "-t", "numbers", "-K", ":", "-X", "enable.idempotence=true", stdin=sent)
    check(f"kcat produces {RECORDS} records", produced.returncode == 0, produced.stderr)
    check("kcat reads them back, unchanged and in order", read_back() == sent)
    check(
        "the status page answers, and says that the broker is ready",
        get("/").endswith("\n200") and get("/readyz").endswith("\n200"),
        get("/readyz"),
    )

    began = time.monotonic()
    project.compose("stop", "broker")
    seconds = time.monotonic() - began
    state = project.container("broker")["State"]
    check(
        f"the broker ends within its grace period ({seconds:.1f} s), and in good order",
        seconds < 45 and state["Status"] == "exited" and state["ExitCode"] == 0,
        state,
    )
    project.compose("start", "broker")
    check("it starts again", until(serves), project.log("broker"))
    check("all records are there, though its memory is gone", read_back() == sent)

    first = project.pid("broker")
    os.kill(first, signal.SIGKILL)
    check(
        "killed, it is started again without help",
        until(lambda: project.pid("broker") not in (0, first) and serves()),
        project.log("broker"),
    )
    check("all records are there", read_back() == sent)


def run_one_alone(version: str) -> None:
    """A broker that keeps records in a volume, as the image is made to."""
    name = f"{PROJECT}_alone"
    label = f"--label=io.podman.compose.project={PROJECT}"
    podman("volume", "create", label, name)
    forbidden = (
        f"--read-only --cap-drop=ALL --security-opt=no-new-privileges --security-opt=seccomp={ROOT}/k8s/seccomp/kafscale.json"
    )
    opened = "--publish=127.0.0.1:9092:9092 --env=KAFSCALE_BROKER_HOST=localhost"
    place = [f"--name={name}", label, f"--volume={name}:/var/lib/kafscale"]
    started = podman("run", "--detach", *place, *forbidden.split(), *opened.split(), f"kafscale-broker:{version}")
    check("a broker alone serves", until(serves), f"{started.stderr}{podman('logs', '--tail', '30', name)}")
    kcat("-P", "-t", "numbers", "-K", ":", stdin="1:one\n2:two\n")
    restarted = podman("restart", "--time", "45", name)
    check("restarted, it has its records", until(serves) and read_back() == "1:one\n2:two\n", restarted)


# The rest.


def lint() -> None:
    linted = run("hadolint", str(ROOT / "k8s/images/Dockerfile"))
    check("hadolint finds nothing in the Dockerfile", linted.returncode == 0, linted.stdout + linted.stderr)
    config = run("promtool", "check", "config", str(ROOT / "k8s/images/compose/prometheus.yaml"))
    check("promtool accepts the configuration of Prometheus", config.returncode == 0, config.stdout + config.stderr)
    rules = run("promtool", "check", "rules", str(ROOT / "k8s/helm/kafscale/alerts.yaml"))
    check("promtool accepts the alerts of the chart", rules.returncode == 0, rules.stdout + rules.stderr)


def is_free(port: int) -> bool:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def main() -> int:
    version = sys.argv[1]
    targets = ["broker", "operator", "test-s3"]
    print("== images")
    for target in targets:
        look_at(target, version)
    look_at_the_operator(version)
    where_io_uring_is_forbidden(version)
    print("== files")
    lint()
    print("== compose")
    with tempfile.TemporaryDirectory() as directory:
        second_file = override(Path(directory))
        project = Project(second_file)
        project.remove()
        taken = [port for port in (9092, 9093) if not is_free(port)]
        if taken:
            check("the ports of the compose file are free", False, f"something listens on {taken} of loopback")
        else:
            try:
                run_the_services(project, second_file)
                project.remove()
                run_one_alone(version)
            finally:
                project.remove()
    if failed:
        print(f"images: {len(targets)} built, {passed} checks passed, {len(failed)} failed")
        return 1
    print(f"images: {len(targets)} built, {passed} checks passed")
    return 0


if __name__ == "__main__":
    # Terminated, it still removes what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
