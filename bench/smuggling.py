# SPDX-License-Identifier: Apache-2.0
"""Sends the smuggling corpus through l7gate's proxy to real servers, and compares what each says it was asked.

The proxy records what it judged; a server's log says what it understood. A request that only the server knows, that it
understood differently, or that it would serve from where nothing may pass, is a hole. A well-formed request that the
proxy did not pass is a false alarm. Both must be none. Every case is sent whole, byte by byte, and cut at random.

The last line is one flat JSON object; the exit code says whether there was a hole or a false alarm.
"""

import argparse
import asyncio
import itertools
import json
import random
import re
import socket
import sys
import tempfile
import urllib.parse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import uvloop
from smugglingcorpus import Case, corpus
from smugglingorigins import COMMANDS, Origin, Seen

from l7observe.demand import Demand
from l7observe.flow import Flow
from l7policy.enforcement import EndpointRow, Enforcement
from l7policy.ids import EndpointId, IdentityId, PolicyId, Revision
from l7policy.model import EndpointPolicy, HttpRule, Port, Rule, Snapshot
from l7policy.model import Origin as RuleOrigin
from l7policy.verdict import Direction, Protocol, Verdict
from l7proxy.limits import Limits
from l7proxy.server import HttpServer

RULES = (HttpRule(method="GET|HEAD|POST|PUT|DELETE|OPTIONS", path="/ok/.*"),)
AT_ONCE = 32
STRICT = ("nginx", "python", "node")
BODY_FAULTS = (
    "malformed chunk size",
    "chunk does not end where its size says",
    "malformed trailer",
    "trailer that frames a message",
    "client ended inside the body",
    "request body stalled",
)
"""The head was judged and sent on; then the connection to the server was reset."""
_MARK = re.compile(r"c(\d{4})x")


class World:
    """One workload, on loopback, under `RULES`."""

    def revision(self) -> int:
        return 1

    def endpoint(self, address: str) -> EndpointRow:
        return EndpointRow(EndpointId(7), PolicyId(1), IdentityId(1000), 1)

    def identity(self, address: str, established: bool) -> int:
        return 2

    def fqdn_labels(self, identity: int) -> None:
        return None

    def enforcement(self) -> Enforcement:
        """Judges by `RULES`."""
        made = Enforcement(self)
        ports = (Port(Protocol.TCP, 1, 65535),)
        rule = Rule(Direction.EGRESS, RuleOrigin("shop/web", "egress[0]"), None, ports, http=RULES)
        policy = EndpointPolicy(rules=(rule,), enforce_egress=True, selected_by=("shop/web",))
        identities = {IdentityId(1000): ("k8s:app=web",), IdentityId(2): ("reserved:world",)}
        made.prepare(Snapshot(Revision(1), {PolicyId(1): policy}, identities, {}, ()))
        made.commit(1)
        return made


def pieces(case: Case, cut: str, number: int) -> list[bytes]:
    """The case's bytes as they are sent."""
    data = case.data
    if cut == "whole":
        return [data]
    if cut == "bytes" and len(data) < 1000:
        return [data[at : at + 1] for at in range(len(data))]
    dice = random.Random(number)
    edges = sorted({0, len(data), *(dice.randrange(len(data) + 1) for _ in range(dice.randrange(1, 12)))})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


async def send(port: int, parts: Sequence[bytes]) -> None:
    """Sends, says that this was all, and waits for the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            if writer.is_closing():
                return
            writer.write(part)
            await asyncio.sleep(0)
        if not writer.is_closing():
            writer.write_eof()
        async with asyncio.timeout(10):
            while await reader.read(65536):
                pass
    except (OSError, TimeoutError):
        pass  # broken off: what came of it is in the records
    finally:
        writer.close()


async def play(cases: Sequence[tuple[int, Case]], cut: str, origin: Origin) -> list[Flow]:
    """Sends all cases through a proxy to the server. What the proxy recorded."""
    flows: list[Flow] = []

    async def dial(client: tuple[str, int], asked: tuple[str, int]) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", origin.port))
        return sock

    limits = Limits(linger_timeout=0.5, head_timeout=5.0, stall_timeout=10.0, idle_timeout=3.0)
    server = HttpServer(World().enforcement(), flows.append, limits, demand=Demand(True), dial=dial)
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listening.setblocking(False)
    port = listening.getsockname()[1]
    await server.start([listening])
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, case: Case) -> None:
        async with gate:
            await send(port, pieces(case, cut, number))

    await asyncio.gather(*(one(number, case) for number, case in cases))
    await server.close(1.0)
    return flows


def served(path: str, *, decoded: bool) -> str:
    """Where a forgiving server would find it. `decoded`: the log tells the path after decoding."""
    path = relative(path).partition("?")[0]
    if not decoded:
        path = urllib.parse.unquote(path, "latin-1")
    path = path.replace("\\", "/")
    parts: list[str] = []
    for part in path.split("/"):
        name = part.partition(";")[0]
        if name == "..":
            parts[-1:] = []
        elif name not in ("", "."):
            parts.append(name)
    return "/" + "/".join(parts)


def by_case(items: Sequence[tuple[str, Seen]]) -> dict[int, list[Seen]]:
    """Grouped by the mark that each bears."""
    found: dict[int, list[Seen]] = defaultdict(list)
    for text, seen in items:
        marks = _MARK.search(text)
        found[int(marks[1]) if marks else 0].append(seen)
    return found


def compare(
    cases: Sequence[tuple[int, Case]], flows: Sequence[Flow], seen: Sequence[Seen], *, strict: bool
) -> tuple[list[str], list[str]]:
    """Holes and false alarms, as text. `strict`: the server answers whatever is asked, and keeps the connection."""
    passed = []
    for flow in flows:
        if flow.http is None or not flow.http.method:
            continue
        if flow.verdict == Verdict.DROPPED and flow.detail not in BODY_FAULTS:
            continue
        http = flow.http
        passed.append((http.path + http.host, Seen(http.method, http.path, http.path, http.host)))
    judged = by_case(passed)
    refusals = [
        flow.http.path + flow.http.host
        for flow in flows
        if flow.http and flow.verdict == Verdict.DROPPED and flow.http.status == 400
    ]
    malformed = {int(mark[1]) for text in refusals for mark in _MARK.finditer(text)}
    understood = by_case([(one.target + one.host + one.path, one) for one in seen if not one.refused])
    holes, alarms = [], []
    if 0 in understood:
        holes.append(f"requests of no case: {understood[0][:3]}")
    for number, case in cases:
        allowed = [(one.method, one.target) for one in judged[number]]
        left = list(allowed)
        for one in understood[number]:
            asked = (one.method, relative(one.target))
            if asked not in left:
                holes.append(f"{case.family}: the server understood {asked}, judged was {allowed}: {case.data[:300]!r}")
                break
            left.remove(asked)
            if not served(one.path, decoded=one.decoded).startswith("/ok/"):
                holes.append(f"{case.family}: the server would serve {one.path}: {case.data[:300]!r}")
                break
        if case.expected is not None:
            expected = [(method.decode(), target.decode()) for method, target in case.expected]
            refused = number in malformed or (strict and len(allowed) < len(expected))
            if refused or allowed != expected[: len(allowed)]:
                alarms.append(f"{case.family}: passed were {allowed}, well-formed are {expected}: {case.data[:600]!r}")
    return holes, alarms


def relative(target: str) -> str:
    """The path of an absolute target, as it is judged."""
    found = re.fullmatch(r"(?i)http://[^/?#]*([/?]?.*)", target)
    if found is None:
        return target
    return found[1] if found[1].startswith("/") else "/" + found[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--origins", default=",".join(COMMANDS), help=f"of {','.join(COMMANDS)}")
    parser.add_argument("--cuts", default="whole,bytes,random")
    parser.add_argument("--share", type=int, default=1, help="every so many-th case only, but of all well-formed ones")
    options = parser.parse_args()
    everything = list(enumerate(corpus(), start=1000))
    cases = [(n, case) for n, case in everything if n % options.share == 0 or case.expected is not None]
    total_holes, total_alarms, sent = 0, 0, 0
    for name in options.origins.split(","):
        for cut in options.cuts.split(","):
            with (
                tempfile.TemporaryDirectory(prefix="l7gate-smuggling-") as folder,
                Origin(name, Path(folder)) as origin,
            ):
                flows = uvloop.run(play(cases, cut, origin))
                holes, alarms = compare(cases, flows, origin.seen(), strict=name in STRICT)
            print(f"{name:9} {cut:7} {len(cases)} cases: {len(holes)} holes, {len(alarms)} false alarms", flush=True)
            for text in (*holes[:20], *alarms[:20]):
                print(f"  {text}")
            total_holes, total_alarms, sent = total_holes + len(holes), total_alarms + len(alarms), sent + len(cases)
    print(json.dumps({"cases": len(cases), "sent": sent, "holes": total_holes, "false_alarms": total_alarms}))
    return 1 if total_holes or total_alarms else 0


if __name__ == "__main__":
    sys.exit(main())
