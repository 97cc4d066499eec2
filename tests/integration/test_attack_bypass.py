# SPDX-License-Identifier: Apache-2.0
"""Ways out that a workload tries which is root in its own namespace, each with the reason that it is recorded for.

Packets made by hand are in `test_isolation.py`; here the workload's own kernel helps: socket options, other routes,
devices of its own. Every attempt has a destination of its own, by which its record is found, and carries a token that
sniffers on the outside and at the neighbours look for.
"""

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from l7lab import traffic
from l7lab.gate import Gate, Json
from l7lab.namespace import Namespace
from l7lab.process import Process, wait_until
from l7lab.scenario import API, API_V4
from l7lab.topology import GATEWAY_V4, IN_CIDR, UPLINK

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

# What every attempt may use. `to` and `to6` are its destinations, `t` its payload.
TOOLS = """
import ipaddress, os, socket, struct, subprocess, sys
name, own, own6, to, to6, gateway = sys.argv[1:]
t = b"token<" + name.encode() + b">" + b"." * 40

def ip(*commands):
    for command in commands:
        subprocess.run(["ip", *command.split()], check=True, capture_output=True)

def sock(kind=socket.SOCK_DGRAM, v6=False, protocol=0):
    made = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, kind, protocol)
    made.settimeout(0.2)
    return made

def quietly(work, *arguments):
    # The node may say that it does not forward this; the record is what counts.
    try:
        work(*arguments)
    except OSError as error:
        print(error)

def send(made, where=None, port=7):
    quietly(made.sendto, t, (where or to, port))

def udp(payload=b"", source_port=4000, port=7):
    payload = payload or t
    return struct.pack("!4H", source_port, port, 8 + len(payload), 0) + payload

def packet6(protocol, payload, length=None):
    return (struct.pack("!IHBB", 6 << 28, len(payload) if length is None else length, protocol, 64)
            + ipaddress.ip_address(own6).packed + ipaddress.ip_address(to6).packed + payload)

def raw6(protocol, payload, **named):
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as made:
        quietly(made.sendto, packet6(protocol, payload, **named), (to6, 0))

def raw(protocol, payload=None):
    with sock(socket.SOCK_RAW, protocol=protocol) as made:
        quietly(made.sendto, payload or t, (to, 0))

def packet4(payload, protocol=17, options=b""):
    words, length = 5 + len(options) // 4, 20 + len(options) + len(payload)
    return struct.pack("!BBHHHBBH4s4s", 0x40 + words, 0, length, 1, 0, 64, protocol, 0, socket.inet_aton(own),
                       socket.inet_aton(to)) + options + payload

def neighbour():
    # The hardware address of the node's end.
    said = subprocess.run(["ip", "neigh", "show", gateway], capture_output=True, text=True).stdout
    return said.split("lladdr ")[1].split()[0]

def frame(packet, between=b"", offload=b""):
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as made:
        made.bind(("eth0", 0))
        if offload:
            made.setsockopt(263, 15, 1)
        to = bytes.fromhex(neighbour().replace(":", ""))
        made.send(offload + to + bytes([2, 0, 0, 0, 0, 1]) + between + bytes([8, 0]) + packet)

"""


@dataclass(frozen=True)
class Attempt:
    """What is tried, and why it is dropped."""

    code: str
    reason: str = "POLICY_DENIED"
    to: str = ""
    """Its destination, where it cannot be chosen."""


ATTEMPTS = {
    "data with the first packet (TCP fast open)": Attempt(
        "with sock(socket.SOCK_STREAM) as made: quietly(made.sendto, t, 0x20000000, (to, 80))"
    ),
    "fast open by connect": Attempt(
        "with sock(socket.SOCK_STREAM) as made:\n"
        "    made.setsockopt(6, 30, 1)\n"
        "    made.connect((to, 80))\n"
        "    quietly(made.sendall, t)"
    ),
    "bound to the device": Attempt(
        "with sock() as made:\n    made.setsockopt(socket.SOL_SOCKET, 25, b'eth0\\0')\n    send(made)"
    ),
    "another routing table, by a mark": Attempt(
        "ip(f'route add default via {gateway} dev eth0 onlink table 77', 'rule add fwmark 77 lookup 77 priority 5')\n"
        "with sock() as made:\n    made.setsockopt(socket.SOL_SOCKET, 36, 77)\n    send(made)\n"
        "ip('rule del priority 5')"
    ),
    "a route without a gateway": Attempt(
        "ip(f'route add {to}/32 dev eth0 scope link', f'neigh add {to} lladdr {neighbour()} dev eth0')\n"
        "with sock() as made: send(made)"
    ),
    "not routed by the socket (SO_DONTROUTE)": Attempt(
        "ip(f'route add {to}/32 dev eth0 scope link', f'neigh add {to} lladdr {neighbour()} dev eth0')\n"
        "with sock() as made:\n    made.setsockopt(socket.SOL_SOCKET, 5, 1)\n    send(made)"
    ),
    "a loose source route": Attempt(
        "with sock() as made:\n"
        "    made.setsockopt(0, 4, bytes([131, 7, 4]) + socket.inet_aton(to) + b'\\0')\n    send(made)",
        "INVALID_PACKET",
    ),
    "a strict source route": Attempt(
        "frame(packet4(udp(), options=bytes([137, 7, 4]) + socket.inet_aton(to) + b'\\0'))", "INVALID_PACKET"
    ),
    "the route recorded": Attempt(
        "with sock() as made:\n    made.setsockopt(0, 4, bytes([7, 7, 4, 0, 0, 0, 0, 0]))\n    send(made)",
        "INVALID_PACKET",
    ),
    "timestamps": Attempt(
        "with sock() as made:\n    made.setsockopt(0, 4, bytes([68, 8, 5, 0, 0, 0, 0, 0]))\n    send(made)",
        "INVALID_PACKET",
    ),
    "hop-by-hop options": Attempt(
        "with sock(v6=True) as made:\n    made.setsockopt(41, 54, bytes([0, 0, 1, 4, 0, 0, 0, 0]))\n    send(made, to6)"
    ),
    "destination options": Attempt(
        "with sock(v6=True) as made:\n    made.setsockopt(41, 59, bytes([0, 0, 1, 4, 0, 0, 0, 0]))\n    send(made, to6)"
    ),
    "a segment routing header": Attempt(
        "with sock(v6=True) as made:\n"
        "    made.setsockopt(41, 57, bytes([0, 4, 4, 1, 1, 0, 0, 0]) + bytes(16) + ipaddress.ip_address(to6).packed)\n"
        "    send(made, to6)",
        "INVALID_PACKET",
    ),
    **{
        f"a routing header of type {kind}": Attempt(
            f"raw6(43, bytes([17, 2, {kind}, 1, 0, 0, 0, 0]) + ipaddress.ip_address(to6).packed + udp())",
            "INVALID_PACKET",
        )
        for kind in (0, 2, 4)
    },
    "a routing header that is used up": Attempt("raw6(43, bytes([17, 2, 0, 0] + [0] * 20) + udp())"),
    "more extension headers than are read": Attempt(
        "raw6(60, bytes([60, 0, 1, 4, 0, 0, 0, 0]) * 6 + bytes([17, 0, 1, 4, 0, 0, 0, 0]) + udp())", "UNKNOWN_L4"
    ),
    "a first fragment of nothing but extension headers": Attempt(
        "raw6(44, bytes([60, 0, 0, 1, 0, 0, 0, 5]) + bytes([17, 0, 1, 4, 0, 0, 0, 0]))", "FRAGMENT"
    ),
    "a fragment of a fragment": Attempt(
        "raw6(44, bytes([44, 0, 0, 1, 0, 0, 0, 5]) + bytes([17, 0, 0, 0, 0, 0, 0, 6]) + udp())", "INVALID_PACKET"
    ),
    "an atomic fragment": Attempt("raw6(44, bytes([17, 0, 0, 0, 0, 0, 0, 5]) + udp())"),
    "authentication header": Attempt("raw6(51, bytes([17, 4] + [0] * 22) + udp())", "UNKNOWN_L4"),
    "no next header": Attempt("raw6(59, t)", "UNKNOWN_L4"),
    "time to live of one": Attempt("with sock() as made:\n    made.setsockopt(0, 2, 1)\n    send(made)"),
    "hop limit of one": Attempt("with sock(v6=True) as made:\n    made.setsockopt(41, 16, 1)\n    send(made, to6)"),
    "IPv4 in IPv4": Attempt("raw(4, packet4(udp()))", "UNKNOWN_L4"),
    "IPv6 in IPv4": Attempt("raw(41, packet6(17, udp()))", "UNKNOWN_L4"),
    "GRE": Attempt("raw(47, struct.pack('!HH', 0, 0x800) + packet4(udp()))", "UNKNOWN_L4"),
    **{
        f"protocol {number}": Attempt(f"raw({number}, b'\\0' * 8 + t)", "UNKNOWN_L4")
        for number in (2, 33, 50, 51, 58, 89, 103, 112, 115, 136, 253)
    },
    "SCTP": Attempt("raw(132, struct.pack('!HHII', 4000, 80, 0, 0) + t)"),
    "a ping": Attempt("raw(1, bytes([8, 0, 0, 0, 0, 1, 0, 1]) + t)"),
    "an ICMP timestamp request": Attempt("raw(1, bytes([13, 0, 0, 0, 0, 1, 0, 1]) + t)"),
    "TCP from a raw socket, urgent": Attempt("raw(6, struct.pack('!HHIIBBHHH', 9, 80, 1, 1, 0x50, 0x38, 9, 0, 4) + t)"),
    "TCP with all flags": Attempt("raw(6, struct.pack('!HHIIBBHHH', 9, 80, 1, 1, 0x50, 0xff, 9, 0, 4) + t)"),
    "TCP whose header says that it is shorter": Attempt(
        "raw(6, struct.pack('!HHIIBBHHH', 9, 80, 1, 1, 0x10, 2, 9, 0, 0) + t)"
    ),
    "VXLAN of its own": Attempt(
        "ip(f'link add vx0 type vxlan id 5 remote {to} dstport 4789 dev eth0', 'addr add 192.0.2.77/24 dev vx0', "
        "'link set vx0 up', 'neigh add 192.0.2.78 lladdr 02:00:00:00:00:78 dev vx0')\n"
        "with sock() as made: send(made, '192.0.2.78')\n"
        "ip('link del vx0')"
    ),
    "a VLAN": Attempt("frame(packet4(udp()), bytes([0x81, 0, 0, 5]))", "VLAN_TAGGED"),
    "a service VLAN": Attempt("frame(packet4(udp()), bytes([0x88, 0xa8, 0, 5]))", "VLAN_TAGGED"),
    "a priority": Attempt("frame(packet4(udp()), bytes([0x81, 0, 0xe0, 0]))"),
    "a device with another hardware address (macvlan)": Attempt(
        "lladdr = neighbour()\n"
        "ip('link add link eth0 name mac0 type macvlan', 'link set mac0 up', "
        "f'route add {to}/32 dev mac0 src {own}', f'neigh add {to} lladdr {lladdr} dev mac0')\n"
        "with sock() as made: send(made)\n"
        "ip('link del mac0')"
    ),
    "segments that the sender's kernel is to cut (virtio header)": Attempt(
        "body = struct.pack('!HHIIBBHHH', 9, 80, 1, 1, 0x50, 0x10, 9, 0, 0) + t * 60\n"
        "frame(packet4(body, 6), offload=struct.pack('=BBHHHH', 1, 1, 54, 500, 34, 16))"
    ),
    "a multicast group": Attempt(
        "with sock() as made:\n    made.setsockopt(0, 33, 8)\n    send(made, '239.1.2.3')", "GROUP_ADDRESS", "239.1.2.3"
    ),
    "joining a group of others": Attempt(
        "with sock() as made:\n    made.setsockopt(0, 35, socket.inet_aton('239.9.9.9') + socket.inet_aton(own))",
        "GROUP_ADDRESS",
        "224.0.0.22",
    ),
    "a broadcast": Attempt(
        "with sock() as made:\n"
        "    made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)\n    send(made, '255.255.255.255')",
        "GROUP_ADDRESS",
        "255.255.255.255",
    ),
    "the broadcast of the node's network": Attempt(
        "with sock() as made:\n"
        "    made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)\n    send(made, '192.0.2.255')",
        to="192.0.2.255",
    ),
    "the anycast address of the node's network": Attempt(
        "with sock(v6=True) as made: send(made, '2001:db8::')", to="2001:db8::"
    ),
    "the cloud's metadata service": Attempt(
        "with sock(socket.SOCK_STREAM) as made: quietly(made.connect, ('169.254.169.254', 80))", to="169.254.169.254"
    ),
    "the node by its address on the link": Attempt(
        "with sock(v6=True) as made: quietly(made.sendto, t, ('fe80::1', 53, 0, socket.if_nametoindex('eth0')))",
        "INVALID_SOURCE_IP",
        "fe80::1",
    ),
    "an address by DHCP": Attempt(
        "own, to = '0.0.0.0', '255.255.255.255'\nframe(packet4(udp(port=67, source_port=68)))",
        "INVALID_SOURCE_IP",
        "255.255.255.255",
    ),
}  # fmt: skip


def python(namespace: Namespace, script: str, *arguments: str) -> str:
    done = namespace.run([sys.executable, "-I", "-S", "-c", script, *arguments])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def sniffers(gate: Gate) -> Iterator[list[Process]]:
    """Who would notice: the outside host, and the other workloads."""
    lab = gate.lab
    places = ((lab.outside, UPLINK), (lab.frontend, "eth0"), (lab.backend, "eth0"))
    started = [
        lab.start(host, [sys.executable, "-I", "-S", "-c", SNIFF, interface], f"sniff-{number}")
        for number, (host, interface) in enumerate(places)
    ]
    for sniffer in started:
        sniffer.wait(lambda sniffer=sniffer: "ready" in sniffer.output(), "it sniffs")
    # Data on a SYN without a cookie of the server's.
    lab.batch.namespace.sysctl({"net.ipv4.tcp_fastopen": 5})
    assert traffic.connect(lab.batch.namespace, IN_CIDR, 80).open  # and the gateway is known as a neighbour
    yield started
    for sniffer in started:
        sniffer.stop()


_numbers = itertools.count(1)


def arrived(gate: Gate, sniffers: list[Process]) -> set[str]:
    """Every token that was seen anywhere, once one that is allowed has been, after all others."""
    last = f"last {next(_numbers)}"
    traffic.tcp(gate.lab.batch.namespace, IN_CIDR, 80, f"GET /token<{last}> HTTP/1.0\r\n\r\n".encode(), timeout=1.0)

    def seen() -> set[str]:
        return {line for sniffer in sniffers for line in sniffer.log.read_text().splitlines()}

    wait_until(lambda: last in seen(), "what is allowed to arrive")
    return seen()


@pytest.mark.parametrize("name", ATTEMPTS)
def test_a_way_out_is_closed_and_its_attempt_is_on_record(gate: Gate, sniffers: list[Process], name: str) -> None:
    batch, attempt = gate.lab.batch, ATTEMPTS[name]
    number = list(ATTEMPTS).index(name)
    to, to6 = f"198.51.100.{130 + number}", f"2001:db8:100::{130 + number:x}"
    mark = len(gate.audit())
    python(batch.namespace, TOOLS + attempt.code, name, batch.v4, batch.v6, to, to6, GATEWAY_V4)

    def it(record: Json) -> bool:
        return record["destination"]["address"] in ((attempt.to,) if attempt.to else (to, to6))

    record = gate.wait_audit(it, name, mark=mark)
    assert (record["reason"], record["endpoint"]["name"]) == (attempt.reason, "batch")
    assert name not in arrived(gate, sniffers)


# Packets of a connection, from a raw socket; the rest of the line is sent after them in the ordinary way.
POISON = (
    TOOLS
    + """
made = sock(socket.SOCK_RAW, protocol=6)
for flags in (0x12, 0x10, 0x18, 0x04, 0x11, 0x14, 0x00):
    quietly(made.sendto, struct.pack("!HHIIBBHHH", 4444, 80, 7, 7, 0x50, flags, 9, 0, 0) + t, (to, 0))
with sock(socket.SOCK_STREAM) as asked:
    asked.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    asked.bind((own, 4444))
    quietly(asked.connect, (to, 80))
with sock() as asked:
    asked.bind((own, 53))
    for port in (7, 53, 53):
        quietly(asked.sendto, t, (to, port))
"""
)


def test_packets_that_look_like_an_answer_begin_nothing(gate: Gate, sniffers: list[Process]) -> None:
    """No flag, and no port to answer from, makes a connection look as if it had been there before."""
    batch = gate.lab.batch
    mark = len(gate.audit())
    said = python(batch.namespace, POISON, "poison", batch.v4, batch.v6, "198.51.100.129", "::", GATEWAY_V4)
    assert "timed out" in said
    assert "poison" not in arrived(gate, sniffers)
    records = [one for one in gate.audit()[mark:] if one["destination"]["address"] == "198.51.100.129"]
    assert {one["reason"] for one in records} == {"POLICY_DENIED"}


# A request through the proxy is open on a port; what is forbidden then is sent on the same tuple from a raw socket.
BORROW = (
    TOOLS
    + """
held = socket.create_connection((to, 80), 5, source_address=(own, 4555))
held.sendall(b"GET /public/ HTTP/1.1\\r\\nHost: api.example.com\\r\\n\\r\\n")
assert held.recv(65536).startswith(b"HTTP/1.1 200")
request = b"GET /admin?" + t.replace(b".", b"") + b" HTTP/1.1\\r\\nHost: api.example.com\\r\\n\\r\\n"
for number in (0, 1, 1000, 2 ** 31):
    for flags in (0x18, 0x02, 0x12, 0x10):
        raw(6, struct.pack("!HHIIBBHHH", 4555, 80, number, number, 0x50, flags, 999, 0, 0) + request)
# What the proxy itself thinks of it, on the connection that is still there.
held.sendall(request)
print(held.recv(65536)[:12].decode())
"""
)


def test_the_tuple_of_a_proxied_connection_carries_nothing_past_the_proxy(gate: Gate, sniffers: list[Process]) -> None:
    frontend = gate.lab.frontend
    assert traffic.dns(frontend.namespace, "api.example.com").addresses == (API_V4,)
    said = python(frontend.namespace, BORROW, "borrow", frontend.v4, frontend.v6, API_V4, "::", GATEWAY_V4)
    assert said.endswith("HTTP/1.1 403")
    assert "borrow" not in arrived(gate, sniffers)


@pytest.mark.parametrize("port", [10080, 10053, 80, 53])
def test_a_source_port_of_the_proxys_opens_nothing(gate: Gate, port: int) -> None:
    frontend = gate.lab.frontend.namespace
    assert traffic.dns(frontend, "api.example.com").addresses == (API_V4,)
    done = traffic.http(frontend, f"{API}/admin", address=API_V4, options=["--local-port", str(port)])
    assert done.status == 403, done


FAST = """
import socket, sys
with socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET) as sock:
    sock.settimeout(3)
    head = f"GET {sys.argv[2]} HTTP/1.1\\r\\nHost: api.example.com\\r\\nConnection: close\\r\\n\\r\\n"
    sock.sendto(head.encode(), 0x20000000, (sys.argv[1], 80))
    print(sock.recv(4096)[:12].decode())
"""


@pytest.mark.parametrize(("path", "said"), [("/public/", "HTTP/1.1 200"), ("/admin", "HTTP/1.1 403")])
def test_a_request_on_the_syn_is_judged_like_any_other(gate: Gate, path: str, said: str) -> None:
    frontend = gate.lab.frontend.namespace
    frontend.sysctl({"net.ipv4.tcp_fastopen": 5})
    gate.lab.outside.namespace.sysctl({"net.ipv4.tcp_fastopen": 0x603})  # a server that would take it
    assert traffic.dns(frontend, "api.example.com").addresses == (API_V4,)
    assert python(frontend, FAST, API_V4, path) == said


LIES = """
import socket, struct, sys
mine, victim, gateway, victim6 = sys.argv[1:]
lladdr = bytes.fromhex(mine.replace(":", ""))
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
    sock.bind(("eth0", 0))
    for claimed in (victim, gateway, "192.0.2.10", "192.0.2.1"):
        for operation in (1, 2):
            body = struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, operation, lladdr, socket.inet_aton(claimed), bytes(6),
                               socket.inet_aton(claimed))
            sock.send(bytes([255] * 6) + lladdr + b"\\x08\\x06" + body)
    # Two languages that switches speak, and one that nobody does.
    sock.send(bytes.fromhex("0180c2000000") + lladdr + struct.pack("!H", 38) + bytes.fromhex("424203") + bytes(35))
    sock.send(bytes.fromhex("0180c200000e") + lladdr + b"\\x88\\xcc" + bytes(46))
    sock.send(bytes([255] * 6) + lladdr + b"\\x12\\x34" + bytes(46))
with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
    sock.setsockopt(41, 18, 255)
    link = socket.if_nametoindex("eth0")
    advertisement = struct.pack("!BBHI", 136, 0, 0, 0xA0000000) + socket.inet_pton(socket.AF_INET6, victim6)
    sock.sendto(advertisement + bytes([2, 1]) + lladdr, ("ff02::1", 0, 0, link))
    router = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
    sock.sendto(router, ("ff02::1", 0, 0, link))
"""


def test_lies_about_who_is_on_the_link_are_believed_about_that_link_only(gate: Gate, sniffers: list[Process]) -> None:
    """The node's neighbour on a workload's link is that workload, whatever it says; others keep their addresses."""
    lab, batch, frontend = gate.lab, gate.lab.batch, gate.lab.frontend
    mac = batch.namespace.run(["ip", "-o", "link", "show", "eth0"]).stdout.split("link/ether ")[1][:17]
    before = {row["reason"]: row["packets"] for row in gate.status()["drops"]}
    tap = lab.start(batch, [sys.executable, "-I", "-S", "-c", SNIFF, "eth0"], "tap")
    tap.wait(lambda: "ready" in tap.output(), "it listens")
    python(batch.namespace, LIES, mac, frontend.v4, GATEWAY_V4, frontend.v6)
    routes = lab.node.namespace.run(["ip", "-6", "route", "show", "default"]).stdout
    assert routes == ""
    assert traffic.dns(frontend.namespace, "api.example.com").addresses == (API_V4,)
    secret = traffic.http(frontend.namespace, f"{API}/public/token<secret>", address=API_V4)
    assert secret.status in (200, 404)
    neighbours = lab.node.namespace.run(["ip", "neigh", "show", frontend.v4]).stdout
    assert mac not in next(line for line in neighbours.splitlines() if frontend.interface in line)
    assert "secret" not in tap.output()
    tap.stop()
    after = {row["reason"]: row["packets"] for row in gate.status()["drops"]}
    assert after["UNKNOWN_L3"] - before.get("UNKNOWN_L3", 0) == 3
    record = gate.wait_audit(
        lambda one: one["protocol"] == "ICMPV6" and one["destination"]["port"] == 134, "the router"
    )
    assert record["endpoint"]["name"] == "batch"
