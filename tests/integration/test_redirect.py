# SPDX-License-Identifier: Apache-2.0
"""Connections that a proxy carries: tuples used again, policy that changes under them, ends of every kind, workers."""

import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from l7lab import traffic
from l7lab.gate import Gate
from l7lab.namespace import Namespace
from l7lab.process import Process, wait_until
from l7lab.topology import IN_CIDR

IN_CIDR_V6 = "2001:db8:100::3"
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: frontend, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress:
    - toCIDR: [198.51.100.0/24, "2001:db8:100::/64"]
      toPorts: [{ports: [{port: "9000", protocol: TCP}], rules: {http: [{method: GET, path: /.*}]}}]
    - toEndpoints: [{matchLabels: {app: backend}}]
      toPorts: [{ports: [{port: "8080", protocol: TCP}], rules: {http: [{method: GET, path: "/(health|orders).*"}]}}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: backend, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress:
    - fromEndpoints: [{matchLabels: {app: frontend}}]
      toPorts: [{ports: [{port: "8080", protocol: TCP}], rules: {http: [{method: GET, path: /health.*}]}}]
"""

# A server that tells who asks, and prints how each connection ended. /part: the answer is cut off by a reset.
SERVER = """
import socket, struct, threading

def serve(peer, where):
    data = b""
    try:
        while True:
            while b"\\r\\n\\r\\n" not in data:
                more = peer.recv(65536)
                if not more:
                    print("end", where[1], flush=True)
                    return
                data += more
            request, _, data = data.partition(b"\\r\\n\\r\\n")
            body = f"{where[0].removeprefix('::ffff:')} {where[1]}".encode()
            if request.startswith(b"GET /part"):
                peer.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 5000\\r\\n\\r\\nhalf")
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            if request.startswith(b"GET /eof"):
                peer.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\n" + body)
                peer.shutdown(socket.SHUT_WR)
                continue
            if request.startswith(b"GET /wait"):
                print("asked", where[1], flush=True)
                continue
            peer.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
            if b"Connection: close" in request:
                return
    except ConnectionResetError:
        print("reset", where[1], flush=True)
    finally:
        peer.close()

server = socket.create_server(("::", 9000), family=socket.AF_INET6, dualstack_ipv6=True, backlog=256)
print("ready", flush=True)
while True:
    peer, where = server.accept()
    threading.Thread(target=serve, args=(peer, where), daemon=True).start()
"""
TOOLS = """
import socket, struct, sys, time
to = sys.argv[1]

def dial(port=0):
    made = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.settimeout(3)
    made.bind(("", port))
    made.connect((to, 9000))
    return made

def ask(made, path="/", more=""):
    made.sendall(f"GET {path} HTTP/1.1\\r\\nHost: example.com\\r\\n{more}\\r\\n".encode())

def answer(made):
    # All until the end.
    data = b""
    while more := made.recv(65536):
        data += more
    return data

def reset(made):
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    made.close()

"""


def python(namespace: Namespace, script: str, *arguments: str) -> str:
    done = namespace.run([sys.executable, "-I", "-S", "-c", TOOLS + script, *arguments])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def gate(module_gate: Callable[..., Gate]) -> Gate:
    return module_gate({"policy.yaml": POLICY})


@pytest.fixture(scope="module")
def server(gate: Gate) -> Iterator[Process]:
    process = gate.lab.start(gate.lab.outside, [sys.executable, "-I", "-S", "-c", SERVER], "server")
    process.wait(lambda: "ready" in process.output(), "the server")
    yield process
    process.stop()


AGAIN = """
slowest, kept = 0, 0
for _ in range(30):
    began = time.monotonic()
    made = dial(4321)
    ask(made, "/", "Connection: close\\r\\n")
    said = answer(made)
    assert said.startswith(b"HTTP/1.1 200"), said
    kept += said.endswith(b" 4321")
    slowest = max(slowest, time.monotonic() - began)
    reset(made) if sys.argv[2] == "reset" else made.close()
assert slowest < 0.9, slowest  # a SYN that is lost comes again after a second
assert kept >= 10, kept  # it is given up while the one before is still being closed
"""


@pytest.mark.parametrize("address", [IN_CIDR, IN_CIDR_V6])
@pytest.mark.parametrize("how", ["closed", "reset"])
def test_one_tuple_serves_connection_after_connection(gate: Gate, server: Process, address: str, how: str) -> None:
    """The one before is in TIME_WAIT on the node, and upstream; neither swallows the next one's SYN."""
    python(gate.lab.frontend.namespace, AGAIN, address, how)


ONCE = """
made = dial(4322)
ask(made, "/", "Connection: close\\r\\n")
print(answer(made).decode().splitlines()[-1])
"""


def test_a_tuple_goes_to_the_proxy_or_past_it_as_policy_says_now(gate: Gate, server: Process) -> None:
    frontend = gate.lab.frontend.namespace
    direct = POLICY.replace(", rules: {http: [{method: GET, path: /.*}]}}]\n    - toEndpoints", "}]\n    - toEndpoints")
    assert direct != POLICY
    for text in (POLICY, direct, POLICY, direct, POLICY):
        gate.write("policy.yaml", text)
        gate.must("rules", "reload")
        assert python(frontend, ONCE, IN_CIDR) == f"{gate.lab.frontend.v4} 4322"


TAKEN = """
import socket, sys, time
with socket.socket() as sock:
    sock.setsockopt(0, 19, 1)
    sock.bind((sys.argv[1], 4323))
    sock.listen()
    print("taken", flush=True)
    time.sleep(30)
"""


def test_a_port_that_is_taken_on_the_node_is_given_up_and_the_request_goes_on(gate: Gate, server: Process) -> None:
    lab, frontend = gate.lab, gate.lab.frontend
    taker = lab.start(lab.node, [sys.executable, "-I", "-S", "-c", TAKEN, frontend.v4], "taker")
    taker.wait(lambda: "taken" in taker.output(), "the port")
    said = python(frontend.namespace, ONCE.replace("4322", "4323"), IN_CIDR)
    taker.stop()
    address, port = said.split()
    assert address == frontend.v4
    assert port != "4323"


HALF = """
made = dial()
ask(made, sys.argv[2])
made.shutdown(socket.SHUT_WR)
print(answer(made).decode().splitlines()[-1])
"""


@pytest.mark.parametrize("path", ["/", "/eof"])
def test_a_half_closed_connection_carries_what_is_left(gate: Gate, server: Process, path: str) -> None:
    assert python(gate.lab.frontend.namespace, HALF, IN_CIDR, path).startswith(gate.lab.frontend.v4)


CUT = """
made = dial()
ask(made, "/part")
try:
    print(answer(made))
except ConnectionResetError:
    print("reset")
"""
LEAVE = """
made = dial(4324)
ask(made, "/wait")
time.sleep(0.3)
reset(made)
"""


def test_a_reset_reaches_the_other_side_as_one(gate: Gate, server: Process) -> None:
    """An answer that was cut off must not look complete, and a server must not work for a client that is gone."""
    frontend = gate.lab.frontend.namespace
    assert python(frontend, CUT, IN_CIDR) == "reset"
    python(frontend, LEAVE, IN_CIDR)
    wait_until(lambda: re.search(r"^(reset|end) 4324$", server.log.read_text(), re.MULTILINE), "the server to hear")


def test_both_ends_lists_hold_in_one_pass(gate: Gate) -> None:
    frontend, backend = gate.lab.frontend, gate.lab.backend
    for address in (backend.v4, backend.v6):
        for path, status, who in (("/health", 200, ""), ("/orders", 403, "backend"), ("/none", 403, "frontend")):
            mark = len(gate.audit())
            assert traffic.http(frontend.namespace, f"http://backend:8080{path}", address=address).status == status
            if who:
                record = gate.wait_audit(lambda one: one["layer"] == "http", path, mark=mark)
                assert record["endpoint"]["name"] == who
                assert record["source"]["address"] in (frontend.v4, frontend.v6)


MANY = """
held = [dial() for _ in range(40)]
for one in held:
    ask(one)
    one.recv(65536)
print("ready", flush=True)
time.sleep(3)
lost = 0
for one in held:
    try:
        ask(one)
        lost += not one.recv(65536)
    except OSError:
        lost += 1
print("lost", lost, flush=True)
"""


def serving(gate: Gate) -> Counter[int]:
    """How many clients' connections each process has."""
    said = gate.lab.node.namespace.run(["ss", "-Htnp", "state", "established", "sport", "=", ":9000"]).stdout
    return Counter(int(pid) for pid in re.findall(r"pid=(\d+)", said))


def test_workers_share_the_connections_and_one_that_dies_takes_only_its_own(gate: Gate, server: Process) -> None:
    frontend = gate.lab.frontend
    many = gate.lab.start(frontend, [sys.executable, "-I", "-S", "-c", TOOLS + MANY, IN_CIDR], "many")
    many.wait(lambda: "ready" in many.output(), "the connections")
    workers = gate.workers()
    share = serving(gate)
    assert sum(share.values()) == 40
    # Spread by a hash of the tuple: fewer than 8 of 40 come once in 40,000 times.
    assert min(share[workers["http-0"]], share[workers["http-1"]]) >= 8
    os.kill(workers["http-0"], signal.SIGKILL)
    for _ in range(10):
        assert python(frontend.namespace, ONCE.replace("4322", "0"), IN_CIDR).startswith(frontend.v4)
    wait_until(lambda: "lost" in many.output(), "the connections to be used again", 10.0)
    assert f"lost {share[workers['http-0']]}" in many.output()
    many.stop()
    wait_until(lambda: gate.ready() and gate.workers()["http-0"] != workers["http-0"], "another worker", 10.0)


def test_a_worker_that_is_told_to_end_loses_no_request(gate: Gate, server: Process) -> None:
    """What is in its listeners' queues goes to the other one, what it accepted it answers first."""
    frontend = gate.lab.frontend.namespace
    url, address, folder = "http://example.com:9000/", IN_CIDR, gate.lab.folder
    streams = [
        traffic.Stream.http(frontend, folder / f"drain-{n}.log", url, address=address, interval=0, keep_alive=False)
        for n in range(4)
    ]
    for name in ("http-0", "http-1"):
        workers = gate.workers()
        marks = [stream.mark() for stream in streams]
        os.kill(workers[name], signal.SIGTERM)
        wait_until(
            lambda name=name, workers=workers: gate.ready() and gate.workers()[name] != workers[name], "it", 10.0
        )
        for stream, mark in zip(streams, marks, strict=True):
            stream.wait_count(50, mark=mark)
            assert {one.outcome for one in stream.since(mark)} == {"200"}
    for stream in streams:
        stream.stop()
