# SPDX-License-Identifier: Apache-2.0
"""One measurement: load from a namespace through one path, and what that cost the processes in between."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httprules
from machine import rss_mb

from l7lab.namespace import LabError, Namespace

SCRIPT: Final = Path(__file__).with_name("wrk.lua")
MEBIBYTE: Final = 1 << 20
TICKS: Final = os.sysconf("SC_CLK_TCK")
TRANSFERS: Final = 5
"""Of 100 MiB for one figure."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is asked for."""

    name: str
    title: str
    kind: str
    """As `wrk.lua` takes it; or, for 100 MiB with curl, ``large``, ``large-put``, or ``large-tls`` (not opened)."""
    connections: int
    path: str = httprules.ALLOWED + "item"
    rules: int = 10
    denied: bool = False
    quick: bool = False
    """Also measured by ``--quick``."""

    @property
    def bodies(self) -> bool:
        """Whether bytes count here, and not requests."""
        return self.kind.startswith(("large", "put")) or self.path.endswith("1m")


SCENARIOS: Final = (
    Scenario("c1", "small, keep-alive, 1 connection", "same", 1, quick=True),
    Scenario("c32", "small, keep-alive, 32 connections", "same", 32, quick=True),
    Scenario("c256", "small, keep-alive, 256 connections", "same", 256),
    Scenario("unique", "as c32, each path only once", "unique", 32, httprules.ALLOWED + "items/", quick=True),
    Scenario("close", "a connection for each request, 32 at a time", "close", 32, quick=True),
    Scenario("rules100", "as c32, 100 rules", "same", 32, rules=100),
    Scenario("rules1000", "as c32, 1,000 rules", "same", 32, rules=1000),
    Scenario("denied", "as c32, all refused (403)", "same", 32, httprules.DENIED + "item", denied=True, quick=True),
    Scenario("down1m", "1 MiB answers, 4 connections", "same", 4, httprules.ALLOWED + "1m", quick=True),
    Scenario("up1m", "1 MiB uploads, 4 connections", "put", 4, httprules.ALLOWED + "up/1m"),
    Scenario("down100m", "100 MiB answers, one connection", "large", 1, httprules.ALLOWED + "100m", quick=True),
    Scenario("up100m", "100 MiB uploads, one connection", "large-put", 1, httprules.ALLOWED + "up/100m"),
    Scenario("tls100m", "100 MiB answers in TLS, by server name", "large-tls", 1, httprules.ALLOWED + "100m"),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One figure of each kind. Latencies are milliseconds, 0 where none was taken."""

    rate: float
    """Requests per second, or MiB per second of bodies."""
    p50: float
    p99: float
    p999: float
    cpu: float
    """Microseconds of processor time of the processes in between, for each request or MiB."""
    rss: float
    """MiB of the processes in between, at the end."""


def measure(
    client: Namespace, server: str, port: int, scenario: Scenario, seconds: int, pids: Iterable[int], file: Path
) -> Sample:
    """Runs the scenario once. Raises LabError if anything but the expected answers came. `file`: 100 MiB to upload."""
    pids = tuple(pids)
    before = cpu(pids)
    if scenario.kind.startswith("large"):
        count, rate, times = _curl(client, server, port, scenario, file), 0.0, (0.0, 0.0, 0.0)
        amount = count[0]
        rate = amount / count[1]
    else:
        found = _wrk(client, server, port, scenario, seconds)
        amount = found["requests"]
        rate = amount / found["seconds"]
        times = (found["p50"] / 1e3, found["p99"] / 1e3, found["p999"] / 1e3)
    return Sample(rate, *times, (cpu(pids) - before) * 1e6 / amount, sum(map(rss_mb, pids)))


def _wrk(client: Namespace, server: str, port: int, scenario: Scenario, seconds: int) -> dict[str, float]:
    argv = ["wrk", "-t1", f"-c{scenario.connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(SCRIPT)]
    done = client.run([*argv, f"http://{server}:{port}/", "--", scenario.kind, scenario.path], timeout=seconds + 60)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise LabError(f"wrk said nothing of use: {(done.stderr or done.stdout).strip()}")
    found: dict[str, float] = json.loads(lines[-1])
    wrong = found["requests"] - found["not_2xx"] if scenario.denied else found["not_2xx"]
    if wrong or not found["requests"] or found["errors"] > found["requests"] / 1000:
        raise LabError(f"{scenario.name} at {server}:{port}: not what was expected: {found}")
    return found


def _curl(client: Namespace, server: str, port: int, scenario: Scenario, file: Path) -> tuple[float, float]:
    """MiB and seconds of several transfers on one connection."""
    field = "size_upload" if scenario.kind == "large-put" else "size_download"
    written = f"%{{http_code}} %{{{field}}} %{{time_total}} %{{time_pretransfer}}\\n"
    argv = ["curl", "-q", "-s", "--noproxy", "*", "-w", written]
    url = f"http://{server}:{port}{scenario.path}"
    if scenario.kind == "large-tls":
        url = f"https://{httprules.SERVER_NAME}:{port}{scenario.path}"
        argv += ["-k", "--connect-to", f"::{server}:{port}"]
    for _ in range(TRANSFERS):
        argv += ["-H", "Expect:"] if _ == 0 else []
        argv += ["-o", "/dev/null", *(["-T", str(file)] if scenario.kind == "large-put" else []), url]
    done = client.run(argv, timeout=120)
    rows = [line.split() for line in done.stdout.splitlines()]
    size = sum(float(row[1]) for row in rows) / MEBIBYTE
    if len(rows) != TRANSFERS or size != TRANSFERS * 100 or any(row[0] not in ("200", "201", "204") for row in rows):
        raise LabError(f"{scenario.name} at {server}:{port}: not what was expected: {rows} {done.stderr.strip()}")
    return size, sum(float(row[2]) - float(row[3]) for row in rows)


def cpu(pids: Iterable[int]) -> float:
    """Seconds of processor time that the processes have used, all threads."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS
