# SPDX-License-Identifier: Apache-2.0
"""A workload cannot forge its source, its mark or its destination, nor reach what is not meant for it.

It is root in its own namespace here and sends what it likes. Sniffers on the outside host and in the neighbour's
namespace look for a token that every forbidden packet carries, whatever protocol it comes in.
"""

import json
import sys
from collections.abc import Iterator

import pytest

from l7lab import Lab, traffic
from l7lab.gate import Gate
from l7lab.process import Process, wait_until
from l7lab.scenario import API, API_V4
from l7lab.topology import GATEWAY_V4, IN_CIDR, NODE_V4, NODE_V6, RESOLVER_V4, UNNAMED

PROXY_PORTS = (10080, 10053)

SNIFF = """
import re, socket, sys
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
sock.bind((sys.argv[1], 3))
print("ready", flush=True)
while True:
    data, (_, _, kind, _, _) = sock.recvfrom(65535)
    if kind != socket.PACKET_OUTGOING:
        for token in re.findall(rb"token<([^>]*)>", data):
            print(token.decode(), flush=True)
"""

# Makes packets of every kind by hand. Each line of its input is one: a name and a Python expression for the frame.
FORGE = """
import ipaddress, json, socket, struct, sys
facts = json.loads(sys.argv[1])
mine, gateway = bytes.fromhex(facts["mine"]), bytes.fromhex(facts["gateway"])

def token(name, more=0):
    return b"token<" + name.encode() + b">" + bytes(more)

def checksum(data):
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

def udp(payload, port=53, source_port=4000):
    return struct.pack("!4H", source_port, port, 8 + len(payload), 0) + payload

def tcp(payload, port=80, flags=0x18, source_port=4000):
    return struct.pack("!HHIIBBHHH", source_port, port, 1, 1, 0x50, flags, 4096, 0, 0) + payload

def ipv4(payload, protocol=17, source=None, destination=None, options=b"", fragment=0, identifier=7):
    source, destination = source or facts["v4"], destination or facts["forbidden_v4"]
    head = struct.pack("!BBHHHBBH4s4s", 0x45 + len(options) // 4, 0, 20 + len(options) + len(payload), identifier,
                       fragment, 64, protocol, 0, socket.inet_aton(source), socket.inet_aton(destination)) + options
    return (0x0800, head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload)

def ipv6(payload, protocol=17, source=None, destination=None):
    source, destination = source or facts["v6"], destination or facts["forbidden_v6"]
    return (0x86DD, struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + ipaddress.IPv6Address(source).packed
            + ipaddress.IPv6Address(destination).packed + payload)

def frame(packet, ethertype=None, to=None, tags=()):
    kind, payload = packet
    between = b"".join(struct.pack("!HH", protocol, number) for protocol, number in tags)
    return (to or gateway) + mine + between + struct.pack("!H", ethertype or kind) + payload

sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
sock.bind(("eth0", 0))
for line in sys.stdin:
    name, _, expression = line.partition("|")
    sock.send(eval(expression, globals() | {"t": token(name), "name": name}))
"""

FRAMES = {
    "plain UDP": "frame(ipv4(udp(t)))",
    "plain UDP over IPv6": "frame(ipv6(udp(t)))",
    "TCP in the middle of no connection": "frame(ipv4(tcp(t), 6))",
    "TCP in the middle of no connection over IPv6": "frame(ipv6(tcp(t), 6))",
    "TCP with data on the SYN": "frame(ipv4(tcp(t, flags=2), 6))",
    "a reset": "frame(ipv4(tcp(t, flags=4), 6))",
    "SYN and ACK together": "frame(ipv4(tcp(t, flags=0x12), 6))",
    "no flags at all": "frame(ipv4(tcp(t, flags=0), 6))",
    "a neighbour's source": "frame(ipv4(udp(t), source=facts['neighbour_v4'], destination=facts['resolver_v4']))",
    "a neighbour's source over IPv6":
        "frame(ipv6(udp(t), source=facts['neighbour_v6'], destination=facts['resolver_v6']))",
    "the node's source": "frame(ipv4(udp(t), source=facts['node_v4'], destination=facts['resolver_v4']))",
    "the node's source over IPv6": "frame(ipv6(udp(t), source=facts['node_v6'], destination=facts['resolver_v6']))",
    "the gateway's source": "frame(ipv4(udp(t), source='203.0.113.1'))",
    "an outside source": "frame(ipv4(udp(t), source='198.51.100.9'))",
    "no source": "frame(ipv4(udp(t), source='0.0.0.0'))",
    "no source over IPv6": "frame(ipv6(udp(t), source='::'))",
    "a loopback source": "frame(ipv4(udp(t), source='127.0.0.1'))",
    "a loopback source over IPv6": "frame(ipv6(udp(t), source='::1'))",
    "a broadcast source": "frame(ipv4(udp(t), source='255.255.255.255'))",
    "a link-local source": "frame(ipv6(udp(t), source='fe80::77'))",
    "a mapped source": "frame(ipv6(udp(t), source='::ffff:' + facts['neighbour_v4']))",
    "a mapped destination": "frame(ipv6(udp(t), destination='::ffff:' + facts['forbidden_v4']))",
    "IP options": "frame(ipv4(udp(t), options=bytes([7, 7, 4, 0, 0, 0, 0, 0])))",
    "a source route": "frame(ipv4(udp(t), destination=facts['allowed_v4'], "
        "options=bytes([131, 7, 4]) + socket.inet_aton(facts['forbidden_v4']) + b'\\0'))",
    "a first fragment": "frame(ipv4(udp(t), fragment=0x2000))",
    "a later fragment": "frame(ipv4(t, fragment=0x0010))",
    "a last fragment of TCP to what is allowed": "frame(ipv4(t, 6, fragment=0x0010, destination=facts['allowed_v4']))",
    "a fragment so small that it has no ports": "frame(ipv4(t[:4] + t, 6, fragment=0x2000))",
    "hop-by-hop options": "frame(ipv6(bytes([17, 0, 1, 4, 0, 0, 0, 0]) + udp(t), 0))",
    "destination options": "frame(ipv6(bytes([17, 0, 1, 4, 0, 0, 0, 0]) + udp(t), 60))",
    "a routing header": "frame(ipv6(bytes([17, 2, 0, 1, 0, 0, 0, 0]) + "
        "ipaddress.IPv6Address(facts['forbidden_v6']).packed + udp(t), 43))",
    "an IPv6 fragment": "frame(ipv6(bytes([17, 0, 0, 1, 0, 0, 0, 9]) + udp(t), 44))",
    "a later IPv6 fragment": "frame(ipv6(bytes([17, 0, 0, 64, 0, 0, 0, 9]) + t, 44))",
    "a chain of too many headers": "frame(ipv6(bytes([60, 0, 1, 4, 0, 0, 0, 0]) * 8 + bytes([17, 0, 1, 4, 0, 0, 0, 0]) "
        "+ udp(t), 60))",
    "IPv4 in IPv4": "frame(ipv4(ipv4(udp(t))[1], 4))",
    "IPv6 in IPv4": "frame(ipv4(ipv6(udp(t))[1], 41))",
    "GRE": "frame(ipv4(struct.pack('!HH', 0, 0x0800) + ipv4(udp(t))[1], 47))",
    "ESP": "frame(ipv4(bytes(8) + t, 50))",
    "SCTP": "frame(ipv4(struct.pack('!HHII', 4000, 80, 0, 0) + t, 132))",
    "UDP-Lite": "frame(ipv4(udp(t), 136))",
    "protocol 255": "frame(ipv4(t, 255))",
    "an echo": "frame(ipv4(bytes([8, 0, 0, 0, 0, 1, 0, 1]) + t, 1))",
    "an echo reply": "frame(ipv4(bytes([0, 0, 0, 0, 0, 1, 0, 1]) + t, 1))",
    "an ICMP error about nothing": "frame(ipv4(bytes([3, 1, 0, 0, 0, 0, 0, 0]) + ipv4(udp(t))[1], 1))",
    "an ICMPv6 error about nothing": "frame(ipv6(bytes([1, 0, 0, 0, 0, 0, 0, 0]) + ipv6(udp(t))[1], 58))",
    "a redirect": "frame(ipv4(bytes([5, 1, 0, 0]) + socket.inet_aton(facts['v4']) + ipv4(udp(t))[1], 1))",
    "a router advertisement to a neighbour":
        "frame(ipv6(bytes([134, 0, 0, 0, 64, 0, 0, 0]) + bytes(8) + t, 58, destination=facts['neighbour_v6']))",
    "a neighbour solicitation to the outside":
        "frame(ipv6(bytes([135, 0, 0, 0, 0, 0, 0, 0]) + bytes(16) + t, 58, destination=facts['forbidden_v6']))",
    "a multicast group": "frame(ipv4(udp(t), destination='239.1.2.3'))",
    "a multicast group to its own address":
        "frame(ipv4(udp(t), destination='239.1.2.3'), to=bytes.fromhex('01005e010203'))",
    "a broadcast": "frame(ipv4(udp(t), destination='255.255.255.255'), to=bytes([255] * 6))",
    "a broadcast frame to a neighbour": "frame(ipv4(udp(t), destination=facts['neighbour_v4']), to=bytes([255] * 6))",
    "a VLAN tag": "frame(ipv4(udp(t)), tags=[(0x8100, 5)])",
    "a priority tag": "frame(ipv4(udp(t)), tags=[(0x8100, 0)])",
    "two tags": "frame(ipv4(udp(t)), tags=[(0x88A8, 0), (0x8100, 0)])",
    "MPLS": "frame(ipv4(udp(t)), tags=[(0x8847, 0), (0x01FF, 0x40)])",
    "IPv6 called IPv4": "frame(ipv6(udp(t)), ethertype=0x0800)",
    "IPv4 called IPv6": "frame(ipv4(udp(t)), ethertype=0x86DD)",
    "a protocol that nobody knows": "frame((0x1234, t))",
    "a length that is a lie": "frame((0x0800, ipv4(udp(t))[1][:24] + t))",
    "a header that is too short": "frame((0x0800, bytes([0x41]) + ipv4(udp(t))[1][1:]))",
    "the neighbour by its address": "frame(ipv4(udp(t), destination=facts['neighbour_v4']))",
    "the neighbour by its address over IPv6": "frame(ipv6(udp(t), destination=facts['neighbour_v6']))",
}  # fmt: skip

# One datagram with a mark, or a connection with one.
MARKED = """
import socket, sys
mark, address, port, payload = int(sys.argv[1], 16), sys.argv[2], int(sys.argv[3]), sys.argv[4].encode()
family = socket.AF_INET6 if ":" in address else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as sock:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    sock.sendto(payload, (address, port))
with socket.socket(family, socket.SOCK_STREAM) as sock:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    sock.settimeout(0.4)
    try:
        sock.connect((address, port))
        sock.sendall(payload)
        print(sock.recv(4096).decode())
    except OSError:
        print("nothing")
"""


def python(lab: Lab, source: str, *arguments: str, stdin: str | None = None) -> str:
    """Run a script as root of the workload `batch`; it may not fail."""
    done = lab.batch.namespace.run([sys.executable, "-I", "-S", "-c", source, *arguments], stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sniffers(gate: Gate) -> Iterator[list[Process]]:
    """Who would notice: the outside host, and the other workloads."""
    lab = gate.lab
    places = ((lab.outside, "ext0"), (lab.frontend, "eth0"), (lab.backend, "eth0"))
    started = [
        lab.start(host, [sys.executable, "-I", "-S", "-c", SNIFF, interface], f"sniff-{number}")
        for number, (host, interface) in enumerate(places)
    ]
    for sniffer in started:
        sniffer.wait(lambda sniffer=sniffer: "ready" in sniffer.output(), "it sniffs")
    yield started
    for sniffer in started:
        sniffer.stop()


def seen(sniffers: list[Process]) -> set[str]:
    """Every token that arrived anywhere."""
    return {line for sniffer in sniffers for line in sniffer.log.read_text().splitlines()} - {"ready"}


def arrived(lab: Lab, sniffers: list[Process], last: str) -> set[str]:
    """Every token, once one that is allowed has arrived after all others."""
    traffic.tcp(lab.batch.namespace, IN_CIDR, 80, f"GET /token<{last}> HTTP/1.0\r\n\r\n".encode(), timeout=1.0)
    wait_until(lambda: last in seen(sniffers), "what is allowed to arrive")
    return seen(sniffers)


def facts(lab: Lab) -> str:
    """What the forger must know of the lab."""
    macs = [
        namespace.run(["ip", "-o", "link", "show", interface]).stdout.split("link/ether ")[1][:17].replace(":", "")
        for namespace, interface in ((lab.batch.namespace, "eth0"), (lab.node.namespace, lab.batch.interface))
    ]
    return json.dumps(
        {
            "mine": macs[0],
            "gateway": macs[1],
            "v4": lab.batch.v4,
            "v6": lab.batch.v6,
            "neighbour_v4": lab.frontend.v4,
            "neighbour_v6": lab.frontend.v6,
            "node_v4": NODE_V4,
            "node_v6": NODE_V6,
            "resolver_v4": RESOLVER_V4,
            "resolver_v6": "2001:db8::10",
            "allowed_v4": IN_CIDR,
            "forbidden_v4": UNNAMED,
            "forbidden_v6": "2001:db8:100::3",
        }
    )


def test_packets_made_by_hand_arrive_where_nobody_judges_them(lab: Lab) -> None:
    """Else the next test would prove nothing."""
    sniffer = lab.start(lab.outside, [sys.executable, "-I", "-S", "-c", SNIFF, "ext0"], "sniff")
    sniffer.wait(lambda: "ready" in sniffer.output(), "it sniffs")
    wanted = {"plain UDP", "plain UDP over IPv6", "a reset", "IPv4 in IPv4", "a later fragment", "GRE", "SCTP"}
    wanted |= {"an outside source", "a neighbour's source over IPv6", "destination options", "an echo"}
    lines = "".join(f"{name}|{FRAMES[name]}\n" for name in wanted)
    python(lab, FORGE, facts(lab), stdin=lines)
    wait_until(lambda: wanted <= seen([sniffer]), "every packet")
    sniffer.stop()


def test_no_packet_made_by_hand_gets_through(gate: Gate, sniffers: list[Process]) -> None:
    lab = gate.lab
    lines = "".join(f"{name}|{expression}\n" for name, expression in FRAMES.items())
    for _ in range(2):
        python(lab, FORGE, facts(lab), stdin=lines)
    assert arrived(lab, sniffers, "by hand") & set(FRAMES) == set()


@pytest.mark.parametrize("mark", ["0x200", "0x400", "0xa00", "0xb00", "0xf00", "0x7fffffff"])
@pytest.mark.parametrize("address", [UNNAMED, "2001:db8:100::3", "203.0.113.11", "2001:db8:244::11"])
def test_a_mark_set_in_the_workload_opens_nothing(gate: Gate, sniffers: list[Process], mark: str, address: str) -> None:
    token = f"{mark} {address}"
    for port in (80, 53, 8080):
        assert python(gate.lab, MARKED, mark, address, str(port), f"token<{token}>") == "nothing\n"
    assert token not in arrived(gate.lab, sniffers, f"after {token}")


@pytest.mark.parametrize("mark", ["0x200", "0x400", "0xa00", "0xb00"])
def test_a_mark_does_not_get_a_request_past_the_proxy(gate: Gate, mark: str) -> None:
    lab = gate.lab
    assert traffic.dns(lab.frontend.namespace, "api.example.com").addresses
    payload = "GET /admin HTTP/1.1\r\nHost: api.example.com\r\n\r\n"
    done = lab.frontend.namespace.run([sys.executable, "-I", "-S", "-c", MARKED, mark, API_V4, "80", payload])
    assert done.stdout.startswith("HTTP/1.1 403"), done.stdout + done.stderr
    assert traffic.http(lab.frontend.namespace, f"{API}/admin", address=API_V4).status == 403


@pytest.fixture(scope="module")
def unlimited(gate: Gate) -> Iterator[None]:
    """`batch` as a workload that no policy limits."""
    gate.must("endpoint", "remove", "batch")
    gate.must("endpoint", "add", "--netns", gate.lab.batch.namespace.name, "--name", "batch", "--label=app=free")
    assert traffic.connect(gate.lab.batch.namespace, UNNAMED, 80).open
    yield
    gate.must("endpoint", "remove", "batch")
    gate.add(gate.lab.batch)


ADDRESSES = (
    NODE_V4,
    NODE_V6,
    GATEWAY_V4,
    "fe80::1%eth0",
    "127.0.0.1",
    "::1",
    "::ffff:192.0.2.1",
    "203.0.113.11",
    "198.51.100.1",
)


@pytest.mark.parametrize("limited", [True, False])
def test_the_proxies_listeners_cannot_be_reached(gate: Gate, limited: bool, request: pytest.FixtureRequest) -> None:
    if not limited:
        request.getfixturevalue("unlimited")
    script = """
import socket, sys
for address in sys.argv[1:]:
    for port in (10080, 10053):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            found = socket.getaddrinfo(address, port, type=kind)[0]
            with socket.socket(found[0], kind) as sock:
                sock.settimeout(0.15)
                try:
                    sock.connect(found[4])
                    sock.send(b"GET / HTTP/1.0\\r\\n\\r\\n")
                    print(address, port, sock.recv(1024))
                except OSError:
                    pass
"""
    assert python(gate.lab, script, *ADDRESSES) == ""


def test_loopback_destinations_and_forged_sources_from_an_unlimited_workload_reach_no_listener(
    gate: Gate, unlimited: None, sniffers: list[Process]
) -> None:
    lab = gate.lab
    before = {row["reason"]: row["packets"] for row in gate.status()["drops"]}
    frames = {
        f"to {address} {port} {kind}": f"frame({version}({kind}(t, {port}), {number}, destination='{address}'))"
        for version, address in (("ipv4", "127.0.0.1"), ("ipv6", "::1"), ("ipv6", "::ffff:127.0.0.1"))
        for port in PROXY_PORTS
        for kind, number in (("udp", 17), ("tcp", 6))
    }
    forged = [name for name in FRAMES if " source" in name and name != "a source route"]
    lines = "".join(f"{name}|{expression}\n" for name, expression in frames.items())
    lines += "".join(f"{name}|{FRAMES[name]}\n" for name in forged)
    python(lab, FORGE, facts(lab), stdin=lines)
    got = arrived(lab, sniffers, "unlimited")
    assert got & (set(frames) | set(forged)) == set()
    after = {row["reason"]: row["packets"] for row in gate.status()["drops"]}
    assert after["INVALID_SOURCE_IP"] - before.get("INVALID_SOURCE_IP", 0) >= len(forged)
    assert not [
        record for record in gate.audit() if record["layer"] != "packet" and record["source"]["name"] == "batch"
    ]


def test_nothing_of_the_daemon_listens_on_a_network(gate: Gate) -> None:
    said = gate.lab.node.namespace.run(["ss", "-Hltun"]).stdout
    local = {(line.split()[0], line.split()[4]) for line in said.splitlines()}
    # UDP ports beside the proxy's are those of questions in flight.
    ours = {
        (kind, where) for kind, where in local if kind == "tcp" or where.rpartition(":")[2] in map(str, PROXY_PORTS)
    }
    assert ours == {
        (kind, f"{address}:{port}")
        for kind, port in (("tcp", 10080), ("tcp", 10053), ("udp", 10053))
        for address in ("127.0.0.1", "[::1]")
    }
    assert gate.socket.stat().st_mode & 0o007 == 0
