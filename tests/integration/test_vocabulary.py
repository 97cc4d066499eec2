# SPDX-License-Identifier: Apache-2.0
"""What policies can say beyond addresses and ports, enforced on live workloads."""

from collections.abc import Callable

from l7lab import traffic
from l7lab.gate import Gate

INSIDE, OUTSIDE = "198.51.100.70", "198.51.100.4"
BATCH = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: batch, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: batch}}
  egress:
    - toCIDRSet: [{cidrGroupRef: partners}]
      icmps: [{fields: [{type: EchoRequest}]}]
    - toEndpoints: [{matchLabels: {app: backend}}]
      toPorts: [{ports: [{port: "8080", endPort: 8081, protocol: TCP}]}]
---
apiVersion: cilium.io/v2
kind: CiliumCIDRGroup
metadata: {name: partners}
spec: {externalCIDRs: [198.51.100.64/26]}
"""
FREEZE = """\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: freeze}
spec:
  tier: Admin
  priority: 10
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: batch}}}}
  egress:
    - action: Deny
      to: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: backend}}}}]
"""


def test_a_type_of_icmp_is_allowed_to_a_group_of_addresses_only(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate({"batch.yaml": BATCH})
    batch = gate.lab.batch.namespace
    assert traffic.ping(batch, INSIDE)
    assert not traffic.ping(batch, OUTSIDE)
    assert not traffic.connect(batch, INSIDE, 80).open


def test_an_administrators_deny_goes_before_what_the_namespace_allows(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate({"batch.yaml": BATCH})
    batch, backend = gate.lab.batch.namespace, gate.lab.backend.v4
    assert traffic.connect(batch, backend, 8080).open
    gate.write("freeze.yaml", FREEZE)
    gate.must("rules", "reload")
    assert not traffic.connect(batch, backend, 8080).open
    record = gate.wait_audit(lambda one: one["reason"] == "POLICY_DENY", "the administrator's deny")
    assert "freeze" in record["rule"]


def test_always_enforces_policy_on_workloads_that_no_policy_selects(make_gate: Callable[..., Gate]) -> None:
    for mode, reached in (("default", True), ("always", False)):
        gate = make_gate({"batch.yaml": BATCH}, {"enforcement": mode})
        assert gate.status()["enforcement"] == mode
        assert traffic.connect(gate.lab.frontend.namespace, OUTSIDE, 80).open is reached
        assert traffic.ping(gate.lab.batch.namespace, INSIDE)
