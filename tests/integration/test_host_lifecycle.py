# SPDX-License-Identifier: Apache-2.0
"""Endpoints by cgroup while things change: rules, audit mode, the daemon's death, their own coming and going."""

import os
import signal
import sys
from collections.abc import Iterator

import pytest

from l7lab import traffic
from l7lab.cgroup import Cgroup, remove
from l7lab.gate import Gate
from l7lab.process import Process, wait_until
from l7lab.scenario import API, API_V4
from l7lab.topology import IN_CIDR, NODE_V4, NODE_V6, RESOLVER_V4, RESOLVER_V6, UNNAMED
from l7lab.traffic import Stream

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: job}
spec:
  endpointSelector: {matchLabels: {job: work}}
  egress:
    - toCIDR: [192.0.2.10/32]
      toPorts:
        - ports: [{port: "53", protocol: ANY}]
          rules: {dns: [{matchName: api.example.com}]}
    - toFQDNs: [{matchName: api.example.com}]
      toPorts:
        - ports: [{port: "80", protocol: TCP}]
          rules: {http: [{method: GET, path: "/public/.*"}]}
    - toCIDR: [198.51.100.70/32]
      toPorts: [{ports: [{port: "80", protocol: TCP}]}]
  ingress:
    - fromCIDR: [192.0.2.10/32, "2001:db8::10/128"]
      toPorts: [{ports: [{port: "8080", protocol: TCP}]}]
"""

SERVE = """
import socket, socketserver, sys
class Answer(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"hello")
class Server(socketserver.ThreadingTCPServer):
    address_family, allow_reuse_address, daemon_threads = socket.AF_INET6, True, True
import threading
for port in (8080, 8081):
    threading.Thread(target=Server(("::", port), Answer).serve_forever).start()
print("ready", flush=True)
"""

FLOOD = """
import socket, sys, time
sent = 0
targets = [(socket.socket(socket.AF_INET6 if ":" in a else socket.AF_INET, socket.SOCK_DGRAM), a) for a in sys.argv[1:]]
while True:
    for sock, address in targets:
        try:
            sock.sendto(b"flood", (address, 9999))
        except PermissionError:
            pass
        sent += 1
    if sent % 50 == 0:
        with socket.socket() as tcp:
            tcp.setblocking(False)
            tcp.connect_ex((sys.argv[1], 9999))
        print(sent, flush=True)
    time.sleep(0.0005)
"""

# Every packet for port 9999 that reaches the other host.
COUNT = """
import socket, struct
sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
sock.bind(("ext0", 3))
print("ready", flush=True)
while True:
    data, (_, ethertype, kind, _, _) = sock.recvfrom(2048)
    if kind == socket.PACKET_OUTGOING or ethertype not in (0x0800, 0x86DD):
        continue
    offset = (data[0] & 15) * 4 if ethertype == 0x0800 else 40
    protocol = data[9] if ethertype == 0x0800 else data[6]
    if protocol in (6, 17) and struct.unpack_from("!H", data, offset + 2)[0] == 9999:
        print(ethertype, protocol, flush=True)
"""


@pytest.fixture(scope="module")
def gate(new_gate) -> Iterator[Gate]:
    with new_gate({"job.yaml": POLICY}) as running:
        running.start()
        running.add_cgroup(running.lab.cgroup("work"), job="work")
        yield running


@pytest.fixture
def work(gate: Gate) -> Cgroup:
    return gate.lab.cgroup("work")


def opens(where: Cgroup, address: str, port: int = 80) -> bool:
    return traffic.connect(where, address, port, timeout=0.4).open


def start(cgroup: Cgroup, gate: Gate, script: str, name: str, *arguments: str) -> Process:
    return Process(cgroup, [sys.executable, "-I", "-S", "-c", script, *arguments], gate.lab.folder / f"{name}.log")


def lines(process: Process) -> list[str]:
    return process.log.read_text().splitlines()


def test_who_may_call_a_process_of_the_node_is_judged_where_it_listens(gate: Gate, work: Cgroup) -> None:
    server = start(work, gate, SERVE, "serve")
    try:
        server.wait(lambda: "ready" in server.output(), "it serves")
        outside = gate.lab.outside.namespace
        for node, resolver in ((NODE_V4, RESOLVER_V4), (NODE_V6, RESOLVER_V6)):
            assert traffic.tcp(outside, node, 8080, b"", timeout=1.0).received == b"hello"
            mark = len(gate.audit())
            assert not traffic.connect(outside, node, 8081, timeout=0.4).open
            record = gate.wait_audit(lambda one: one["destination"]["port"] == 8081, "of the port", mark=mark)
            assert (record["reason"], record["source"]["address"]) == ("POLICY_DENIED", resolver)
        mark = len(gate.audit())
        assert not traffic.connect(outside, NODE_V4, 8080, source=UNNAMED, timeout=0.4).open
        record = gate.wait_audit(lambda one: one["source"]["address"] == UNNAMED, "of the caller", mark=mark)
        assert (record["direction"], record["endpoint"]["name"]) == ("ingress", "work")
    finally:
        server.stop()


def test_a_denied_connection_is_dropped_and_named(gate: Gate, work: Cgroup) -> None:
    assert opens(work, IN_CIDR)
    mark = len(gate.audit())
    assert not opens(work, UNNAMED)
    record = gate.wait_audit(lambda one: one["destination"]["address"] == UNNAMED, "of it", mark=mark)
    assert (record["reason"], record["endpoint"]["name"]) == ("POLICY_DENIED", "work")


def test_in_audit_mode_what_policy_denies_passes_and_is_recorded(gate: Gate, work: Cgroup) -> None:
    gate.must("endpoint", "config", "work", "PolicyAuditMode=Enabled")
    try:
        mark = len(gate.audit())
        assert opens(work, UNNAMED)
        record = gate.wait_audit(lambda one: one["destination"]["address"] == UNNAMED, "of it", mark=mark)
        assert record["verdict"] == "AUDIT"
        _, done = traffic.browse(work, f"{API}/private/")
        assert str(done) in ("200", "404")
        record = gate.wait_audit(lambda one: one["layer"] == "http", "of the request", mark=mark)
        assert record["verdict"] == "AUDIT"
    finally:
        gate.must("endpoint", "config", "work", "PolicyAuditMode=Disabled")
    assert not opens(work, UNNAMED)


def test_a_reload_judges_open_connections_again(gate: Gate, work: Cgroup) -> None:
    assert traffic.dns(work, "api.example.com").addresses == (API_V4,)
    direct = Stream.http(work, gate.lab.folder / "direct.log", f"http://{IN_CIDR}/", address=IN_CIDR)
    l7 = Stream.http(work, gate.lab.folder / "l7.log", f"{API}/public/", address=API_V4)
    try:
        for stream in (direct, l7):
            stream.wait_for(lambda seen: any(one.outcome == "200" for one in seen), "it runs")
        gate.edit("job.yaml", "198.51.100.70/32", "198.51.100.71/32")
        gate.edit("job.yaml", "/public/.*", "/elsewhere/.*")
        gate.must("rules", "reload")
        after = direct.mark(), l7.mark()
        l7.wait_count(5, mark=after[1])
        # One that was on its way may still end as it began.
        assert {one.outcome for one in l7.since(after[1])[1:]} == {"403"}
        direct.wait_for(lambda seen: any(one.outcome != "200" for one in seen), "it is cut", mark=after[0])
        assert all(one.outcome != "200" for one in direct.since(after[0])[1:])
    finally:
        direct.stop()
        l7.stop()
        gate.restore()
        gate.must("rules", "reload")
    assert opens(work, IN_CIDR)


def test_nothing_gets_through_while_the_daemon_dies_and_comes_back(gate: Gate, work: Cgroup) -> None:
    lab = gate.lab
    counter = lab.start(lab.outside, [sys.executable, "-I", "-S", "-c", COUNT], "count")
    wait_until(lambda: lines(counter) == ["ready"], "the counter")
    targets = ("198.51.100.3", "2001:db8:100::3")
    control = lab.start(lab.node, [sys.executable, "-I", "-S", "-c", FLOOD, *targets], "free")
    wait_until(lambda: {"2048 6", "2048 17", "34525 17"} <= set(lines(counter)), "what nobody judges to arrive")
    control.stop()
    # The last of the free ones has arrived once the counter stands still.
    still = [-1]

    def stands() -> bool:
        was, still[0] = still[0], len(lines(counter))
        return was == still[0]

    wait_until(stands, "the wire to be silent", step=0.3)
    judged = start(work, gate, FLOOD, "judged", *targets)
    try:
        wait_until(lambda: bool(lines(judged)), "the flood")
        gate.stop_agent()
        gate.start()
        gate.kill_agent()
        assert not opens(work, UNNAMED)  # by the kernel alone
        gate.start()
        for pid in gate.workers().values():
            os.kill(pid, signal.SIGKILL)
        gate.must("rules", "reload")
        before = int(lines(judged)[-1])
        wait_until(lambda: int(lines(judged)[-1]) > before + 500, "the flood to go on")
    finally:
        judged.stop()
    assert len(lines(counter)) == still[0]
    wait_until(gate.ready, "the processes")
    assert str(traffic.browse(work, f"{API}/public/")[1]) == "200"
    assert str(traffic.browse(work, f"{API}/private")[1]) == "403"


def test_an_endpoint_that_is_removed_is_left_alone_again(gate: Gate) -> None:
    cgroup = gate.lab.cgroup("shortly")
    assert opens(cgroup, UNNAMED)
    gate.add_cgroup(cgroup, job="work")
    assert not opens(cgroup, UNNAMED)
    gate.must("endpoint", "remove", "shortly")
    assert opens(cgroup, UNNAMED)


def test_a_cgroup_that_goes_and_comes_back_is_judged_again(gate: Gate) -> None:
    cgroup = gate.lab.cgroup("fleeting")
    gate.add_cgroup(cgroup, job="work")
    assert not opens(cgroup, UNNAMED)
    remove(cgroup.folder)

    def state() -> str:
        return next(one["state"] for one in gate.endpoints() if one["name"] == "fleeting")

    wait_until(lambda: state() != "ready", "the daemon to see that it is gone")
    cgroup.create()
    wait_until(lambda: state() == "ready", "the daemon to see it again")
    assert not opens(cgroup, UNNAMED)
    assert opens(cgroup, IN_CIDR)
    gate.must("endpoint", "remove", "fleeting")
