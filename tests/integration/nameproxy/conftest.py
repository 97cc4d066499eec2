# SPDX-License-Identifier: Apache-2.0
"""The DNS proxy between a real dig and a real dnsmasq, in namespaces, with routing rules in the datapath's place.

client ── node (the proxy) ── outside (dnsmasq, and a name server that lies)
"""

import contextlib
import json
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from l7lab.namespace import Namespace, environment

CLIENT_V4, CLIENT_V6 = "192.0.2.2", "2001:db8::2"
RESOLVER_V4, RESOLVER_V6 = "198.51.100.53", "2001:db8:53::53"
NOBODY = "198.51.100.54"
LIAR = "198.51.100.55"
BLACKHOLE = "198.51.100.99"

RECORDS = {
    43: "3039 0f 02" + "ab" * 32,
    46: "0001 0d 03 00000e10 70dbd880 5e0be100 3039 076578616d706c6503636f6d00" + "5a" * 64,
    47: "01610765 78616d706c6503636f6d00 0006 400000000003",
    48: "0101 03 0d" + "c3" * 64,
    50: "01 01 000c 04aabbccdd 14" + "11" * 20 + "0006 400000000002",
    61: "99" * 40,
    65280: "00ff10",
}
"""Of types by number, as the name server is given them: those of DNSSEC, and two that nothing here knows."""

PROGRAM = """
import asyncio, json, socket, sys
from pathlib import Path
from l7dns import clock, sockets
from l7dns.addresses import address_text
from l7dns.kerneltables import MemoryTables
from l7dns.learner import Learner
from l7dns.server import DnsServer, Limits
from l7observe.demand import Demand
from l7observe.flow import Flow
from l7policy import ids
from l7policy.enforcement import EndpointRow, Enforcement
from l7policy.model import CidrPeer, EndpointPolicy, FqdnPeer, Origin, Port, Rule, Snapshot
from l7policy.verdict import Direction, Protocol
import msgspec

ALLOWED = (FqdnPeer(match_pattern="**.example.com."),)
POLICY = EndpointPolicy(
    rules=(
        Rule(Direction.EGRESS, Origin("test/dns", "egress[0]"), None,
             (Port(Protocol.UDP, 53, 53), Port(Protocol.TCP, 53, 53)), dns=ALLOWED),
        Rule(Direction.EGRESS, Origin("test/web", "egress[1]"), ALLOWED[:1], (Port(Protocol.TCP, 80, 80),)),
    ),
    enforce_egress=True,
    selected_by=("test/dns", "test/web"),
)
SNAPSHOT = Snapshot(
    ids.Revision(1), {ids.PolicyId(1): POLICY},
    {ids.WORLD: ("reserved:world",), ids.IdentityId(300): ("k8s:app=client",)},
    {"192.0.2.2/32": ids.IdentityId(300), "2001:db8::2/128": ids.IdentityId(300)}, ALLOWED[:1],
)

class Tables:
    def revision(self): return 1
    def endpoint(self, address):
        if address in ("192.0.2.2", "2001:db8::2"):
            return EndpointRow(ids.EndpointId(9), ids.PolicyId(1), ids.IdentityId(300), 1)
        return None
    def process(self, *flow): return None
    def identity(self, address, established): return ids.WORLD
    def fqdn_labels(self, identity): return None

class SlowTables(MemoryTables):
    full = False
    def write_ipcache(self, address, identity, established=0):
        if self.full:
            raise OSError("the kernel table ipcache is full")
        super().write_ipcache(address, identity, established)

def say(kind, value):
    sys.stdout.write(json.dumps([kind, value]) + "\\n")
    sys.stdout.flush()

async def main():
    tables = SlowTables()
    learner = Learner(tables, Path(sys.argv[1]))
    restored = learner.restore(clock.boottime())
    if not restored:
        assert learner.prepare(SNAPSHOT, clock.boottime()) == ""
        learner.commit(1, clock.boottime())
    enforcement = Enforcement(Tables())
    enforcement.prepare(SNAPSHOT)
    enforcement.commit(1)
    server = DnsServer(enforcement, learner, lambda flow: say("flow", msgspec.to_builtins(flow)),
                       Limits(upstream_timeout=1.0), demand=Demand(True))
    listeners = [make(family, 53, address)
                 for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::"))
                 for make in (sockets.udp_listener, sockets.tcp_listener)]
    await server.start(listeners)
    say("ready", len(restored))
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := (await reader.readline()).decode().strip():
        if line == "full":
            tables.full = True
        elif line == "room":
            tables.full = False
        elif line == "quit":
            break
        say("tables", {address_text(address): number for address, number in tables.ipcache_rows.items()})
        say("cache", msgspec.to_builtins(list(learner.dump(clock.boottime(), clock.wall()))))
    await server.close(1.0)
    learner.close()
    pipe.close()
    await asyncio.sleep(0.05)

if sys.argv[2] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""

LIES = """
import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("198.51.100.55", 53))
print("ready", flush=True)
while True:
    query, client = s.recvfrom(4096)
    first = query[13:13 + query[12]].lower()
    flags, question = b"\\x81\\x80\\0\\x01\\0\\x01\\0\\0\\0\\0", query[12:query.index(b"\\0", 12) + 5]
    def answer(ident, question, last):
        record = b"\\xc0\\x0c\\0\\x01\\0\\x01\\0\\0\\0\\x3c\\0\\x04\\xcb\\0\\x71"
        return ident + flags + question + record + bytes([last])
    other = bytes([query[0] ^ 1]) + query[1:2]
    if first == b"late":
        s.sendto(answer(other, question, 66), client)
        s.sendto(answer(query[:2], question.replace(b"late", b"LATE"), 67), client)
        s.sendto(answer(query[:2], question, 1), client)
        s.sendto(answer(query[:2], question, 68), client)
    elif first == b"seen":
        record = b"\\xc0\\x0c\\0\\x01\\0\\x01\\0\\0\\0\\x3c\\0\\x04" + query[:2] + client[1].to_bytes(2, "big")
        s.sendto(query[:2] + flags + question + record, client)
    elif first == b"liar":
        s.sendto(answer(query[:2], question.replace(b"liar", b"LIAR"), 66), client)
    elif first == b"broken":
        s.sendto(answer(query[:2], question, 66)[:-2], client)
"""


class Proxy:
    """The program above in the node's namespace, and what it says."""

    def __init__(self, node: Namespace, state: Path, loop: str) -> None:
        command = node.inside([sys.executable, "-W", "error", "-X", "faulthandler", "-c", PROGRAM, str(state), loop])
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        )
        self.flows: list[dict[str, Any]] = []
        self.said: dict[str, Any] = {}
        self.errors = ""
        self._changed = threading.Condition()
        self._readers = [threading.Thread(target=work) for work in (self._listen, self._complain)]
        for reader in self._readers:
            reader.start()
        try:
            self.wait(lambda: "ready" in self.said or self.process.poll() is not None)
            assert "ready" in self.said, "the proxy did not start"
        except AssertionError:
            self.stop(kill=True)
            raise AssertionError(self.errors) from None

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            kind, value = json.loads(line)
            with self._changed:
                if kind == "flow":
                    self.flows.append(value)
                else:
                    self.said[kind] = value
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def _complain(self) -> None:
        assert self.process.stderr is not None
        self.errors = self.process.stderr.read()

    def wait(self, done: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(done, 10.0), f"{self.said} {self.flows[-3:]} {self.errors}"

    def tell(self, word: str = "show") -> dict[str, Any]:
        assert self.process.stdin is not None
        self.said.pop("cache", None)
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        self.wait(lambda: "cache" in self.said)
        return self.said

    def flow(self, query: str, **fields: Any) -> dict[str, Any]:
        """The record of a query, once there is one."""

        def found() -> list[dict[str, Any]]:
            return [
                flow
                for flow in self.flows
                if flow["dns"].get("query") == query and all(flow.get(key) == fields[key] for key in fields)
            ]

        self.wait(lambda: bool(found()))
        return found()[-1]

    def stop(self, kill: bool = False) -> None:
        if self.process.poll() is None and not kill:
            assert self.process.stdin is not None
            self.process.stdin.write("quit\n")
            self.process.stdin.flush()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10.0)
        self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


class Net:
    """The three namespaces."""

    def __init__(self, folder: Path) -> None:
        tag = secrets.token_hex(3)
        self.folder = folder
        self.client, self.node, self.outside = (Namespace(f"l7dns-{tag}-{part}") for part in ("c", "n", "o"))
        self.log = folder / "dnsmasq.log"
        self.records = RECORDS
        self.servers: list[subprocess.Popen[str]] = []

    def build(self) -> None:
        for namespace in (self.client, self.node, self.outside):
            namespace.create()
            # Or the first packet would wait a second for a link-local address nobody else can have.
            namespace.sysctl({"net.ipv6.conf.default.accept_dad": 0, "net.ipv6.conf.default.dad_transmits": 0})
        node, client, outside = self.node, self.client, self.outside
        node.sysctl({"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1, "net.ipv4.conf.all.rp_filter": 0,
                     "net.ipv4.conf.default.rp_filter": 0})  # fmt: skip
        node.ip([f"link add pod type veth peer name eth0 netns {client.name}",
                 f"link add uplink type veth peer name eth0 netns {outside.name}",
                 "addr add 192.0.2.1/30 dev pod", "addr add 2001:db8::1/64 dev pod nodad",
                 "addr add 203.0.113.1/24 dev uplink", "addr add 2001:db8:1::1/64 dev uplink nodad",
                 # Fragments carry no port for the rules below; the proxy's own answers are fragmented on `pod`.
                 "link set pod up", "link set uplink mtu 9000 up",
                 "route add 198.51.100.0/24 via 203.0.113.2",
                 "route add 2001:db8:53::/64 via 2001:db8:1::2"])  # fmt: skip
        for family, icmp in (("-4", 1), ("-6", 58)):  # numbers: a bare system has no /etc/protocols
            steer = ["route add local default dev lo table 100",
                     *(f"rule add iif {link} ipproto {protocol} {side} 53 pref 10 lookup 100"
                       for protocol in (17, 6) for link, side in (("pod", "dport"), ("uplink", "sport"))),
                     f"rule add iif uplink ipproto {icmp} pref 11 lookup 100"]  # fmt: skip
            done = node.run(["ip", family, "-batch", "-"], stdin="".join(f"{line}\n" for line in steer))
            assert done.returncode == 0, done.stderr
        client.ip(["addr add 192.0.2.2/30 dev eth0", "addr add 2001:db8::2/64 dev eth0 nodad", "link set eth0 up",
                   "route add default via 192.0.2.1", "route add default via 2001:db8::1"])  # fmt: skip
        outside.ip(["addr add 203.0.113.2/24 dev eth0", "addr add 2001:db8:1::2/64 dev eth0 nodad",
                    "link set eth0 mtu 9000 up",
                    *(f"addr add {address} dev lo" for address in (RESOLVER_V4, NOBODY, LIAR)),
                    f"addr add {RESOLVER_V6} dev lo nodad",
                    "route add blackhole 198.51.100.99",
                    "route add default via 203.0.113.1", "route add default via 2001:db8:1::1"])  # fmt: skip
        self.start_servers()

    def start_servers(self) -> None:
        records = [
            "--host-record=www.example.com,203.0.113.80,2001:db8:80::80,77",
            "--cname=alias.example.com,www.example.com,33",
            "--host-record=secret.example.net,203.0.113.81",
            *(f"--host-record=many.example.com,203.0.113.{last}" for last in range(100, 200)),
            *(f"--host-record=n{number}.example.com,203.0.113.{number + 1}" for number in range(64)),
            *(f"--dns-rr=signed.example.com,{number},{data}" for number, data in RECORDS.items()),
            *(f"--txt-record=long.example.com,{letter * 250}" for letter in "abcdefghij"),
        ]
        command = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
                   "--bind-interfaces",
                   f"--listen-address={RESOLVER_V4}", f"--listen-address={RESOLVER_V6}", "--log-queries", "--user=root",
                   f"--log-facility={self.log}", "--edns-packet-max=4096", "--local=/example.com/",
                   f"--pid-file={self.folder}/dnsmasq.pid", *records]  # fmt: skip
        lies = [sys.executable, "-c", LIES]
        for argv in (command, lies):
            self.servers.append(
                subprocess.Popen(
                    self.outside.inside(argv),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    env=environment(),
                )
            )
        liar = self.servers[1].stdout
        assert liar is not None
        assert liar.readline() == "ready\n"
        deadline = time.monotonic() + 10
        while (
            self.outside.run(["dig", "+short", "+tries=1", "+time=1", f"@{RESOLVER_V6}", "www.example.com"]).stdout
            == ""
        ):
            assert time.monotonic() < deadline, "dnsmasq does not answer"

    def dig(self, *argv: str) -> str:
        found = self.client.run(["dig", "+tries=1", "+time=5", *argv])
        assert found.returncode == 0, found.stdout
        return found.stdout

    def proxy(self, state: Path, loop: str) -> Proxy:
        """Another proxy on the node."""
        return Proxy(self.node, state, loop)

    def exchange(self, script: str) -> str:
        """What a program of the client's prints."""
        done = self.client.run([sys.executable, "-c", script], timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def destroy(self) -> None:
        for server in self.servers:
            server.kill()
            server.wait()
            if server.stdout is not None:
                server.stdout.close()
        for namespace in (self.client, self.node, self.outside):
            if namespace.exists():
                namespace.kill_all()
                namespace.delete()


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    made = Net(tmp_path_factory.mktemp("net"))
    try:
        made.build()
        yield made
    finally:
        made.destroy()


@pytest.fixture(scope="module", params=["uvloop"])
def proxy(net: Net, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    made = Proxy(net.node, tmp_path_factory.mktemp("state"), request.param)
    try:
        yield made
    finally:
        made.stop()
    assert made.errors == ""
    assert made.process.returncode == 0
