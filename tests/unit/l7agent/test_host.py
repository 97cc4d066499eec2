# SPDX-License-Identifier: Apache-2.0
"""Tests of l7agent.host. What is enforced on it is in tests/integration/test_host_policies.py."""

import pytest

from l7agent import host
from l7policy.documents import Source, load
from l7policy.ids import HOST_ENDPOINT

HEAD = "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: a}\n"


@pytest.mark.parametrize(("subject", "selected"), [("nodeSelector: {}", True), ("endpointSelector: {}", False)])
def test_it_is_an_endpoint_while_a_policy_is_about_nodes(subject: str, selected: bool) -> None:
    assert host.selected(load([Source("p.yaml", f"{HEAD}spec: {{{subject}, ingress: [{{}}]}}\n")])) == selected


def test_it_has_its_labels_and_those_addresses_that_are_its_alone() -> None:
    addresses = ["192.0.2.1", "2001:db8::1", "127.0.0.1", "::1", "fe80::1", "127.0.0.0/8", "192.0.2.255/32"]
    made = host.endpoint(frozenset({"reserved:host", "k8s:role=gateway"}), None, addresses)
    assert (made.id, made.declared.name, made.state) == (HOST_ENDPOINT, "host", "ready")
    assert made.labels == {"reserved:host", "k8s:role=gateway"}
    assert made.attachment is not None
    assert made.attachment.addresses == ("192.0.2.1", "2001:db8::1")
    assert [made.audited(default) for default in (True, False)] == [True, False]
