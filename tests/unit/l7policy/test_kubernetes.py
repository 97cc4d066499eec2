# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from textwrap import indent

import pytest

from l7policy import kubernetes
from l7policy.documents import Policy, Source, load
from l7policy.errors import PolicyErrors
from l7policy.model import CidrPeer, LabelPeer, Operator, Peer, Port, Requirement
from l7policy.verdict import Direction, Protocol

HEAD = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web, namespace: shop}\n"
IN_SHOP = Requirement("k8s:io.kubernetes.pod.namespace", Operator.IN, ("shop",))
IN_SOME = Requirement("k8s:io.kubernetes.pod.namespace", Operator.EXISTS)


def policy(spec: str) -> Policy:
    (found,) = load([Source("f", f"{HEAD}spec:\n{indent(spec, '  ')}\n")])
    return found


def complaints(spec: str) -> list[str]:
    """Lines and columns count within `spec`."""
    with pytest.raises(PolicyErrors) as caught:
        policy(spec)
    return [f"{e.line - 4}:{e.column - 2}: {e.message}{f' ({e.hint})' if e.hint else ''}" for e in caught.value.errors]


def is_in(key: str, *values: str) -> Requirement:
    return Requirement(key, Operator.IN, values)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("podSelector: {}", (IN_SHOP,)),
        ("policyTypes: [Ingress]", (IN_SHOP,)),
        ("podSelector: {matchLabels: {app: web}}", (is_in("k8s:app", "web"), IN_SHOP)),
        (
            "podSelector: {matchExpressions: [{key: a, operator: DoesNotExist}]}",
            (Requirement("k8s:a", Operator.DOES_NOT_EXIST), IN_SHOP),
        ),
    ],
)
def test_a_policy_selects_pods_of_its_namespace(spec: str, expected: tuple[Requirement, ...]) -> None:
    found = policy(spec)
    assert found.subject == expected
    assert (found.name, found.namespace, found.kind) == ("networkpolicy:shop/web", "shop", "NetworkPolicy")


@pytest.mark.parametrize(
    ("spec", "egress", "ingress"),
    [
        ("podSelector: {}", False, True),
        ("podSelector: {}\npolicyTypes: []", False, True),
        ("podSelector: {}\negress: []", False, True),
        ("podSelector: {}\negress: [{}]", True, True),
        ("podSelector: {}\ningress: [{}]", False, True),
        ("podSelector: {}\npolicyTypes: [Egress]", True, False),
        ("podSelector: {}\npolicyTypes: [Egress, Ingress]", True, True),
        ("podSelector: {}\npolicyTypes: [Ingress]\negress: [{}]", False, True),
    ],
)
def test_policy_types_not_given_are_ingress_and_egress_only_if_it_has_rules(
    spec: str, egress: bool, ingress: bool
) -> None:
    found = policy(spec)
    assert (found.default_deny_egress, found.default_deny_ingress) == (egress, ingress)


def test_rules_of_a_direction_that_policy_types_leaves_out_do_not_even_allow() -> None:
    found = policy("policyTypes: [Ingress]\ningress: [{}]\negress: [{}]")
    assert [rule.direction for rule in found.rules] == [Direction.INGRESS]


def test_an_empty_element_allows_everything() -> None:
    (rule,) = policy("ingress: [{}]").rules
    assert (rule.peers, rule.ports) == (None, ())
    assert str(rule.origin) == "networkpolicy:shop/web ingress[0]"
    assert policy("ingress: []").rules == ()


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("ingress: [{from: []}]", None),
        ("ingress: [{ports: [{port: 80}]}]", None),
        ("ingress: [{from: [{podSelector: {}}]}]", (LabelPeer((IN_SHOP,)),)),
        ("ingress: [{from: [{podSelector: {matchLabels: {app: a}}}]}]", (LabelPeer((is_in("k8s:app", "a"), IN_SHOP)),)),
        ("ingress: [{from: [{namespaceSelector: {}}]}]", (LabelPeer((IN_SOME,)),)),
        (
            "ingress: [{from: [{namespaceSelector: {matchLabels: {team: a}}}]}]",
            (LabelPeer((is_in("k8s:io.cilium.k8s.namespace.labels.team", "a"), IN_SOME)),),
        ),
        (
            (
                "ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: b}},"
                " podSelector: {matchLabels: {app: a}}}]}]"
            ),
            (LabelPeer((is_in("k8s:io.kubernetes.pod.namespace", "b"), is_in("k8s:app", "a"), IN_SOME)),),
        ),
        (
            "egress: [{to: [{podSelector: {}}, {ipBlock: {cidr: 192.0.2.0/24}}]}]",
            (LabelPeer((IN_SHOP,)), CidrPeer("192.0.2.0/24")),
        ),
        (
            "egress: [{to: [{ipBlock: {cidr: '2001:db8::/32', except: ['2001:db8:1::/48']}}]}]",
            (CidrPeer("2001:db8::/32", ("2001:db8:1::/48",)),),
        ),
    ],
)
def test_absent_and_empty_peers_are_everybody(spec: str, expected: tuple[Peer, ...] | None) -> None:
    (rule,) = policy(spec).rules
    assert rule.peers == expected


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        ("[]", ()),
        ("[{}]", (Port(Protocol.TCP),)),
        ("[{protocol: UDP}]", (Port(Protocol.UDP),)),
        ("[{port: 80}]", (Port(Protocol.TCP, 80, 80),)),
        (
            "[{port: 80, endPort: 90}, {port: 53, protocol: UDP}]",
            (Port(Protocol.TCP, 80, 90), Port(Protocol.UDP, 53, 53)),
        ),
        ("[{port: 9, protocol: SCTP}]", (Port(Protocol.SCTP, 9, 9),)),
        ("[{port: http}]", (Port(Protocol.TCP, name="http"),)),
        ("[{port: dns, protocol: UDP}]", (Port(Protocol.UDP, name="dns"),)),
    ],
)
def test_a_protocol_not_given_is_tcp_and_a_port_not_given_is_every_port(ports: str, expected: tuple[Port, ...]) -> None:
    (rule,) = policy(f"ingress: [{{ports: {ports}}}]").rules
    assert rule.ports == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("podselector: {}", "1:1: unknown field podselector (did you mean podSelector?)"),
        ("podSelector:", "1:1: field podSelector has no value (leave it out, or write [] or {} if you mean empty)"),
        (
            "podSelector: {matchLabels: {'k8s:app': web}}",
            (
                "1:29: matchLabels: 'k8s:app' is not a label key: "
                "1 to 63 letters, digits, '-', '_' or '.', a letter or digit at both ends"
            ),
        ),
        ("policyTypes: [ingress]", "1:15: policyTypes: unknown type 'ingress'; did you mean Ingress?"),
        ("policyTypes: Ingress", "1:14: policyTypes must be a list, not text"),
        ("ingress: [{to: []}]", "1:12: unknown field to (known here: from, ports)"),
        ("ingress: [{from: [{}]}]", "1:19: an empty element of from selects nobody (leave from out to mean everybody)"),
        ("ingress: [{from: [a]}]", "1:19: an element of from must be a mapping, not text"),
        (
            "ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24}, podSelector: {}}]}]",
            "1:51: combining ipBlock and podSelector is not supported (write two elements)",
        ),
        ("ingress: [{from: [{ipBlock: {}}]}]", "1:29: ipBlock needs the field cidr"),
        (
            "ingress: [{from: [{ipBlock: {cidr: 192.0.2.1}}]}]",
            "1:36: cidr: '192.0.2.1' is not a prefix like 192.0.2.0/24 (an address alone needs /32 or /128)",
        ),
        (
            "ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.0/23]}}]}]",
            "1:59: except: 192.0.2.0/23 is not inside of 192.0.2.0/24",
        ),
        (
            "ingress: [{ports: [{port: http, endPort: 90}]}]",
            "1:33: a port with a name takes no endPort (write the numbers of the range)",
        ),
        ("ingress: [{ports: [{port: no_name}]}]", "1:27: port must be a number, not text"),
        ("ingress: [{ports: [{port: '80'}]}]", "1:27: port must be a number, not text (write it without quotes)"),
        ("ingress: [{ports: [{port: 0}]}]", "1:27: port: '0' is not a port: a number from 1 to 65535"),
        ("ingress: [{ports: [{port: 65536}]}]", "1:27: port: '65536' is not a port: a number from 1 to 65535"),
        ("ingress: [{ports: [{port: 9, endPort: 8}]}]", "1:39: endPort 8 is lower than port 9"),
        ("ingress: [{ports: [{endPort: 8}]}]", "1:21: endPort needs a port"),
        (
            "ingress: [{ports: [{port: 9, endPort: '10'}]}]",
            "1:39: endPort must be a number, not text (write it without quotes)",
        ),
        ("ingress: [{ports: [{protocol: ANY}]}]", "1:31: protocol: unknown protocol 'ANY'; known here: SCTP, TCP, UDP"),
        ("ingress: [{ports: [{protocol: tcp}]}]", "1:31: protocol: unknown protocol 'tcp'; did you mean TCP?"),
        ("policyTypes: [Egress]\ningress: [{froms: []}]", "2:12: unknown field froms (did you mean from?)"),
    ],
)
def test_a_mistake_is_told_with_its_place(spec: str, expected: str) -> None:
    assert expected in complaints(spec)


def test_the_reference_page_names_every_field() -> None:
    page = (Path(__file__).parents[3] / "docs/reference/policy.md").read_text("utf-8")
    tables = [kubernetes._SPEC, *kubernetes._RULE.values(), kubernetes._PEER, kubernetes._IP_BLOCK, kubernetes._PORT]
    for field in frozenset().union(*(table.supported for table in tables)):
        assert f"`{field}`" in page, field
