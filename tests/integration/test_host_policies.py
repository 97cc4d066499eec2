# SPDX-License-Identifier: Apache-2.0
"""Host policies: what the node itself exchanges with other machines, and with its workloads."""

from collections.abc import Callable, Iterator

import pytest

from l7lab import traffic
from l7lab.gate import Gate
from l7lab.services import Nginx
from l7lab.topology import NODE_V4, NODE_V6, RESOLVER_V4, RESOLVER_V6

OPEN = """\
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: pods}
spec:
  endpointSelector: {matchLabels: {app: batch}}
  egress:
    - toEntities: [host, world]
"""
HOST = """\
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: node}
spec:
  nodeSelector: {matchLabels: {role: gateway}}
  ingress:
    - fromCIDR: [192.0.2.10/32, "2001:db8::10/128"]
      toPorts: [{ports: [{port: "8081", protocol: TCP}]}]
    - fromEndpoints: [{matchLabels: {app: batch}}]
      toPorts: [{ports: [{port: "8082", protocol: TCP}]}]
    - icmps: [{fields: [{type: EchoRequest}, {family: IPv6, type: EchoRequest}]}]
  egress:
    - toCIDR: [192.0.2.10/32, "2001:db8::10/128"]
      toPorts: [{ports: [{port: "53", protocol: ANY}]}]
"""
PORTS = (8081, 8082, 8083)
BOTH = [NODE_V4, NODE_V6]


@pytest.fixture(scope="module")
def gate(module_gate: Callable[..., Gate]) -> Iterator[Gate]:
    """A node with the label of the policy, a web server of its own, and both policies."""
    running = module_gate({"pods.yaml": OPEN, "node.yaml": HOST}, {"node": {"labels": {"role": "gateway"}}})
    server = Nginx(running.lab.node.namespace, running.lab.folder / "node-web", PORTS)
    yield running
    server.process.stop()


@pytest.mark.parametrize("address", BOTH)
def test_other_machines_reach_only_what_the_policy_lets_them(gate: Gate, address: str) -> None:
    outside = gate.lab.outside.namespace
    opened = [traffic.connect(outside, address, port).open for port in PORTS]
    assert opened == [True, False, False]
    mark = len(gate.audit())
    assert not traffic.connect(outside, address, 8083).open
    record = gate.wait_audit(lambda one: one["destination"]["port"] == 8083, "of the node's policy", mark=mark)
    told = record["endpoint"]["name"], record["direction"], record["reason"], record["policies"]
    assert told == ("host", "ingress", "POLICY_DENIED", ["node"])


def test_the_node_is_configured_by_its_configuration(gate: Gate) -> None:
    done = gate.ctl("endpoint", "config", "host", "PolicyAuditMode=Enabled")
    assert done.code != 0
    assert "its options are node.audit and node.labels of the configuration" in done.err


@pytest.mark.parametrize("address", BOTH)
def test_workloads_are_judged_by_both_ends(gate: Gate, address: str) -> None:
    batch, frontend = gate.lab.batch.namespace, gate.lab.frontend.namespace
    assert [traffic.connect(batch, address, port).open for port in PORTS] == [False, True, False]
    assert not traffic.connect(frontend, address, 8082).open


def test_the_node_reaches_only_what_the_policy_lets_it(gate: Gate) -> None:
    node = gate.lab.node.namespace
    for resolver in (RESOLVER_V4, RESOLVER_V6):
        for tcp in (False, True):
            assert traffic.dns(node, "api.example.com", server=resolver, tcp=tcp).rcode == "NOERROR"
    for address in ("198.51.100.1", "2001:db8:100::1"):
        assert not traffic.connect(node, address, 80).open
    assert traffic.ping(gate.lab.outside.namespace, NODE_V4)
    assert not traffic.ping(node, "198.51.100.1")


def test_what_workloads_send_through_the_node_is_their_own_matter(gate: Gate) -> None:
    for address in ("198.51.100.1", "2001:db8:100::1"):
        assert traffic.connect(gate.lab.batch.namespace, address, 80).open


MASQUERADE = """\
table inet own_name {
  chain postrouting {
    type nat hook postrouting priority srcnat;
    oifname "ext0" masquerade
  }
}
"""


def test_a_node_that_masquerades_its_workloads_lets_their_answers_in(gate: Gate) -> None:
    node, batch = gate.lab.node.namespace, gate.lab.batch.namespace
    rules = gate.lab.folder / "masquerade.nft"
    rules.write_text(MASQUERADE)
    applied = node.run(["nft", "-f", str(rules)])
    assert applied.returncode == 0, applied.stderr
    try:
        for address, seen in (("198.51.100.1", NODE_V4), ("2001:db8:100::1", NODE_V6)):
            host = f"[{address}]" if ":" in address else address
            for _ in range(2):
                answer = traffic.http(batch, f"http://{host}/public/whoami", address=address)
                assert f"from {seen} " in answer.body
        assert traffic.ping(batch, "198.51.100.1")
        assert traffic.dns(batch, "api.example.com", server=RESOLVER_V4).rcode == "NOERROR"
        assert not traffic.connect(gate.lab.outside.namespace, NODE_V4, 8083).open
    finally:
        node.run(["nft", "delete", "table", "inet", "own_name"])


def test_without_a_policy_that_selects_the_node_all_is_open_and_back_again_with_the_agent_dead(gate: Gate) -> None:
    node, outside = gate.lab.node.namespace, gate.lab.outside.namespace
    (gate.policies / "node.yaml").rename(gate.policies / "node.off")
    gate.must("rules", "reload")
    assert traffic.connect(outside, NODE_V4, 8083).open
    assert traffic.connect(node, "198.51.100.1", 80).open
    (gate.policies / "node.off").rename(gate.policies / "node.yaml")
    gate.must("rules", "reload")
    gate.kill_agent()
    try:
        assert not traffic.connect(outside, NODE_V4, 8083).open
        assert traffic.connect(outside, NODE_V4, 8081).open
        assert not traffic.connect(node, "198.51.100.1", 80).open
    finally:
        gate.start()
    assert not traffic.connect(outside, NODE_V4, 8083).open


def test_an_audited_node_lets_pass_and_records(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate({"node.yaml": HOST}, {"node": {"labels": {"role": "gateway"}, "audit": True}})
    assert traffic.connect(gate.lab.node.namespace, "198.51.100.1", 80).open
    record = gate.wait_audit(lambda one: one["verdict"] == "AUDIT", "of the node")
    assert (record["endpoint"]["name"], record["direction"]) == ("host", "egress")


def test_a_node_with_other_labels_is_left_alone(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate({"node.yaml": HOST})
    assert traffic.connect(gate.lab.node.namespace, "198.51.100.1", 80).open
