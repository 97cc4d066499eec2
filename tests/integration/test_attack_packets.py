# SPDX-License-Identifier: Apache-2.0
"""Packets that borrow the right of a flow they have no part in."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from l7lab import traffic
from l7lab.gate import Gate
from l7lab.namespace import Namespace
from l7lab.process import Process
from l7lab.topology import RESOLVER_V4

CDN_NAME, CDN_V4 = "img.cdn.example.com", "198.51.100.4"
MARKER = "borrowed-right"

# Builds packets by hand; the kernel only fills in the checksum of the IP header.
MAKER = """\
import socket, struct, sys

def checksum(data):
    data += b"\\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

def ip(source, destination, protocol, payload):
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0,
                       socket.inet_aton(source), socket.inet_aton(destination))
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload

def send(destination, packet):
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(packet, (destination, 0))

"""
ICMP_ERROR = (
    MAKER
    + """\
own, to, quoted_from, quoted_to, sport, dport, marker = sys.argv[1:]
quote = ip(quoted_from, quoted_to, 6, struct.pack("!HHI", int(sport), int(dport), 1)) + marker.encode()
body = struct.pack("!BBHHH", 3, 4, 0, 0, 552) + quote
body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
send(to, ip(own, to, 1, body))
"""
)
DATAGRAM = (
    MAKER
    + """\
source, sport, to, dport = sys.argv[1:]
send(to, ip(source, to, 17, struct.pack("!HHHH", int(sport), int(dport), 13, 0) + b"hello"))
"""
)
HOLD = """\
import socket, sys, time
held = socket.create_connection((sys.argv[1], 80), 5)
held.sendall(b"GET / HTTP/1.1\\r\\nHost: img.cdn.example.com\\r\\n\\r\\n")
held.recv(4096)
print(held.getsockname()[1], flush=True)
time.sleep(60)
"""
ASK_FROM = """\
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
    asked.bind(("", int(sys.argv[1])))
    asked.settimeout(1)
    asked.connect((sys.argv[2], 53))
    asked.send(bytes.fromhex(sys.argv[3]))
    try:
        print(asked.recv(4096)[3] & 15)
    except TimeoutError:
        print("silence")
"""
SNIFF = """\
import socket, sys
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as tap:
    tap.bind((sys.argv[1], 0))
    print("listening", flush=True)
    while True:
        data, where = tap.recvfrom(65536)
        if where[2] != 4 and sys.argv[2].encode() in data:
            print("seen", flush=True)
"""


def python(namespace: Namespace, script: str, *arguments: str) -> str:
    done = namespace.run([sys.executable, "-I", "-S", "-c", script, *arguments])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def direct_flow(gate: Gate, tmp_path: Path) -> Iterator[str]:
    """The port of a connection of the frontend to the CDN that no proxy carries."""
    namespace = gate.lab.frontend.namespace
    assert traffic.dns(namespace, CDN_NAME).addresses == (CDN_V4,)
    holder = Process(namespace, [sys.executable, "-I", "-S", "-c", HOLD, CDN_V4], tmp_path / "held")
    try:
        holder.wait(lambda: bool(holder.output().strip()), "a connection")
        yield holder.output().strip()
    finally:
        holder.stop()


@pytest.mark.parametrize("victim", ["frontend", "outside"])
def test_a_workload_sends_no_icmp_errors_about_flows_of_others(
    gate: Gate, direct_flow: str, tmp_path: Path, victim: str
) -> None:
    """A workload is no router: an error about a packet that was not sent to it is a packet like any other."""
    batch, frontend = gate.lab.batch, gate.lab.frontend
    if victim == "frontend":
        where, device, to = frontend.namespace, "eth0", frontend.v4
        quote = (frontend.v4, CDN_V4, direct_flow, "80")
    else:
        where, device, to = gate.lab.outside.namespace, "ext0", CDN_V4
        quote = (CDN_V4, frontend.v4, "80", direct_flow)
    tap = Process(where, [sys.executable, "-I", "-S", "-c", SNIFF, device, MARKER], tmp_path / "tap")
    try:
        tap.wait(lambda: "listening" in tap.output(), "a tap")
        python(batch.namespace, ICMP_ERROR, batch.v4, to, *quote, MARKER)
        record = gate.wait_audit(
            lambda one: one["protocol"] == "ICMP" and one["source"]["address"] == batch.v4, "the dropped error"
        )
        assert record["endpoint"]["name"] == "batch"
        assert "seen" not in tap.output()
    finally:
        tap.stop()


def test_a_datagram_that_looks_like_the_resolvers_opens_no_way_around_the_name_proxy(gate: Gate) -> None:
    """Whoever outside forges the resolver's address must not turn the workload's questions into answers."""
    frontend, outside = gate.lab.frontend, gate.lab.outside
    forbidden = traffic.question("tracker.example.net").hex()
    assert python(frontend.namespace, ASK_FROM, "5301", RESOLVER_V4, forbidden) == "5"
    python(outside.namespace, DATAGRAM, RESOLVER_V4, "53", frontend.v4, "5302")
    time.sleep(0.2)
    answer = python(frontend.namespace, ASK_FROM, "5302", RESOLVER_V4, forbidden)
    assert answer in ("5", "silence")
    assert "tracker.example.net" not in {query.name for query in gate.lab.resolver.seen()}
