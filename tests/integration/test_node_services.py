# SPDX-License-Identifier: Apache-2.0
"""Services of the node itself, as workloads reach them: a name server and a web server on its own addresses."""

from collections.abc import Callable, Iterator

import pytest

from l7lab import traffic
from l7lab.gate import Gate
from l7lab.services import Dnsmasq, Nginx
from l7lab.topology import GATEWAY_V4, NODE_V4, NODE_V6

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: node, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: batch}}
  egress:
    - toEntities: [host]
      toPorts:
        - ports: [{port: "53", protocol: ANY}]
          rules: {dns: [{matchName: api.example.com}]}
        - ports: [{port: "8081", protocol: TCP}]
          rules: {http: [{method: GET, path: "/public/.*"}]}
    - toFQDNs: [{matchName: api.example.com}]
      toPorts: [{ports: [{port: "80", protocol: TCP}]}]
"""
ADDRESSES = (NODE_V4, GATEWAY_V4, NODE_V6)


@pytest.fixture(scope="module")
def node(module_gate: Callable[[dict[str, str]], Gate]) -> Iterator[Gate]:
    """The node with a name server and a web server of its own."""
    gate = module_gate({"node.yaml": POLICY})
    here = gate.lab.node.namespace
    servers = (
        Nginx(here, gate.lab.folder / "node-web", (8081,)),
        Dnsmasq(here, gate.lab.folder / "node-names", ADDRESSES),
    )
    yield gate
    for server in servers:
        server.process.stop()


@pytest.mark.parametrize("address", ADDRESSES)
def test_requests_to_the_node_are_judged_and_answered(node: Gate, address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    batch = node.lab.batch.namespace
    for _ in range(2):
        assert str(traffic.http(batch, f"http://{host}:8081/public/a", address=address)) == "200"
    assert str(traffic.http(batch, f"http://{host}:8081/private", address=address)) == "403"
    assert str(traffic.http(batch, f"http://{host}:8081/public/a", address=address, method="POST")) == "403"


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("tcp", [False, True])
def test_questions_to_the_node_are_judged_answered_and_learnt(node: Gate, address: str, tcp: bool) -> None:
    batch = node.lab.batch.namespace
    found = traffic.dns(batch, "api.example.com", server=address, tcp=tcp)
    assert str(found) == "NOERROR 198.51.100.1"
    assert traffic.connect(batch, "198.51.100.1", 80).open
    assert traffic.dns(batch, "tracker.example.net", server=address, tcp=tcp).rcode == "REFUSED"


def test_the_node_sees_itself_as_the_client(node: Gate) -> None:
    batch = node.lab.batch.namespace
    body = traffic.http(batch, f"http://{NODE_V4}:8081/public/whoami", address=NODE_V4).body
    assert " from " in body
    assert batch.name not in body
    assert body.partition(" from ")[2].split()[0] == NODE_V4
