# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from textwrap import indent

import pytest

from l7policy import adminpolicy, resolve
from l7policy.documents import Policy, Source, load
from l7policy.errors import PolicyErrors
from l7policy.judgement import PolicyVerdict, judge
from l7policy.model import (
    Action,
    CidrPeer,
    FqdnPeer,
    LabelPeer,
    NodePeer,
    Operator,
    Peer,
    Port,
    Requirement,
    Rule,
    Tier,
)
from l7policy.names import NameSet
from l7policy.reader import Fields
from l7policy.verdict import Direction, Protocol

ADMIN = ("v1alpha1", "AdminNetworkPolicy", "ops", "priority: 7\n")
BASELINE = ("v1alpha1", "BaselineAdminNetworkPolicy", "default", "")
CLUSTER = ("v1alpha2", "ClusterNetworkPolicy", "ops", "tier: Admin\npriority: 7\n")
Kind = tuple[str, str, str, str]
IN_SOME = Requirement("k8s:io.kubernetes.pod.namespace", Operator.EXISTS)
TEAM = Requirement("k8s:io.cilium.k8s.namespace.labels.team", Operator.IN, ("a",))
WEB = Requirement("k8s:app", Operator.IN, ("web",))
EVERYBODY = "subject: {namespaces: {}}\n"


def text(kind: Kind, spec: str, subject: str = EVERYBODY) -> str:
    version, name, title, head = kind
    return (
        f"apiVersion: policy.networking.k8s.io/{version}\nkind: {name}\nmetadata: {{name: {title}}}\n"
        f"spec:\n{indent(head + subject + spec, '  ')}\n"
    )


def policy(kind: Kind, spec: str, subject: str = EVERYBODY) -> Policy:
    (found,) = load([Source("f", text(kind, spec, subject))])
    return found


def rule(kind: Kind, spec: str) -> Rule:
    (found,) = policy(kind, spec).rules
    return found


def complaints(kind: Kind, spec: str, subject: str = EVERYBODY) -> str:
    with pytest.raises(PolicyErrors) as caught:
        policy(kind, spec, subject)
    return str(caught.value)


def test_rules_are_ordered_within_a_policy_and_policies_by_priority() -> None:
    spec = "ingress:\n- {action: Deny, from: [{namespaces: {}}]}\n- {action: Pass, from: [{namespaces: {}}]}"
    found = policy(ADMIN, spec)
    assert [(one.action, one.tier, one.priority, str(one.origin), one.origin.line) for one in found.rules] == [
        (Action.DENY, Tier.ADMIN, 7000, "adminnetworkpolicy:ops ingress[0]", 8),
        (Action.PASS, Tier.ADMIN, 7001, "adminnetworkpolicy:ops ingress[1]", 9),
    ]
    assert (found.default_deny_ingress, found.default_deny_egress, found.namespace) == (False, False, "")


@pytest.mark.parametrize(
    ("kind", "word", "tier", "priority"),
    [
        (ADMIN, "Allow", Tier.ADMIN, 7000),
        (BASELINE, "Allow", Tier.BASELINE, 0),
        (CLUSTER, "Accept", Tier.ADMIN, 7000),
        ((*CLUSTER[:3], "tier: Baseline\npriority: 1000\n"), "Accept", Tier.BASELINE, 1000000),
    ],
)
def test_each_kind_has_its_tier_and_its_word_for_allowing(kind: Kind, word: str, tier: Tier, priority: int) -> None:
    found = rule(kind, f"egress: [{{action: {word}, to: [{{namespaces: {{}}}}]}}]")
    assert (found.action, found.tier, found.priority) == (Action.ALLOW, tier, priority)


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ("subject: {namespaces: {}}\n", (IN_SOME,)),
        ("subject: {namespaces: {matchLabels: {team: a}}}\n", (TEAM, IN_SOME)),
        (
            "subject: {pods: {namespaceSelector: {matchLabels: {team: a}}, podSelector: {matchLabels: {app: web}}}}\n",
            (TEAM, WEB, IN_SOME),
        ),
    ],
)
def test_the_subject_is_pods_of_some_namespaces(subject: str, expected: tuple[Requirement, ...]) -> None:
    assert policy(CLUSTER, "", subject).subject == expected


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("[{namespaces: {matchLabels: {team: a}}}]", (LabelPeer((TEAM, IN_SOME)),)),
        (
            "[{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}]",
            (LabelPeer((WEB, IN_SOME)),),
        ),
        ("[{nodes: {}}]", (NodePeer(),)),
        ("[{networks: [192.0.2.0/24, '2001:db8::/32']}]", (CidrPeer("192.0.2.0/24"), CidrPeer("2001:db8::/32"))),
        (
            "[{domainNames: [kubernetes.io, '*.Example.com']}]",
            (FqdnPeer(match_name="kubernetes.io."), FqdnPeer(match_pattern="**.example.com.")),
        ),
    ],
)
def test_peers(to: str, expected: tuple[Peer, ...]) -> None:
    assert rule(CLUSTER, f"egress: [{{action: Accept, to: {to}}}]").peers == expected
    assert rule(ADMIN, f"egress: [{{action: Allow, to: {to}}}]").peers == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("www.kubernetes.io", True),
        ("latest.blog.kubernetes.io", True),
        ("kubernetes.io", False),
        ("wikipedia.org", False),
    ],
)
def test_a_star_is_one_or_more_labels(name: str, expected: bool) -> None:
    peers = rule(CLUSTER, "egress: [{action: Accept, to: [{domainNames: ['*.kubernetes.io']}]}]").peers or ()
    assert NameSet(peer for peer in peers if isinstance(peer, FqdnPeer)).matches(name) is expected


@pytest.mark.parametrize(
    ("kind", "ports", "expected"),
    [
        (ADMIN, "ports: [{portNumber: {port: 80}}]", (Port(Protocol.TCP, 80, 80),)),
        (ADMIN, "ports: [{portNumber: {protocol: UDP, port: 53}}]", (Port(Protocol.UDP, 53, 53),)),
        (ADMIN, "ports: [{portRange: {protocol: SCTP, start: 1, end: 9}}]", (Port(Protocol.SCTP, 1, 9),)),
        (ADMIN, "ports: [{namedPort: web}]", (Port(Protocol.ANY, name="web"),)),
        (CLUSTER, "ports: [{portNumber: {port: 80}}]", (Port(Protocol.TCP, 80, 80),)),
        (CLUSTER, "protocols: [{tcp: {destinationPort: {number: 80}}}]", (Port(Protocol.TCP, 80, 80),)),
        (CLUSTER, "protocols: [{udp: {destinationPort: {range: {start: 1, end: 9}}}}]", (Port(Protocol.UDP, 1, 9),)),
        (CLUSTER, "protocols: [{sctp: {}}]", (Port(Protocol.SCTP),)),
        (CLUSTER, "protocols: [{destinationNamedPort: web}]", (Port(Protocol.ANY, name="web"),)),
    ],
)
def test_ports(kind: Kind, ports: str, expected: tuple[Port, ...]) -> None:
    assert rule(kind, f"ingress: [{{action: Deny, from: [{{namespaces: {{}}}}], {ports}}}]").ports == expected


FROM = "from: [{namespaces: {}}]"


@pytest.mark.parametrize(
    ("kind", "spec", "expected"),
    [
        (ADMIN, f"ingress: [{{action: Accept, {FROM}}}]", "unknown action 'Accept'; known here: Allow, Deny, Pass"),
        (CLUSTER, f"ingress: [{{action: Allow, {FROM}}}]", "unknown action 'Allow'; known here: Accept, Deny, Pass"),
        (BASELINE, f"ingress: [{{action: Pass, {FROM}}}]", "unknown action 'Pass'"),
        (ADMIN, f"ingress: [{{{FROM}}}]", "an element of ingress needs the field action"),
        (ADMIN, "ingress: [{action: Deny}]", "an element of ingress needs the field from"),
        (ADMIN, "ingress: [{action: Deny, from: []}]", "from has 0 elements; 1 to 100 are allowed"),
        (ADMIN, "ingress: [{action: Deny, from: [{}]}]", "needs exactly one of namespaces, pods"),
        (ADMIN, "ingress: [{action: Deny, from: [{networks: [192.0.2.0/24]}]}]", "unknown field networks"),
        (ADMIN, "ingress: [{action: Deny, from: [{pods: {podSelector: {}}}]}]", "needs the field namespaceSelector"),
        (ADMIN, f"ingress: [{{action: Deny, {FROM}, ports: []}}]", "ports has 0 elements"),
        (ADMIN, f"ingress: [{{action: Deny, {FROM}, ports: [{{}}]}}]", "needs exactly one of namedPort, portNumber"),
        (ADMIN, f"ingress: [{{action: Deny, {FROM}, protocols: [{{tcp: {{}}}}]}}]", "unknown field protocols"),
        (
            ADMIN,
            f"ingress: [{{action: Deny, {FROM}, ports: [{{portNumber: {{port: 0}}}}]}}]",
            "must be from 1 to 65535",
        ),
        (
            ADMIN,
            f"ingress: [{{action: Deny, {FROM}, ports: [{{portNumber: {{port: '80'}}}}]}}]",
            "port must be a number, not text",
        ),
        (
            ADMIN,
            f"ingress: [{{action: Deny, {FROM}, ports: [{{portRange: {{start: 9, end: 8}}}}]}}]",
            "end 8 is lower than start 9",
        ),
        (ADMIN, f"ingress: [{{action: Deny, {FROM}, ports: [{{namedPort: '80'}}]}}]", "'80' is not the name of a port"),
        (
            CLUSTER,
            f"ingress: [{{action: Deny, {FROM}, ports: [{{namedPort: a}}], protocols: [{{tcp: {{}}}}]}}]",
            "combining ports and protocols",
        ),
        (
            CLUSTER,
            "egress: [{action: Accept, to: [{networks: [192.0.2.0/24]}], protocols: [{destinationNamedPort: web}]}]",
            "networks have no named ports",
        ),
        (CLUSTER, "egress: [{action: Deny, to: [{domainNames: [a.example]}]}]", "domainNames can only be allowed"),
        (
            (*CLUSTER[:3], "tier: Baseline\npriority: 1\n"),
            "egress: [{action: Accept, to: [{domainNames: [a.example]}]}]",
            "domainNames can only be allowed, and in the tier Admin",
        ),
        (CLUSTER, "egress: [{action: Accept, to: [{domainNames: ['a*.example']}]}]", "is not a domain name"),
        (CLUSTER, "egress: [{action: Accept, to: [{domainNames: ['*']}]}]", "is not a domain name"),
        (CLUSTER, "egress: [{action: Accept, to: [{networks: [192.0.2.1]}]}]", "is not a prefix"),
        ((*CLUSTER[:3], "tier: admin\npriority: 1\n"), "", "unknown tier 'admin'; did you mean Admin?"),
        ((*CLUSTER[:3], "tier: Admin\npriority: 1001\n"), "", "priority must be from 0 to 1000, not 1001"),
        ((*CLUSTER[:3], "tier: Admin\n"), "", "spec needs the field priority"),
        ((*BASELINE[:2], "other", ""), "", "there is one BaselineAdminNetworkPolicy, and its name is default"),
        (BASELINE, "priority: 1", "unknown field priority"),
        (
            CLUSTER,
            "ingress: [" + ", ".join([f"{{action: Deny, {FROM}}}"] * 26) + "]",
            "26 rules; at most 25 are allowed",
        ),
        (CLUSTER, f"ingress: [{{action: Deny, {FROM}, name: {'x' * 101}}}]", "name is longer than 100 characters"),
    ],
)
def test_a_mistake_is_told(kind: Kind, spec: str, expected: str) -> None:
    assert expected in complaints(kind, spec)


def test_a_subject_is_exactly_one_thing() -> None:
    both = "subject: {namespaces: {}, pods: {namespaceSelector: {}, podSelector: {}}}\n"
    assert "subject needs exactly one of namespaces, pods" in complaints(ADMIN, "", both)


WORLD = frozenset({"reserved:world"})
POD = frozenset({"k8s:app=web", "k8s:io.kubernetes.pod.namespace=shop"})
NP = (
    "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: np, namespace: shop}\n"
    "spec: {ingress: [{from: [{podSelector: {}}]}]}"
)


@pytest.mark.parametrize(
    ("documents", "verdict"),
    [
        ([], PolicyVerdict.ALLOW),
        ([text(BASELINE, f"ingress: [{{action: Deny, {FROM}}}]")], PolicyVerdict.DENY),
        ([text(BASELINE, f"ingress: [{{action: Deny, {FROM}}}]"), NP], PolicyVerdict.ALLOW),
        ([text(ADMIN, f"ingress: [{{action: Deny, {FROM}}}]"), NP], PolicyVerdict.DENY),
        (
            [text(ADMIN, f"ingress: [{{action: Pass, {FROM}}}, {{action: Deny, {FROM}}}]"), NP],
            PolicyVerdict.ALLOW,
        ),
        (
            [
                text(ADMIN, f"ingress: [{{action: Pass, {FROM}}}, {{action: Deny, {FROM}}}]"),
                text(BASELINE, f"ingress: [{{action: Deny, {FROM}}}]"),
            ],
            PolicyVerdict.DENY,
        ),
    ],
)
def test_tiers_are_asked_in_turn_and_networkpolicy_is_the_one_between(
    documents: list[str], verdict: PolicyVerdict
) -> None:
    policies = load([Source(str(number), one) for number, one in enumerate(documents)])
    resolved = resolve.endpoint_policy(policies, POD)
    assert judge(resolved, Direction.INGRESS, POD, Protocol.TCP, 80).verdict == verdict
    isolated = NP in documents
    assert judge(resolved, Direction.INGRESS, WORLD, Protocol.TCP, 80).verdict == (
        PolicyVerdict.DENY if isolated else PolicyVerdict.ALLOW
    )


def test_the_reference_page_names_every_field() -> None:
    page = (Path(__file__).parents[3] / "docs/reference/policy.md").read_text("utf-8")
    tables = [value for value in vars(adminpolicy).values() if isinstance(value, Fields)]
    tables += [*adminpolicy._SPEC.values(), *adminpolicy._PEERS.values()]
    for field in frozenset().union(*(table.supported for table in tables)):
        assert f"`{field}`" in page, field
