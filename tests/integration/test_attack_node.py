# SPDX-License-Identifier: Apache-2.0
"""A node whose own settings are in the way: what somebody else changes there must open nothing."""

import sys
from collections.abc import Iterator

import pytest

from l7lab import traffic
from l7lab.gate import Gate
from l7lab.namespace import Namespace
from l7lab.process import wait_until
from l7lab.topology import RESOLVER_V4, RESOLVER_V6

STRANGER, VIA = "203.0.113.99", "203.0.113.250"
# The agent looks after the node's rules this often, and a bit.
LOOKED_AFTER = 20.0

# A datagram that claims a source; argv: source, destination, port, text.
CLAIM = """
import socket, sys
source, to, port, text = sys.argv[1:]
with socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind((source, 5555))
    sock.sendto(text.encode(), (to, int(port)))
"""
SINK = """
import socket
sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
sock.bind(("::", 8080))
print("ready", flush=True)
while True:
    print(sock.recv(2000).decode(), flush=True)
"""
OPEN = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: backend-datagrams, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress:
    - fromEndpoints: [{matchLabels: {app: frontend}}]
      toPorts: [{ports: [{port: "8080", protocol: UDP}]}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: frontend-datagrams, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress:
    - toEndpoints: [{matchLabels: {app: backend}}]
      toPorts: [{ports: [{port: "8080", protocol: UDP}]}]
"""


def python(namespace: Namespace, script: str, *arguments: str) -> str:
    done = namespace.run([sys.executable, "-I", "-S", "-c", script, *arguments])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def unmanaged(gate: Gate) -> Iterator[Namespace]:
    """A namespace on the node that is no endpoint: nothing is attached to its interface. It claims two addresses."""
    frontend, node = gate.lab.frontend, gate.lab.node.namespace
    namespace = Namespace(f"{node.name}-unmanaged")
    namespace.create()
    try:
        node.ip(
            [
                f"link add other type veth peer name eth0 netns {namespace.name}",
                f"addr add {VIA}/32 dev other",
                "addr add fe80::1/64 dev other nodad",
                "link set other up",
                f"route add {STRANGER}/32 dev other",
            ]
        )
        namespace.ip(
            [
                *(f"addr add {address} dev eth0" for address in (f"{STRANGER}/32", f"{frontend.v4}/32")),
                f"addr add {frontend.v6}/128 dev eth0 nodad",
                "link set eth0 up",
                f"route add {VIA} dev eth0 scope link",
                f"route add default via {VIA}",
                "route add ::/0 via fe80::1 dev eth0",
            ]
        )
        yield namespace
    finally:
        namespace.delete()


def test_a_namespace_that_nobody_watches_does_not_pass_for_a_workload(gate: Gate, unmanaged: Namespace) -> None:
    """With a workload's source address it was taken for that one: nobody had looked at the source where it came in."""
    frontend, backend = gate.lab.frontend, gate.lab.backend
    gate.write("datagrams.yaml", OPEN)
    gate.must("rules", "reload")
    sink = gate.lab.start(backend, [sys.executable, "-I", "-S", "-c", SINK], "sink")
    sink.wait(lambda: "ready" in sink.output(), "the sink")
    pairs = ((frontend.v4, backend.v4), (frontend.v6, backend.v6))
    for source, to in pairs:
        for _ in range(2):  # as a new flow, then as one that is known
            python(unmanaged, CLAIM, source, to, "8080", "forged")
            python(frontend.namespace, CLAIM, source, to, "8080", "honest")
    wait_until(lambda: sink.output().count("honest") == 4, "what is allowed")
    assert "forged" not in sink.output()
    for source, _ in pairs:
        record = gate.wait_audit(
            lambda one, source=source: one["reason"] == "INVALID_SOURCE_IP" and one["source"]["address"] == source,
            "the forged datagram",
        )
        assert record["endpoint"]["name"] == "backend"
    sink.stop()
    gate.restore()
    gate.must("rules", "reload")


def test_without_the_rule_to_the_proxies_nothing_passes_until_the_agent_has_put_it_back(gate: Gate) -> None:
    """Network managers take away rules that are not theirs. What was marked for a proxy then left by the uplink."""
    lab, frontend = gate.lab, gate.lab.frontend.namespace
    seen = len(lab.resolver.seen())
    node = lab.node.namespace

    def lost(server: str) -> bool:
        """Whether a question is. The agent may have put the rule back meanwhile."""
        for family in ("-4", "-6"):
            node.run(["ip", family, "rule", "del", "priority", "9"])
        outcome = str(traffic.dns(frontend, "tracker.example.net", server=server, timeout=1))
        assert outcome in ("timeout", "REFUSED")
        return outcome == "timeout"

    for server in (RESOLVER_V4, RESOLVER_V6):
        wait_until(lambda server=server: lost(server), "a question without the rule")
        record = gate.wait_audit(
            lambda one, server=server: one["reason"] == "PROXY_UNAVAILABLE" and one["destination"]["address"] == server,
            "the question",
        )
        assert (record["endpoint"]["name"], record["destination"]["port"]) == ("frontend", 53)
    assert len(lab.resolver.seen()) == seen
    wait_until(lambda: "fwmark" in node.run(["ip", "-6", "rule", "list", "priority", "9"]).stdout, "it", LOOKED_AFTER)
    assert traffic.dns(frontend, "tracker.example.net").rcode == "REFUSED"
    assert traffic.dns(frontend, "tracker.example.net", server=RESOLVER_V6).rcode == "REFUSED"


def test_the_nodes_loopback_stays_its_own_where_the_kernel_would_route_to_it(gate: Gate) -> None:
    """kube-proxy sets route_localnet (CVE-2020-8558). A workload that no policy limits reached 127.0.0.1 by it."""
    batch, node = gate.lab.batch.namespace, gate.lab.node
    gate.must("endpoint", "remove", "batch")
    gate.must("endpoint", "add", "--netns", batch.name, "--name", "batch", "--label=app=free")
    for namespace in (batch, node.namespace):
        namespace.sysctl({"net.ipv4.conf.all.route_localnet": 1})
    batch.ip(["addr flush dev lo", "route add 127.0.0.0/8 via 203.0.113.1"])
    trusting = gate.lab.start(node, [sys.executable, "-m", "http.server", "9444", "--bind", "127.0.0.1"], "trusting")
    wait_until(lambda: traffic.connect(node.namespace, "127.0.0.1", 9444).open, "the service")
    try:
        for port in (9444, 10080, 10053):
            assert not traffic.connect(batch, "127.0.0.1", port, timeout=0.3).open
            record = gate.wait_audit(
                lambda one, port=port: one["reason"] == "GROUP_ADDRESS" and one["destination"]["port"] == port, "it"
            )
            assert record["endpoint"]["name"] == "batch"
    finally:
        trusting.stop()
        gate.must("endpoint", "remove", "batch")
        gate.add(gate.lab.batch)


def test_a_workload_behind_a_bridge_is_refused(gate: Gate) -> None:
    """There a frame to a neighbour's hardware address never meets the node's routes, which lead to the proxies."""
    lab, batch = gate.lab, gate.lab.batch
    lab.node.namespace.ip(["link add name br0 type bridge", "link set br0 up"])
    gate.must("endpoint", "remove", "batch")
    lab.node.namespace.ip([f"link set {batch.interface} master br0"])
    done = gate.ctl("endpoint", "add", "--netns", batch.namespace.name, "--name", "batch", "--label=app=batch")
    assert done.code != 0
    assert f"{batch.interface} is a port of br0" in done.err
    assert "nomaster" in done.err
    lab.node.namespace.ip([f"link set {batch.interface} nomaster"])
    gate.add(batch)
    wait_until(gate.endpoints_ready, "it is back")
