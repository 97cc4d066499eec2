# SPDX-License-Identifier: Apache-2.0
from textwrap import indent

import pytest

from l7policy import capability
from l7policy.documents import Policy, Source, load

HEAD = "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: base}\n"


def policies(spec: str, subject: str = "endpointSelector: {}") -> tuple[Policy, ...]:
    return load([Source("f", f"{HEAD}spec:\n  {subject}\n{indent(spec, '  ')}\n")])


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("egressDeny: [{toNodes: [{}]}]", "f:6:16: base egressDeny[0]: a selector of nodes"),
        ("ingressDeny: [{fromEntities: [kube-apiserver]}]", "base ingressDeny[0]: the entity kube-apiserver"),
        ("ingress: [{fromEndpoints: [{matchLabels: {'reserved:health': ''}}]}]", "the label reserved:health"),
    ],
)
def test_what_would_be_enforced_by_halves_is_refused_at_its_place(spec: str, expected: str) -> None:
    (error,) = capability.unsupported(policies(spec))
    assert expected in str(error)
    assert "is not enforced by this version of l7d" in error.message
    assert error.path == "f"


def test_a_policy_for_endpoints_without_labels_is_refused() -> None:
    (error,) = capability.unsupported(
        policies("ingress: [{}]", "endpointSelector: {matchLabels: {'reserved:init': ''}}")
    )
    assert "the label reserved:init" in error.message


def test_a_host_policy_may_not_look_into_what_flows() -> None:
    assert capability.unsupported(policies("ingress: [{}]", "nodeSelector: {}")) == ()
    names = "egress: [{toPorts: [{ports: [{port: '53', protocol: ANY}], rules: {dns: [{matchName: a.example}]}}]}]"
    (error,) = capability.unsupported(policies(names, "nodeSelector: {}"))
    assert "a rule for requests, names or server names of the node itself" in error.message


def test_what_is_enforced_is_not_refused() -> None:
    found = policies(
        "egress:\n- toEntities: [world, host]\n  icmps: [{fields: [{type: EchoRequest}]}]\n"
        "- toFQDNs: [{matchPattern: '**.example.com'}]\n"
        "- toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: ['*.example.com']}]\n"
        "- toPorts: [{ports: [{port: '80', protocol: TCP}],"
        " rules: {http: [{headerMatches: [{name: X-A, secret: {name: s}, mismatch: REPLACE}], headers: [X-B]}]}}]"
    )
    assert capability.unsupported(found) == ()


def test_ports_may_have_names() -> None:
    named = policies("egress: [{toPorts: [{ports: [{port: web, protocol: TCP}]}]}]")
    assert capability.unsupported(named) == ()
