# SPDX-License-Identifier: Apache-2.0
"""Other nodes, entities that the configuration names, and workloads without labels, on live traffic."""

from collections.abc import Callable, Iterator

import pytest

from l7lab import traffic
from l7lab.gate import Gate
from l7lab.topology import IN_CIDR, NODE_V4

DATABASE, PLAIN, API_SERVER, STRANGER = (f"198.51.100.{host}" for host in (1, 2, 3, 4))
DATABASE_V6 = "2001:db8:100::1"
CONFIG: dict[str, object] = {
    "node": {"labels": {"kubernetes.io/hostname": "gateway"}},
    "nodes": [
        {"name": "db", "addresses": [DATABASE, DATABASE_V6], "labels": {"role": "db"}},
        {"name": "plain", "addresses": [PLAIN]},
    ],
    "entities": {"kube-apiserver": [API_SERVER], "unmanaged": [STRANGER]},
}
BATCH = f"""\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: batch, namespace: shop}}
spec:
  endpointSelector: {{matchLabels: {{app: batch}}}}
  egress:
    - toNodes: [{{matchLabels: {{role: db}}}}]
      toPorts: [{{ports: [{{port: "80", protocol: TCP}}]}}]
    - toNodes: [{{matchLabels: {{kubernetes.io/hostname: gateway}}}}]
      icmps: [{{fields: [{{type: EchoRequest}}]}}]
    - toEntities: [kube-apiserver]
      toPorts: [{{ports: [{{port: "80", protocol: TCP}}]}}]
    - toCIDR: [{PLAIN}/32, {STRANGER}/32, {IN_CIDR}/32]
"""
DENY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: deny, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: batch}}
  egressDeny:
    - toEntities: [kube-apiserver, remote-node]
    - toNodes: [{}]
"""
UNLABELLED = """\
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: unlabelled}
spec:
  endpointSelector: {matchLabels: {"reserved:init": ""}}
  egress: [{toCIDR: [198.51.100.64/26]}]
"""


@pytest.fixture(scope="module")
def gate(module_gate: Callable[..., Gate]) -> Iterator[Gate]:
    return module_gate({"batch.yaml": BATCH, "unlabelled.yaml": UNLABELLED}, CONFIG)


def explained(gate: Gate, source: str, destination: str, port: str) -> bool:
    code = gate.ctl("rules", "explain", "--from", source, "--to", destination, "--port", port).code
    assert code in (0, 1)
    return code == 0


@pytest.mark.parametrize(
    ("address", "reached"),
    [(DATABASE, True), (DATABASE_V6, True), (PLAIN, False), (API_SERVER, True), (STRANGER, False), (IN_CIDR, True)],
)
def test_who_the_configuration_names_is_known_by_that_and_by_no_network(
    gate: Gate, address: str, reached: bool
) -> None:
    assert traffic.connect(gate.lab.batch.namespace, address, 80).open is reached
    assert explained(gate, "batch", address, "80/TCP") is reached


def test_this_node_has_the_labels_of_its_configuration(gate: Gate) -> None:
    assert traffic.ping(gate.lab.batch.namespace, NODE_V4)
    assert explained(gate, "batch", "reserved:host", "icmp:8")
    assert not traffic.ping(gate.lab.batch.namespace, DATABASE)


def test_they_are_denied_as_they_are_allowed(gate: Gate) -> None:
    gate.write("deny.yaml", DENY)
    gate.must("rules", "reload")
    batch = gate.lab.batch.namespace
    assert [traffic.connect(batch, address, 80).open for address in (DATABASE, API_SERVER, IN_CIDR)] == [
        False,
        False,
        True,
    ]
    assert not traffic.ping(batch, NODE_V4)
    gate.restore()
    gate.must("rules", "reload")


def test_a_workload_without_labels_may_do_what_policies_for_such_allow_until_it_gets_some(gate: Gate) -> None:
    frontend = gate.lab.frontend
    gate.must("endpoint", "remove", "frontend")
    added = gate.must("endpoint", "add", "--netns", frontend.namespace.name, "--name", "frontend").out
    assert "identity 5, enforcing both" in added
    assert traffic.connect(frontend.namespace, IN_CIDR, 80).open
    assert not traffic.connect(frontend.namespace, STRANGER, 80).open
    assert [explained(gate, "frontend", address, "80/TCP") for address in (IN_CIDR, STRANGER)] == [True, False]
    gate.must("endpoint", "labels", "frontend", "-a", "app=frontend")
    assert traffic.connect(frontend.namespace, STRANGER, 80).open


def test_other_nodes_are_no_workloads_in_the_list_of_identities(gate: Gate) -> None:
    kinds = {tuple(one["labels"]): one["kind"] for one in gate.must("identity", "list", "-o", "json").json}
    assert {kind for labels, kind in kinds.items() if "k8s:role=db" in labels} == {"node"}
    assert {kind for labels, kind in kinds.items() if "k8s:app=batch" in labels} == {"workload"}
    counted = gate.must("metrics", "list", "-p", "identity$", "-o", "json").json
    assert {one["labels"]["type"]: one["value"] for one in counted}["node"] == 1
