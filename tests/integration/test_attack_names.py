# SPDX-License-Identifier: Apache-2.0
"""A workload with a name server of its own choice: what it learns is nobody else's, and never without bound."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from l7lab import traffic
from l7lab.gate import Gate
from l7lab.process import Process, wait_until
from l7lab.topology import UNNAMED

LIAR = "192.0.2.66"
NAMES = 120
MEGABYTES = 64

POLICY = f"""\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: victim, namespace: shop}}
spec:
  endpointSelector: {{matchLabels: {{app: frontend}}}}
  egress:
  - toCIDR: [192.0.2.10/32]
    toPorts:
    - ports: [{{port: "53", protocol: ANY}}]
      rules: {{dns: [{{matchName: api.example.com}}]}}
  - toFQDNs: [{{matchName: api.example.com}}]
    toPorts: [{{ports: [{{port: "80", protocol: TCP}}]}}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: hostile, namespace: shop}}
spec:
  endpointSelector: {{matchLabels: {{app: batch}}}}
  egress:
  - toCIDR: [{LIAR}/32]
    toPorts:
    - ports: [{{port: "53", protocol: ANY}}]
      rules: {{dns: [{{matchPattern: "**"}}]}}
"""

# A name server that gives every name one address over UDP, and four thousand others over TCP.
SERVER = """\
import random, socket, struct, sys, threading

def answer(query, addresses):
    end = 12
    while query[end]:
        end += query[end] + 1
    records = b"".join(b"\\xc0\\x0c\\0\\1\\0\\1" + struct.pack("!IH", 1000000, 4) + one for one in addresses)
    return query[:2] + struct.pack("!5H", 0x8180, 1, len(addresses), 0, 0) + query[12:end + 5] + records

def serve(client):
    with client, client.makefile("rb") as stream:
        while length := stream.read(2):
            query = stream.read(int.from_bytes(length, "big"))
            reply = answer(query, [struct.pack("!I", random.randrange(0x08000000, 0x60000000)) for _ in range(4000)])
            client.sendall(len(reply).to_bytes(2, "big") + reply)

def accept():
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind((sys.argv[1], 53))
listener = socket.create_server((sys.argv[1], 53))
threading.Thread(target=accept, daemon=True).start()
while True:
    query, client = datagrams.recvfrom(4096)
    datagrams.sendto(answer(query, [socket.inet_aton(sys.argv[2])]), client)
"""
ASK_MANY = """\
import socket, sys
with socket.create_connection((sys.argv[1], 53), 20) as sock, sock.makefile("rb") as stream:
    for number in range(int(sys.argv[2])):
        name = b"\\x0an%09d\\3foo\\3com\\0" % number
        query = b"\\0\\1\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0" + name + b"\\0\\1\\0\\1"
        sock.sendall(len(query).to_bytes(2, "big") + query)
        stream.read(int.from_bytes(stream.read(2), "big"))
"""


@pytest.fixture
def lied_to(make_gate: Callable[..., Gate], tmp_path: Path) -> Iterator[Gate]:
    """`batch` has a resolver of its own, which answers as `batch` likes."""
    gate = make_gate({"a.yaml": POLICY})
    outside = gate.lab.outside.namespace
    outside.ip([f"addr add {LIAR}/24 dev ext0"])
    server = Process(outside, [sys.executable, "-I", "-S", "-c", SERVER, LIAR, UNNAMED], tmp_path / "liar")
    try:
        wait_until(lambda: traffic.dns(outside, "a.example.com", server=LIAR).rcode == "NOERROR", "the liar")
        yield gate
    finally:
        server.stop()


def memory(gate: Gate) -> int:
    """Megabytes that the name process has in use."""
    status = Path(f"/proc/{gate.workers()['dns-0']}/status").read_text()
    return next(int(line.split()[1]) >> 10 for line in status.splitlines() if line.startswith("VmRSS"))


def test_a_name_server_of_ones_own_cannot_lead_the_names_of_others_astray(lied_to: Gate) -> None:
    frontend, batch = lied_to.lab.frontend.namespace, lied_to.lab.batch.namespace
    # The true address is open for the victim, and stays so; the liar's is not, whoever asked first.
    assert traffic.dns(batch, "api.example.com", server=LIAR).addresses == (UNNAMED,)
    assert not traffic.connect(frontend, UNNAMED, 80, timeout=0.4).open
    assert traffic.dns(frontend, "api.example.com").addresses == ("198.51.100.1",)
    assert traffic.connect(frontend, "198.51.100.1", 80).open
    assert traffic.dns(batch, "api.example.com", server=LIAR).addresses == (UNNAMED,)
    assert not traffic.connect(frontend, UNNAMED, 80, timeout=0.4).open
    assert traffic.connect(frontend, "198.51.100.1", 80).open
    lies = [row for row in lied_to.must("fqdn", "cache", "list", "-o", "json").json if row["address"] == UNNAMED]
    assert [(row["endpoint"], row["resolver"], row["selectors"]) for row in lies] == [("batch", f"{LIAR}:53", [])]


def test_names_with_thousands_of_addresses_do_not_fill_the_memory(lied_to: Gate) -> None:
    batch = lied_to.lab.batch.namespace
    before = memory(lied_to)
    done = batch.run([sys.executable, "-I", "-S", "-c", ASK_MANY, LIAR, str(NAMES)], timeout=60.0)
    assert done.returncode == 0, done.stderr
    assert memory(lied_to) - before < MEGABYTES
