# SPDX-License-Identifier: Apache-2.0
"""Packets in pieces: whole ones arrive, and no trick with the pieces makes another packet of them."""

import itertools
import sys
from collections.abc import Callable, Iterator

import pytest

from l7lab import traffic
from l7lab.gate import Gate
from l7lab.namespace import Namespace
from l7lab.process import Process, wait_until
from l7lab.topology import IN_CIDR, RESOLVER_V4

IN_CIDR_V6 = "2001:db8:100::3"
POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: batch, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: batch}}
  egress:
    - toCIDR: [198.51.100.64/26, "2001:db8:100::3/128"]
      toPorts: [{ports: [{port: "7000", protocol: UDP}, {port: "80", protocol: TCP}]}]
    - toCIDR: [192.0.2.10/32]
      toPorts:
        - ports: [{port: "53", protocol: ANY}]
          rules: {dns: [{matchName: api.example.com}]}
"""

# Prints each datagram's port, length and text.
SINK = """
import select, socket, sys
socks = {}
for port in (7000, 7001):
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", port))
    socks[sock] = port
print("ready", flush=True)
while True:
    for sock in select.select(socks, [], [])[0]:
        data = sock.recv(65536)
        print(socks[sock], len(data), data.lstrip(b".").decode(errors="replace"), flush=True)
"""
SEND = """
import socket, sys
address, port, size, text = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4].encode()
with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.sendto(text.rjust(size, b"."), (address, port))
"""
# argv: own address, destination, then START:MORE:HEX for each piece of one packet.
PIECES = """
import ipaddress, socket, struct, sys, os
own, to, *pieces = sys.argv[1:]
six, ident = ":" in own, int.from_bytes(os.urandom(2), "big")
family = socket.AF_INET6 if six else socket.AF_INET
with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
    for piece in pieces:
        start, more, data = piece.split(":")
        start, more, data = int(start), int(more), bytes.fromhex(data)
        if six:
            body = struct.pack("!BBHI", 17, 0, start | more, ident) + data
            packet = (struct.pack("!IHBB", 6 << 28, len(body), 44, 64) + ipaddress.ip_address(own).packed
                      + ipaddress.ip_address(to).packed + body)
        else:
            packet = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(data), ident, start // 8 | more << 13, 64, 17, 0,
                                 socket.inet_aton(own), socket.inet_aton(to)) + data
        raw.sendto(packet, (to, 0))
"""
# A question padded to more than a packet holds (RFC 7830); prints the answer's code.
ASK = """
import socket, struct, sys
name, size = sys.argv[2], int(sys.argv[3])
question = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\\0" + struct.pack("!HH", 1, 1)
padding = struct.pack("!HH", 12, size) + bytes(size)
option = b"\\0" + struct.pack("!HHIH", 41, 1232, 0, len(padding)) + padding
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.settimeout(3)
    sock.connect((sys.argv[1], 53))
    sock.send(struct.pack("!HHHHHH", 77, 0x100, 1, 0, 0, 1) + question + option)
    print(sock.recv(4096)[3] & 15)
"""


def python(namespace: Namespace, source: str, *arguments: str) -> str:
    done = namespace.run([sys.executable, "-I", "-S", "-c", source, *arguments])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def udp(port: int, text: str, size: int = 48) -> bytes:
    """A datagram from port 4000 without checksum (over IPv6 with a wrong one: a sniffer's business)."""
    return (4000).to_bytes(2) + port.to_bytes(2) + size.to_bytes(2) + bytes(2) + text.encode().rjust(size - 8, b".")


def piece(start: int, more: bool, data: bytes) -> str:
    return f"{start}:{int(more)}:{data.hex()}"


@pytest.fixture(scope="module")
def gate(module_gate: Callable[..., Gate]) -> Gate:
    return module_gate({"batch.yaml": POLICY})


_names = itertools.count()


@pytest.fixture
def sink(gate: Gate) -> Iterator[Process]:
    process = gate.lab.start(gate.lab.outside, [sys.executable, "-I", "-S", "-c", SINK], f"sink-{next(_names)}")
    process.wait(lambda: "ready" in process.output(), "the sink")
    yield process
    process.stop()


def settled(gate: Gate, sink: Process) -> list[str]:
    """What arrived, once a datagram that is allowed has."""
    python(gate.lab.batch.namespace, SEND, IN_CIDR, "7000", "20", "last")
    wait_until(lambda: "7000 20 last" in sink.log.read_text().splitlines(), "what is allowed to arrive")
    return sink.log.read_text().splitlines()[1:-1]


@pytest.mark.parametrize("address", [IN_CIDR, IN_CIDR_V6])
def test_a_datagram_of_many_fragments_arrives_whole_or_not_at_all(gate: Gate, sink: Process, address: str) -> None:
    for port in (7001, 7000):
        python(gate.lab.batch.namespace, SEND, address, str(port), "9000", "whole")
    wait_until(lambda: "7000 9000 whole" in sink.log.read_text(), "the datagram")
    assert settled(gate, sink) == ["7000 9000 whole"]
    record = gate.wait_audit(
        lambda one: one["destination"]["address"] == address and one["destination"]["port"] == 7001, "the other"
    )
    assert record["reason"] == "POLICY_DENIED"


def test_a_question_for_the_proxy_may_come_in_fragments(gate: Gate) -> None:
    """They go to the node itself, whose kernel puts them together. (The lab's resolver reads no question so long, so
    the answer here is the proxy's own.)"""
    assert traffic.dns(gate.lab.batch.namespace, "api.example.com").rcode == "NOERROR"
    for size in ("100", "3000"):
        assert python(gate.lab.batch.namespace, ASK, RESOLVER_V4, "tracker.example.net", size) == "5"
    assert "tracker.example.net" not in {query.name for query in gate.lab.resolver.seen()}


ALLOWED, FORBIDDEN = udp(7000, "allowed"), udp(7001, "forbidden")
TRICKS = {
    "the header again, with other ports": [piece(0, True, ALLOWED[:24]), piece(0, False, FORBIDDEN)],
    "other ports over the header, then the rest": [
        piece(0, True, ALLOWED[:24]),
        piece(0, True, FORBIDDEN[:24]),
        piece(24, False, FORBIDDEN[24:]),
    ],
    "the rest first": [piece(24, False, FORBIDDEN[24:]), piece(0, True, FORBIDDEN[:24])],
    "the rest first, and twice": [
        piece(24, False, ALLOWED[24:]),
        piece(0, True, ALLOWED[:24]),
        piece(16, False, FORBIDDEN[16:]),
    ],
    "a header in two": [piece(0, True, FORBIDDEN[:8]), piece(8, False, FORBIDDEN[8:])],
    "no header at first": [piece(0, True, b""), piece(0, False, FORBIDDEN)],
    "the tail replaced": [
        piece(0, True, ALLOWED[:24]),
        piece(24, True, ALLOWED[24:40]),
        piece(32, False, FORBIDDEN[32:]),
    ],
    "no first at all": [piece(8, False, FORBIDDEN[8:])],
}


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("family", ["v4", "v6"])
def test_no_trick_with_the_pieces_gets_through(gate: Gate, sink: Process, trick: str, family: str) -> None:
    batch = gate.lab.batch
    own, to = (batch.v4, IN_CIDR) if family == "v4" else (batch.v6, IN_CIDR_V6)
    mark = len(gate.audit())
    python(batch.namespace, PIECES, own, to, *TRICKS[trick])
    assert settled(gate, sink) == []
    reasons = {"FRAGMENT", "FRAGMENT_OVERLAP", "POLICY_DENIED", "INVALID_PACKET"}
    gate.wait_audit(lambda one: one["reason"] in reasons, f"what was dropped of {trick}", mark=mark)


def test_pieces_that_fit_do_arrive(gate: Gate, sink: Process) -> None:
    """Else the tricks would prove nothing."""
    batch = gate.lab.batch
    python(batch.namespace, PIECES, batch.v4, IN_CIDR, piece(0, True, ALLOWED[:24]), piece(24, False, ALLOWED[24:]))
    wait_until(lambda: "7000 40 allowed" in sink.log.read_text(), "the datagram")
