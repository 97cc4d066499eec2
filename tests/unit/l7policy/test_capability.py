# SPDX-License-Identifier: Apache-2.0
from textwrap import indent

import pytest

from l7policy import capability
from l7policy.documents import Policy, Source, load, load_enforced
from l7policy.errors import PolicyErrors

HEAD = "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: base}\n"


def policies(spec: str, subject: str = "endpointSelector: {}") -> tuple[Policy, ...]:
    return load([Source("f", f"{HEAD}spec:\n  {subject}\n{indent(spec, '  ')}\n")])


@pytest.mark.parametrize(
    ("spec", "expected", "key"),
    [
        ("egressDeny: [{toNodes: [{}]}]", "f:6:16: base egressDeny[0]: l7d is not told who another node is", "nodes"),
        ("ingressDeny: [{fromEntities: [remote-node]}]", "who the entity remote-node is", "nodes"),
        (
            "ingressDeny: [{fromEntities: [kube-apiserver]}]",
            "who the entity kube-apiserver is",
            "kube-apiserver",
        ),
        (
            "ingressDeny: [{fromEndpoints: [{matchLabels: {'reserved:unmanaged': ''}}]}]",
            "reserved:unmanaged",
            "unmanaged",
        ),
        (
            "egress: [{toEndpoints: [{matchExpressions: [{key: 'reserved:kube-apiserver', operator: DoesNotExist}]}]}]",
            "who reserved:kube-apiserver is",
            "kube-apiserver",
        ),
    ],
)
def test_what_would_let_through_what_it_forbids_is_refused_until_the_configuration_tells(
    spec: str, expected: str, key: str
) -> None:
    found = policies(spec)
    (error,) = capability.unsupported(found)
    assert expected in str(error)
    assert f"key {capability.TOLD.get(key, key)}" in error.hint
    assert error.path == "f"
    assert capability.unsupported(found, {key}) == ()
    assert capability.unsupported(found, capability.CONFIGURED - {key}) == (error,)


@pytest.mark.parametrize("entity", ["kube-apiserver", "unmanaged", "remote-node", "health", "ingress", "init"])
def test_a_rule_that_allows_whom_nobody_knows_allows_nobody_and_is_taken(entity: str) -> None:
    assert capability.unsupported(policies(f"egress: [{{toEntities: [{entity}]}}, {{toNodes: [{{}}]}}]")) == ()


@pytest.mark.parametrize("entity", ["health", "ingress", "init", "cluster", "world", "host"])
def test_those_whom_l7d_knows_in_any_case_may_be_denied(entity: str) -> None:
    assert capability.unsupported(policies(f"ingressDeny: [{{fromEntities: [{entity}]}}]")) == ()


def test_an_administrators_pass_is_refused_as_a_deny_is() -> None:
    text = (
        "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: a}\n"
        "spec: {priority: 1, subject: {namespaces: {}}, "
        "egress: [{action: Pass, to: [{nodes: {matchLabels: {a: b}}}]}]}\n"
    )
    with pytest.raises(PolicyErrors, match="another node"):
        load_enforced([Source("f", text)])


def test_a_host_policy_may_not_look_into_what_flows() -> None:
    assert capability.unsupported(policies("ingress: [{}]", "nodeSelector: {}")) == ()
    names = "egress: [{toPorts: [{ports: [{port: '53', protocol: ANY}], rules: {dns: [{matchName: a.example}]}}]}]"
    (error,) = capability.unsupported(policies(names, "nodeSelector: {}"))
    assert "a rule for requests, names or server names of the node itself is not enforced" in error.message


def test_what_is_enforced_is_not_refused() -> None:
    found = policies(
        "egress:\n- toEntities: [world, host]\n  icmps: [{fields: [{type: EchoRequest}]}]\n"
        "- toFQDNs: [{matchPattern: '**.example.com'}]\n"
        "- toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: ['*.example.com']}]\n"
        "- toPorts: [{ports: [{port: web, protocol: TCP}]}]\n"
        "- toPorts: [{ports: [{port: '80', protocol: TCP}],"
        " rules: {http: [{headerMatches: [{name: X-A, secret: {name: s}, mismatch: REPLACE}], headers: [X-B]}]}}]"
    )
    assert capability.unsupported(found) == ()
    assert (
        capability.unsupported(policies("ingress: [{}]", "endpointSelector: {matchLabels: {'reserved:init': ''}}"))
        == ()
    )
