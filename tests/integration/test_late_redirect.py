# SPDX-License-Identifier: Apache-2.0
"""Requests that ingress policy wants judged, where no proxy can come between any more: dropped, with a reason."""

import sys
from collections.abc import Callable, Iterator

import pytest

from l7lab import traffic
from l7lab.gate import Gate
from l7lab.namespace import Namespace
from l7lab.process import wait_until
from l7lab.topology import NODE_V4, Host

VIRTUAL = "198.51.100.77"
METRICS = 9964
POLICY = f"""
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {{name: served}}
spec:
  endpointSelector: {{matchLabels: {{job: served}}}}
  egress: [{{toCIDR: [192.0.2.10/32]}}]
  ingress:
    - fromCIDR: [192.0.2.10/32]
      toPorts: [{{ports: [{{port: "8090", protocol: TCP}}], rules: {{http: [{{method: GET}}]}}}}]
    - fromCIDR: [192.0.2.10/32]
      toPorts: [{{ports: [{{port: "8091", protocol: TCP}}]}}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: frontend, namespace: shop}}
spec:
  endpointSelector: {{matchLabels: {{app: frontend}}}}
  egress:
    - toCIDR: [{VIRTUAL}/32]
    - toEndpoints: [{{matchLabels: {{app: backend}}}}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: backend, namespace: shop}}
spec:
  endpointSelector: {{matchLabels: {{app: backend}}}}
  ingress:
    - fromEndpoints: [{{matchLabels: {{app: frontend}}}}]
      toPorts: [{{ports: [{{port: "8080", protocol: TCP}}], rules: {{http: [{{method: GET, path: "/health.*"}}]}}}}]
"""
SERVE = """
import socket
servers = [socket.create_server(("0.0.0.0", port)) for port in (8090, 8091)]
print("ready", flush=True)
servers[1].accept()
servers[0].accept()
"""


@pytest.fixture(scope="module")
def gate(module_gate: Callable[..., Gate]) -> Iterator[Gate]:
    return module_gate({"a.yaml": POLICY}, {"metrics": {"listen": f"127.0.0.1:{METRICS}"}})


@pytest.fixture(scope="module")
def served(gate: Gate) -> Namespace:
    """Processes of the node, two of whose ports are open to the outside host."""
    cgroup = gate.lab.cgroup("served")
    gate.add_cgroup(cgroup, job="served")
    server = gate.lab.start(Host(cgroup), [sys.executable, "-I", "-S", "-c", SERVE], "serve")
    wait_until(lambda: server.log.read_text() == "ready\n", "the server")
    return cgroup


def test_requests_to_a_process_of_the_node_are_dropped_and_status_tells_of_it(gate: Gate, served: Namespace) -> None:
    outside = gate.lab.outside.namespace
    assert traffic.connect(outside, NODE_V4, 8091).open
    mark = len(gate.audit())
    assert not traffic.connect(outside, NODE_V4, 8090, timeout=0.3).open
    record = gate.wait_audit(lambda one: one["reason"] == "REDIRECT_IMPOSSIBLE", "of the connection", mark=mark)
    assert record["endpoint"]["name"] == "served"
    assert any("served" in problem and "REDIRECT_IMPOSSIBLE" in problem for problem in gate.status()["problems"])


def test_requests_that_the_node_turns_to_a_workload_of_its_own_are_dropped(gate: Gate) -> None:
    """Destination NAT behind the point where the flow was judged, with a virtual address as its destination."""
    frontend, backend = gate.lab.frontend, gate.lab.backend
    assert traffic.connect(frontend.namespace, backend.v4, 8080).open
    rules = f"""table ip turned {{
        chain prerouting {{
            type nat hook prerouting priority dstnat
            ip daddr {VIRTUAL} tcp dport 8080 dnat to {backend.v4}
        }}
    }}"""
    done = gate.lab.node.namespace.run(["nft", "-f", "-"], stdin=rules)
    assert done.returncode == 0, done.stderr
    mark = len(gate.audit())
    assert not traffic.connect(frontend.namespace, VIRTUAL, 8080, timeout=0.5).open
    record = gate.wait_audit(lambda one: one["reason"] == "REDIRECT_IMPOSSIBLE", "of the connection", mark=mark)
    assert record["endpoint"]["name"] == "backend"


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9"])
def test_a_process_of_the_node_does_not_reach_the_metrics_that_its_policy_does_not_name(
    gate: Gate, served: Namespace, address: str
) -> None:
    assert traffic.connect(gate.lab.node.namespace, "127.0.0.1", METRICS).open
    assert not traffic.connect(served, address, METRICS, timeout=0.3).open
