# SPDX-License-Identifier: Apache-2.0
"""The DNS proxy against clients and name servers that are dead, slow, lying, or ask in odd ways."""

import itertools
import struct
import subprocess
import sys
from typing import Any

import dns.message
import pytest

from l7lab.namespace import environment

CLIENT_V4, CLIENT_V6 = "192.0.2.2", "2001:db8::2"
RESOLVER_V4, RESOLVER_V6 = "198.51.100.53", "2001:db8:53::53"
NOBODY = "198.51.100.54"
LIAR = "198.51.100.55"
BLACKHOLE = "198.51.100.99"


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
@pytest.mark.parametrize("resolver", [RESOLVER_V4, RESOLVER_V6])
@pytest.mark.parametrize("name", ["secret.example.net", "SECRET.Example.NET", "www.example.com.evil.example.net"])
def test_a_forbidden_name_is_refused_recorded_and_never_asked_for(
    net: Any, proxy: Any, transport: str, resolver: str, name: str
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
    net: Any, proxy: Any, server: str, transport: str, reason: int
) -> None:
    name = f"liar.{server.replace('.', '-')}{transport[1:]}.example.com"
    assert "status: SERVFAIL" in net.dig(transport, f"@{server}", name)
    flow = proxy.flow(name, reason=reason)
    assert (flow["verdict"], flow["destination"]["address"]) == (3, server)


def test_silence_becomes_a_servfail_in_time(net: Any, proxy: Any) -> None:
    assert "status: SERVFAIL" in net.dig(f"@{LIAR}", "silent.example.com")
    assert proxy.flow("silent.example.com")["reason"] == 222


def test_a_name_server_that_is_silent_delays_nobody_who_asks_another(net: Any, proxy: Any) -> None:
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
    assert net.exchange(script) == "True\n"


def test_only_the_fitting_one_of_several_answers_counts(net: Any, proxy: Any) -> None:
    assert net.dig("+short", f"@{LIAR}", "late.example.com") == "203.0.113.1\n"
    rows = [row["address"] for row in proxy.tell()["cache"] if row["name"] == "late.example.com"]
    assert rows == ["203.0.113.1"]
    assert "status: SERVFAIL" in net.dig(f"@{LIAR}", "broken.example.com")
    assert proxy.flow("broken.example.com")["reason"] == 223


def test_ids_and_ports_towards_the_name_server_are_nothing_that_the_client_chose(net: Any, proxy: Any) -> None:
    # The server answers with the ID and the port that it saw. A port is used for 32 questions at most.
    script = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); s.connect(("{LIAR}", 53))
for number in range(100):
    s.send(number.to_bytes(2, "big") + {dns.message.make_query("seen.example.com", "A", id=0).to_wire()[2:]!r})
    print(s.recv(512)[-4:].hex())
"""
    seen = net.exchange(script).split()
    ids, ports = [int(one[:4], 16) for one in seen], {int(one[4:], 16) for one in seen}
    assert len(set(ids)) > 95
    assert sum(ident == number for number, ident in enumerate(ids)) < 3
    assert sum(abs(one - other) < 64 for one, other in itertools.pairwise(ids)) < 10
    assert len(ports) >= 4
    assert min(ports) > 1023


def test_every_malformed_query_gets_an_answer(net: Any, proxy: Any) -> None:
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
    assert net.exchange(script).split() == [str(rcode) for _, rcode in wires.values()]


def test_pipelined_tcp_queries_are_all_answered_whatever_the_order(net: Any, proxy: Any) -> None:
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
    found = net.exchange(script)
    assert found == "{5: 100, 0: 200} 300\n", [flow for flow in proxy.flows if flow["verdict"] == 3][-1:]


HASTY = """
import socket, time
listener = socket.create_server(("198.51.100.55", 53))
print("ready", flush=True)
while True:
    stream, _ = listener.accept()
    with stream, stream.makefile("rb") as messages:
        for _ in range(3):
            query = messages.read(int.from_bytes(messages.read(2), "big"))
            if len(query) < 12:
                break
            record = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4\\xcb\\0\\x71\\x09"
            answer = query[:2] + b"\\x81\\x80\\0\\1\\0\\1\\0\\0\\0\\0" + query[12:query.index(b"\\0", 12) + 5] + record
            stream.sendall(len(answer).to_bytes(2, "big") + answer)
        time.sleep(0.02)
"""


def test_a_name_server_that_hangs_up_after_every_third_answer_gets_each_question(net: Any, proxy: Any) -> None:
    wires = [dns.message.make_query(f"n{number}.example.com", "A", id=number).to_wire() for number in range(40)]
    queries = b"".join(len(wire).to_bytes(2, "big") + wire for wire in wires)
    script = f"""
import socket
s = socket.create_connection(("{LIAR}", 53)); s.settimeout(10)
s.sendall({queries!r}); s.shutdown(socket.SHUT_WR)
stream, seen = s.makefile("rb"), []
while head := stream.read(2): seen.append(stream.read(int.from_bytes(head, "big")))
print(sorted(int.from_bytes(one[:2], "big") for one in seen) == list(range(40)), {{one[3] & 15 for one in seen}})
"""
    with subprocess.Popen(
        net.outside.inside([sys.executable, "-c", HASTY]), stdout=subprocess.PIPE, text=True, env=environment()
    ) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            assert net.exchange(script) == "True {0}\n"
        finally:
            server.kill()


def test_queries_sent_byte_by_byte_and_broken_lengths(net: Any, proxy: Any) -> None:
    wire = dns.message.make_query("n3.example.com", "A", id=3).to_wire()
    script = f"""
import socket, time
s = socket.create_connection(("{RESOLVER_V6}", 53)); s.settimeout(5); s.setsockopt(6, 1, 1)
for byte in {struct.pack("!H", len(wire)) + wire!r}: s.send(bytes([byte]))
print(len(s.recv(512)) > 20)
s.send(b"\\0\\x03abc"); print(s.recv(512))
"""
    assert net.exchange(script) == "True\nb''\n"


def test_many_questions_in_flight_from_many_sockets_all_come_back(net: Any, proxy: Any) -> None:
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
    assert net.exchange(script) == "1000\n"
