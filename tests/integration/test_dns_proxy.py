# SPDX-License-Identifier: Apache-2.0
"""The DNS proxy between a real dig and a real dnsmasq, in namespaces, with routing rules in the datapath's place.

client ── node (the proxy) ── outside (dnsmasq, and a name server that lies)
"""

import contextlib
import itertools
import json
import secrets
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dns.message
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


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
@pytest.mark.parametrize("resolver", [RESOLVER_V4, RESOLVER_V6])
def test_an_allowed_name_resolves_and_its_addresses_are_in_the_tables(
    net: Net, proxy: Proxy, transport: str, resolver: str
) -> None:
    assert net.dig(transport, "+short", f"@{resolver}", "www.example.com", "A") == "203.0.113.80\n"
    assert net.dig(transport, "+short", f"@{resolver}", "www.example.com", "AAAA") == "2001:db8:80::80\n"
    said = proxy.tell()
    assert {"203.0.113.80", "2001:db8:80::80"} <= set(said["tables"])
    rows = {row["address"]: row for row in said["cache"] if row["name"] == "www.example.com"}
    assert set(rows) == {"203.0.113.80", "2001:db8:80::80"}
    assert all(70 < row["ttl"] <= 78 and row["endpoints"] == [9] for row in rows.values())
    assert rows["203.0.113.80"]["selectors"] == ["fqdn:**.example.com"]
    assert rows["203.0.113.80"]["identity"] == said["tables"]["203.0.113.80"]
    flow = proxy.flow("www.example.com", protocol=6 if transport == "+tcp" else 17, rule="test/dns egress[0]")
    assert flow["verdict"] == 1
    assert flow["destination"]["port"] == 53


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
@pytest.mark.parametrize("resolver", [RESOLVER_V4, RESOLVER_V6])
@pytest.mark.parametrize("name", ["secret.example.net", "SECRET.Example.NET", "www.example.com.evil.example.net"])
def test_a_forbidden_name_is_refused_recorded_and_never_asked_for(
    net: Net, proxy: Proxy, transport: str, resolver: str, name: str
) -> None:
    said = net.dig(transport, f"@{resolver}", name)
    assert "status: REFUSED" in said
    assert "EDE: 18 (Prohibited): (No DNS rule allows the name)" in said
    assert "evil" not in net.log.read_text()
    assert "secret" not in net.log.read_text().lower()
    flow = proxy.flow(name.lower(), protocol=6 if transport == "+tcp" else 17)
    assert (flow["verdict"], flow["reason"], flow["dns"]["rcode"]) == (2, 220, "REFUSED")
    assert flow["policies"] == ["test/dns", "test/web"]
    assert flow["endpoint"] == 9
    assert flow["source"]["labels"] == ["k8s:app=client"]


def test_the_name_server_sees_the_client_and_not_the_node(net: Net, proxy: Proxy) -> None:
    net.dig(f"@{RESOLVER_V4}", "n1.example.com")
    net.dig("+tcp", f"@{RESOLVER_V6}", "n2.example.com")
    log = net.log.read_text()
    assert f"query[A] n1.example.com from {CLIENT_V4}" in log
    assert f"query[A] n2.example.com from {CLIENT_V6}" in log


def test_letters_keep_their_case_and_names_do_not(net: Net, proxy: Proxy) -> None:
    said = net.dig(f"@{RESOLVER_V4}", "wWw.ExAmPle.cOm")
    assert ";wWw.ExAmPle.cOm." in said
    assert "203.0.113.80" in said
    assert all(row["name"] == row["name"].lower() for row in proxy.tell()["cache"])


def test_an_alias_teaches_the_asked_name_with_the_lowest_ttl(net: Net, proxy: Proxy) -> None:
    net.dig(f"@{RESOLVER_V4}", "alias.example.com")
    rows = [row for row in proxy.tell()["cache"] if row["name"] == "alias.example.com"]
    assert [row["address"] for row in rows] == ["203.0.113.80"]
    assert rows[0]["ttl"] <= 34


def test_a_long_answer_arrives_in_fragments_or_truncated_and_then_over_tcp(net: Net, proxy: Proxy) -> None:
    whole = net.dig("+bufsize=4096", "+notcp", "+ignore", f"@{RESOLVER_V4}", "many.example.com")
    assert whole.count("203.0.113.") >= 100
    assert "tc" not in whole.split(";; flags: ")[1].split(";")[0].split()
    assert (
        net.dig("+bufsize=4096", "+notcp", "+ignore", f"@{RESOLVER_V6}", "many.example.com").count("203.0.113.") >= 100
    )
    short = net.dig("+bufsize=512", "+ignore", f"@{RESOLVER_V4}", "many.example.com")
    assert "tc" in short.split(";; flags: ")[1].split(";")[0].split()
    assert net.dig("+bufsize=512", "+short", f"@{RESOLVER_V4}", "many.example.com").count("203.0.113.") == 100
    rows = [row for row in proxy.tell()["cache"] if row["name"] == "many.example.com"]
    assert len({row["address"] for row in rows}) == 100
    # What each server says is kept apart.
    assert {row["server"] for row in rows} == {RESOLVER_V4, RESOLVER_V6}
    assert net.dig("+tcp", f"@{RESOLVER_V4}", "long.example.com", "TXT").count("jjjj") > 0


def test_other_types_and_missing_names_pass_and_teach_nothing(net: Net, proxy: Proxy) -> None:
    assert "status: NXDOMAIN" in net.dig(f"@{RESOLVER_V4}", "nothing.example.com")
    assert "status: NOERROR" in net.dig(f"@{RESOLVER_V4}", "www.example.com", "HTTPS")
    assert not [row for row in proxy.tell()["cache"] if row["name"] == "nothing.example.com"]


@pytest.mark.parametrize("tcp", [False, True])
def test_records_of_every_type_come_as_the_name_server_gave_them(net: Net, proxy: Proxy, tcp: bool) -> None:
    queries = {
        number: dns.message.make_query(
            "SiGned.example.com", number, id=number, want_dnssec=True, payload=4096
        ).to_wire()
        for number in RECORDS
    }
    script = f"""
import socket
for wire in {list(queries.values())!r}:
    s = socket.socket(socket.AF_INET, socket.{"SOCK_STREAM" if tcp else "SOCK_DGRAM"}); s.settimeout(5)
    s.connect(("{RESOLVER_V4}", 53))
    s.sendall({"len(wire).to_bytes(2, 'big') + wire" if tcp else "wire"})
    print(s.recv(4096).hex())
"""
    done = net.outside.run([sys.executable, "-c", script], timeout=30)
    through, beside = exchange(net, script).split(), done.stdout.split()
    assert through == beside
    for answer, data in zip(through, RECORDS.values(), strict=True):
        assert data.replace(" ", "") in answer
        assert b"SiGned".hex() in answer


@pytest.mark.parametrize(
    ("server", "transport", "reason"),
    [
        (NOBODY, "+notcp", 214),
        (NOBODY, "+tcp", 214),
        (BLACKHOLE, "+notcp", 222),
        (BLACKHOLE, "+tcp", 222),
        (LIAR, "+notcp", 223),
    ],
)
def test_a_name_server_that_is_dead_or_lies_becomes_a_servfail(
    net: Net, proxy: Proxy, server: str, transport: str, reason: int
) -> None:
    name = f"liar.{server.replace('.', '-')}{transport[1:]}.example.com"
    assert "status: SERVFAIL" in net.dig(transport, f"@{server}", name)
    flow = proxy.flow(name, reason=reason)
    assert (flow["verdict"], flow["destination"]["address"]) == (3, server)


def test_silence_becomes_a_servfail_in_time(net: Net, proxy: Proxy) -> None:
    assert "status: SERVFAIL" in net.dig(f"@{LIAR}", "silent.example.com")
    assert proxy.flow("silent.example.com")["reason"] == 222


def test_a_name_server_that_is_silent_delays_nobody_who_asks_another(net: Net, proxy: Proxy) -> None:
    queries = [dns.message.make_query(f"n{number}.example.com", "A", id=number).to_wire() for number in range(40)]
    silent = dns.message.make_query("silent.example.com", "A", id=0).to_wire()[2:]
    script = f"""
import select, socket
sock = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
sock[0].connect(("{LIAR}", 53)); sock[1].connect(("{RESOLVER_V4}", 53))
for number in range(200): sock[0].send(number.to_bytes(2, "big") + {silent!r})
for query in {queries!r}: sock[1].send(query)
order = []
while len(order) < 240 and (ready := select.select(sock, [], [], 5)[0]):
    for one in ready: order.append((sock.index(one), one.recv(512)[3] & 15))
print(order == [(1, 0)] * 40 + [(0, 2)] * 200)
"""
    assert exchange(net, script) == "True\n"


def test_only_the_fitting_one_of_several_answers_counts(net: Net, proxy: Proxy) -> None:
    assert net.dig("+short", f"@{LIAR}", "late.example.com") == "203.0.113.1\n"
    rows = [row["address"] for row in proxy.tell()["cache"] if row["name"] == "late.example.com"]
    assert rows == ["203.0.113.1"]
    assert "status: SERVFAIL" in net.dig(f"@{LIAR}", "broken.example.com")
    assert proxy.flow("broken.example.com")["reason"] == 223


def test_an_answer_that_cannot_be_learnt_is_withheld(net: Net, proxy: Proxy) -> None:
    proxy.tell("full")
    try:
        assert "status: SERVFAIL" in net.dig(f"@{RESOLVER_V4}", "n60.example.com")
    finally:
        proxy.tell("room")
    flow = proxy.flow("n60.example.com")
    assert (flow["reason"], flow["detail"]) == (225, "the kernel table ipcache is full")
    assert not [row for row in proxy.tell()["cache"] if row["name"] == "n60.example.com"]
    assert net.dig("+short", f"@{RESOLVER_V4}", "n60.example.com") == "203.0.113.61\n"


def test_ids_and_ports_towards_the_name_server_are_nothing_that_the_client_chose(net: Net, proxy: Proxy) -> None:
    # The server answers with the ID and the port that it saw. A port is used for 32 questions at most.
    script = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); s.connect(("{LIAR}", 53))
for number in range(100):
    s.send(number.to_bytes(2, "big") + {dns.message.make_query("seen.example.com", "A", id=0).to_wire()[2:]!r})
    print(s.recv(512)[-4:].hex())
"""
    seen = exchange(net, script).split()
    ids, ports = [int(one[:4], 16) for one in seen], {int(one[4:], 16) for one in seen}
    assert len(set(ids)) > 95
    assert sum(ident == number for number, ident in enumerate(ids)) < 3
    assert sum(abs(one - other) < 64 for one, other in itertools.pairwise(ids)) < 10
    assert len(ports) >= 4
    assert min(ports) > 1023


def exchange(net: Net, script: str) -> str:
    done = net.client.run([sys.executable, "-c", script], timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_malformed_query_gets_an_answer(net: Net, proxy: Proxy) -> None:
    header = "1234 0100 0001 0000 0000 0000"
    wires = {
        "two questions": ("1234 0100 0002 0000 0000 0000 0377777700 0001 0001 0377777700 0001 0001", 1),
        "no question": ("1234 0100 0000 0000 0000 0000", 1),
        "an update": ("1234 2800 0001 0000 0000 0000 0377777700 0001 0001", 4),
        "a pointer": (f"{header} c00c 0001 0001", 1),
        "no class": (f"{header} 0377777700 0001", 1),
        "class CHAOS": (f"{header} 0377777700 0001 0003", 5),
        "a zone transfer": (f"{header} 03777777076578616d706c6503636f6d00 00fc 0001", 5),
        "a dot inside a label": (f"{header} 0b7777772e6578616d706c6503636f6d00 0001 0001", 5),
        "a NUL": (f"{header} 0377770007657861 6d706c6503636f6d00 0001 0001", 5),
    }
    script = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); s.connect(("{RESOLVER_V4}", 53))
for wire in {[bytes.fromhex(text) for text, _ in wires.values()]!r}:
    s.send(wire); answer = s.recv(512); print(answer[3] & 15 if answer[:2] == wire[:2] else "?")
"""
    assert exchange(net, script).split() == [str(rcode) for _, rcode in wires.values()]


def test_pipelined_tcp_queries_are_all_answered_whatever_the_order(net: Net, proxy: Proxy) -> None:
    queries = b""
    for number in range(300):
        name = "secret.example.net" if number % 3 == 0 else f"n{number % 50}.example.com"
        wire = dns.message.make_query(name, "A", id=number).to_wire()
        queries += struct.pack("!H", len(wire)) + wire
    script = f"""
import socket, struct, collections
s = socket.create_connection(("{RESOLVER_V4}", 53)); s.settimeout(10)
s.sendall({queries!r}); s.shutdown(socket.SHUT_WR)
data = b""
while chunk := s.recv(65536): data += chunk
seen = collections.Counter(); ids = set()
while data:
    n, = struct.unpack("!H", data[:2]); m, data = data[2:2 + n], data[2 + n:]
    seen[m[3] & 15] += 1; ids.add(m[:2])
print(dict(seen), len(ids))
"""
    assert exchange(net, script) == "{5: 100, 0: 200} 300\n"


def test_queries_sent_byte_by_byte_and_broken_lengths(net: Net, proxy: Proxy) -> None:
    wire = dns.message.make_query("n3.example.com", "A", id=3).to_wire()
    script = f"""
import socket, time
s = socket.create_connection(("{RESOLVER_V6}", 53)); s.settimeout(5); s.setsockopt(6, 1, 1)
for byte in {struct.pack("!H", len(wire)) + wire!r}: s.send(bytes([byte]))
print(len(s.recv(512)) > 20)
s.send(b"\\0\\x03abc"); print(s.recv(512))
"""
    assert exchange(net, script) == "True\nb''\n"


def test_many_questions_in_flight_from_many_sockets_all_come_back(net: Net, proxy: Proxy) -> None:
    script = f"""
import select, socket, struct
def name(n): return b"".join(bytes([len(p)]) + p for p in (b"n%d" % (n % 50), b"example", b"com")) + b"\\0"
sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(20)]
for s in sockets: s.connect(("{RESOLVER_V4}", 53))
want = {{}}; got = 0
for n in range(1000):
    s = sockets[n % 20]
    want[s, n] = name(n)
    s.send(struct.pack("!6H", n, 0x100, 1, 0, 0, 0) + name(n) + b"\\0\\1\\0\\1")
    if n % 100 == 99:
        while want:
            ready = select.select(sockets, [], [], 5)[0]
            if not ready: break
            for s in ready:
                m = s.recv(4096); key = (s, m[0] << 8 | m[1])
                assert m[12:12 + len(want[key])] == want[key] and m[3] & 15 == 0, m
                del want[key]; got += 1
print(got)
"""
    assert exchange(net, script) == "1000\n"


def test_a_killed_proxy_comes_back_with_all_it_had_learnt(net: Net, tmp_path: Path) -> None:
    other = Net(tmp_path)
    try:
        other.build()
        state = tmp_path / "state"
        first = Proxy(other.node, state, "asyncio")
        other.dig(f"@{RESOLVER_V4}", "www.example.com")
        other.dig("+tcp", f"@{RESOLVER_V4}", "n5.example.com", "A")
        first.stop(kill=True)
        second = Proxy(other.node, state, "asyncio")
        try:
            said = second.tell()
            assert said["ready"] == 1
            assert {row["address"] for row in said["cache"]} == {"203.0.113.80", "203.0.113.6"}
            assert set(said["tables"]) == {"203.0.113.80", "203.0.113.6"}
            assert other.dig("+short", f"@{RESOLVER_V4}", "n6.example.com") == "203.0.113.7\n"
        finally:
            second.stop()
        assert second.errors == ""
    finally:
        other.destroy()


@pytest.mark.parametrize(("family", "server", "client"), [(4, RESOLVER_V4, CLIENT_V4), (6, RESOLVER_V6, CLIENT_V6)])
@pytest.mark.parametrize("taken", [False, True])
def test_answers_come_from_the_name_server_even_if_the_node_uses_that_port_itself(
    net: Net, family: int, server: str, client: str, taken: bool
) -> None:
    wildcard = "::" if family == 6 else "0.0.0.0"
    kind = "socket.AF_INET6" if family == 6 else "socket.AF_INET"
    listen = f"""
import socket
s = socket.socket({kind}, socket.SOCK_DGRAM); s.bind(("{client}", 7777)); s.settimeout(5); print("ready", flush=True)
for _ in range(2):
    data, sender = s.recvfrom(65535); print(len(data), sender[0], sender[1])
"""
    send = f"""
import asyncio, socket
from l7dns.reply import Replies
async def main():
    blocker = socket.socket({kind}, socket.SOCK_DGRAM)
    if {taken}: blocker.bind(("{wildcard}", 5300))
    replies = Replies(asyncio.get_running_loop(), print)
    for size in (100, 5000): replies.send(("{server}", 5300), ("{client}", 7777), bytes(size))
    replies.close(); blocker.close(); print(replies.errors)
asyncio.run(main())
"""
    waiting = subprocess.Popen(
        net.client.inside([sys.executable, "-c", listen]), stdout=subprocess.PIPE, text=True, env=environment()
    )
    try:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "ready\n"
        sent = net.node.run([sys.executable, "-W", "error", "-c", send])
        assert (sent.stdout, sent.stderr) == ("0\n", "")
        assert waiting.communicate(timeout=10)[0] == f"100 {server} 5300\n5000 {server} 5300\n"
    finally:
        waiting.kill()
        waiting.wait()
