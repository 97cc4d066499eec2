# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from textwrap import indent

import pytest

from l7policy import cilium, ciliumhttp, ciliumpeers, ciliumports
from l7policy.documents import Policy, Source, load
from l7policy.errors import PolicyErrors
from l7policy.model import EntityPeer, Operator, Peer, Port, Requirement, Rule
from l7policy.policydoc import SubjectKind
from l7policy.reader import Fields
from l7policy.verdict import Direction, Protocol

HEAD = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: web, namespace: shop}\n"
CLUSTERWIDE = "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: base}\n"
IN_SHOP = Requirement("k8s:io.kubernetes.pod.namespace", Operator.IN, ("shop",))


def policy(spec: str, head: str = HEAD) -> Policy:
    """A policy for every endpoint of the namespace; `spec` holds its other fields."""
    (found,) = load([Source("f", f"{head}spec:\n  endpointSelector: {{}}\n{indent(spec, '  ')}\n")])
    return found


def rule(spec: str, head: str = HEAD) -> Rule:
    (found,) = policy(spec, head).rules
    return found


def peers(spec: str, head: str = HEAD) -> tuple[Peer, ...] | None:
    return rule(spec, head).peers


def complaints(spec: str, head: str = HEAD) -> list[str]:
    """Lines and columns count within `spec`."""
    with pytest.raises(PolicyErrors) as caught:
        policy(spec, head)
    return [f"{e.line - 5}:{e.column - 2}: {e.message}{f' ({e.hint})' if e.hint else ''}" for e in caught.value.errors]


def is_in(key: str, *values: str) -> Requirement:
    return Requirement(key, Operator.IN, values)


# ---- whom it selects


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("{}", (IN_SHOP,)),
        ("{matchLabels: {app: web}}", (is_in("any:app", "web"), IN_SHOP)),
        ("{matchLabels: {'k8s:app': web}}", (is_in("k8s:app", "web"), IN_SHOP)),
        ("{matchLabels: {'k8s:io.kubernetes.pod.namespace': shop}}", (IN_SHOP,)),
        ("{matchExpressions: [{key: a, operator: Exists}]}", (Requirement("any:a", Operator.EXISTS), IN_SHOP)),
        (
            "{matchExpressions: [{key: a, operator: NotIn, values: [y, x, x]}], matchLabels: {b: ''}}",
            (Requirement("any:a", Operator.NOT_IN, ("x", "y")), is_in("any:b", ""), IN_SHOP),
        ),
    ],
)
def test_a_policy_selects_endpoints_of_its_namespace(selector: str, expected: tuple[Requirement, ...]) -> None:
    (found,) = load([Source("f", f"{HEAD}spec:\n  endpointSelector: {selector}\n  ingress: [{{}}]\n")])
    assert found.subject == expected


def test_a_clusterwide_policy_selects_endpoints_of_every_namespace() -> None:
    found = policy("ingress: [{}]", CLUSTERWIDE)
    assert (found.subject, found.namespace, found.name) == ((), "", "base")


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("{matchLabels: {'k8s:io.kubernetes.pod.namespace': other}}", "the policy is in namespace shop"),
        (
            "{matchExpressions: [{key: 'k8s:io.kubernetes.pod.namespace', operator: NotIn, values: [shop]}]}",
            "the policy is in namespace shop",
        ),
        ("{matchLabels: {'reserved:host': ''}}", "no workload has the label reserved:host"),
        ("{matchLabels: {app: 1}}", "label app must be text, not a number"),
        ("{matchLabels: {app: }}", "field app has no value"),
        ("{matchLabels: {'kas/': x}}", "matchLabels: 'kas/' is not a label key"),
        ("{matchLabels: [app]}", "matchLabels must be a mapping, not a list"),
        ("{matchlabels: {}}", "unknown field matchlabels"),
        (
            "{matchExpressions: [{key: a, operator: in, values: [x]}]}",
            "operator: unknown operator 'in'; did you mean In?",
        ),
        ("{matchExpressions: [{key: a, operator: In}]}", "operator In needs values"),
        ("{matchExpressions: [{key: a, operator: In, values: []}]}", "operator In needs values"),
        ("{matchExpressions: [{key: a, operator: Exists, values: [x]}]}", "operator Exists takes no values"),
        ("{matchExpressions: [{operator: Exists}]}", "an element of matchExpressions needs the field key"),
        ("{matchExpressions: {key: a}}", "matchExpressions must be a list, not a mapping"),
        ("[]", "endpointSelector must be a mapping, not a list"),
    ],
)
def test_a_selector_that_cannot_mean_what_it_says_is_refused(selector: str, expected: str) -> None:
    with pytest.raises(PolicyErrors) as caught:
        load([Source("f", f"{HEAD}spec:\n  endpointSelector: {selector}\n  ingress: [{{}}]\n")])
    (error,) = caught.value.errors
    assert error.message.startswith(expected)
    assert error.line == 5


# ---- default deny


@pytest.mark.parametrize(
    ("spec", "egress", "ingress"),
    [
        ("ingress: [{}]", False, True),
        ("egress: [{}]", True, False),
        ("ingressDeny: [{fromEntities: [world]}]", False, True),
        ("egressDeny: [{toEntities: [world]}]\ningress: []", True, False),
        ("egress: [{}]\nenableDefaultDeny: {egress: false}", False, False),
        ("egress: [{}]\nenableDefaultDeny: {ingress: true}", True, True),
        ("egress: [{}]\ningress: [{}]\nenableDefaultDeny: {}", True, True),
    ],
)
def test_a_section_that_is_not_empty_makes_its_direction_default_deny(spec: str, egress: bool, ingress: bool) -> None:
    found = policy(spec)
    assert (found.default_deny_egress, found.default_deny_ingress) == (egress, ingress)
    assert found.default_deny(Direction.EGRESS) is egress


@pytest.mark.parametrize("spec", ["", "ingress: []", "ingress: []\negress: []", "enableDefaultDeny: {egress: true}"])
def test_a_spec_without_any_section_is_refused(spec: str) -> None:
    (found,) = complaints(spec)
    assert "spec needs at least one of ingress, ingressDeny, egress and egressDeny, and not empty" in found


def test_an_empty_element_allows_nothing() -> None:
    assert policy("ingress: [{}]\negress: [{}, {}]").rules == ()


# ---- peers


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            "egress:\n- toEndpoints: [{}]\n  toFQDNs: [{matchName: a}]",
            "3:3: combining toEndpoints and toFQDNs is not supported (write two elements; either may allow)",
        ),
        (
            "egress:\n- toCIDR: []\n  toEntities: []",
            "3:3: combining toCIDR and toEntities is not supported (write two elements; either may allow)",
        ),
        (
            "ingress:\n- fromCIDR: [192.0.2.0/24]\n  fromCIDRSet: [{cidr: 192.0.2.0/24}]",
            "3:3: combining fromCIDR and fromCIDRSet is not supported (write two elements; either may allow)",
        ),
        (
            "egress:\n- toEndpoints:",
            "2:3: field toEndpoints has no value (leave it out, or write [] or {} if you mean empty)",
        ),
        ("egress:\n- toEndpoints: {}", "2:16: toEndpoints must be a list, not a mapping"),
        (
            "egress:\n- toCIDR: [192.0.2.1]",
            "2:12: prefix: '192.0.2.1' is not a prefix like 192.0.2.0/24 (an address alone needs /32 or /128)",
        ),
        ("egress:\n- toCIDR: [1]", '2:12: prefix must be text, not a number (quote it: "1")'),
        (
            "egress:\n- toCIDRSet: [{cidr: 192.0.2.0/24, except: [192.0.3.0/25]}]",
            "2:45: except: 192.0.3.0/25 is not inside of 192.0.2.0/24",
        ),
        (
            "egress:\n- toCIDRSet: [{cidr: 192.0.2.0/24, except: ['2001:db8::/64']}]",
            "2:45: except: 2001:db8::/64 and 192.0.2.0/24 are of different IP versions",
        ),
        (
            "egress:\n- toCIDRSet: [{cidr: 192.0.2.0/24, except: [192.0.0.0/16]}]",
            "2:45: except: 192.0.0.0/16 is not inside of 192.0.2.0/24",
        ),
        (
            "egress:\n- toCIDRSet: [{except: []}]",
            "2:15: an element of a CIDR set needs the field cidr, cidrGroupRef or cidrGroupSelector",
        ),
        ("egress:\n- toCIDRSet: [{cidrGroupRef: a}]", "2:30: cidrGroupRef: no CiliumCIDRGroup 'a' among the files"),
        ("egress:\n- toEntities: [wold]", "2:16: entity: unknown entity 'wold'; did you mean world?"),
        (
            "egress:\n- toEntities: [cluster-mesh]",
            (
                "2:16: entity: cluster-mesh is not supported:"
                " l7gate knows the cluster it runs in and no other; cluster is that one"
            ),
        ),
        ("egress:\n- toFQDNs: [{}]", "2:13: an element of toFQDNs needs matchName or matchPattern"),
        (
            "egress:\n- toFQDNs: [{matchName: a, matchPattern: b}]",
            "2:13: an element of toFQDNs takes one of matchName and matchPattern, not both (write two elements)",
        ),
        ("egress:\n- toFQDNs: [a.example]", "2:13: an element of toFQDNs must be a mapping, not text"),
        (
            f"egress:\n- toFQDNs: [{{matchPattern: '{'*' * 256}'}}]",
            "2:28: matchPattern: 256 characters are more than the 255 a DNS name can have",
        ),
        (
            "egress:\n- toFQDNs: [{matchName: '*.example'}]",
            "2:25: matchName: '*.example' is not a DNS name: a name with * is a matchPattern",
        ),
        ("egress:\n- toFqdns: []", "2:3: unknown field toFqdns (did you mean toFQDNs?)"),
        ("egress:\n- {}\n-", "3:2: an element of egress must be a mapping, not nothing"),
        ("egress:\n- toPorts: []", "2:3: toPorts is empty (leave it out for every port)"),
        ("egres: []\negress: [{}]", "1:1: unknown field egres (did you mean egress?)"),
        ("egress: {}", "1:9: egress must be a list, not a mapping"),
        (
            "egress: [{}]\nenableDefaultDeny: {egress: 'no'}",
            "2:29: enableDefaultDeny.egress must be true or false, not text",
        ),
        ("egress: [{}]\nendpointselector: {}", "2:1: unknown field endpointselector (did you mean endpointSelector?)"),
    ],
)
def test_a_mistake_is_told_with_its_place(spec: str, expected: str) -> None:
    assert expected in complaints(spec)


SECTIONS = {"ingress": "_INGRESS", "egress": "_EGRESS", "ingressDeny": "_INGRESS_DENY", "egressDeny": "_EGRESS_DENY"}


@pytest.mark.parametrize(
    ("spec", "field", "reason"),
    [
        *(
            (f"{section}: [{{{field}: []}}]", field, reason)
            for section, table in SECTIONS.items()
            for field, reason in vars(cilium)[table].refused.items()
        ),
        *(
            (f"egress: [{{toPorts: [{{ports: [{{port: '1'}}], {field}: {{}}}}]}}]", field, reason)
            for field, reason in ciliumports._PORTS.refused.items()
        ),
        *(
            (f"egressDeny: [{{toPorts: [{{ports: [{{port: '1'}}], {field}: {{}}}}]}}]", field, reason)
            for field, reason in ciliumports._DENY_PORTS.refused.items()
        ),
        *(
            (f"egress: [{{toPorts: [{{ports: [{{port: '1'}}], rules: {{{field}: []}}}}]}}]", field, reason)
            for field, reason in ciliumports._RULES.refused.items()
        ),
    ],
)
def test_what_cilium_knows_and_l7gate_refuses_is_told_by_name_and_reason(spec: str, field: str, reason: str) -> None:
    assert any(f"field {field} is not allowed here: {reason}" in complaint for complaint in complaints(spec))


def test_what_cilium_removed_is_refused() -> None:
    assert complaints("ingress: [{fromRequires: []}]") == [
        "1:12: field fromRequires is not allowed here: Cilium removed it in 1.19"
    ]
    assert complaints("egressDeny: [{toRequires: []}]") == [
        "1:15: field toRequires is not allowed here: Cilium removed it in 1.19"
    ]


# ---- the rest of the vocabulary


def test_each_element_of_icmps_is_a_rule_of_types() -> None:
    found = policy(
        "egress: [{toEntities: [world], icmps: [{fields: [{type: 8}, {family: IPv6, type: EchoRequest}]}]}]\n"
        "ingressDeny: [{icmps: [{fields: [{type: '13'}]}]}]"
    )
    assert {(str(r.origin), r.ports, r.peers) for r in found.rules} == {
        ("shop/web ingressDeny[0].icmps[0]", (Port(Protocol.ICMP, 13, 13),), None),
        (
            "shop/web egress[0].icmps[0]",
            (Port(Protocol.ICMP, 8, 8), Port(Protocol.ICMPV6, 128, 128)),
            (EntityPeer("world"),),
        ),
    }


def test_the_text_for_the_log_goes_into_every_rule() -> None:
    assert rule("log: {value: 'ticket 7: caf\u00e9'}\negress: [{toEntities: [world]}]").log == "ticket 7: caf\u00e9"
    assert rule("log: {}\negress: [{toEntities: [world]}]").log == ""


def test_a_policy_for_nodes_selects_by_their_labels() -> None:
    (found,) = load([Source("f", CLUSTERWIDE + "spec: {nodeSelector: {matchLabels: {role: db}}, ingress: [{}]}\n")])
    assert found.subject_kind == SubjectKind.NODE
    assert found.subject == (is_in("any:role", "db"),)
    assert policy("ingress: [{}]").subject_kind == SubjectKind.ENDPOINT


DNS_PORT = "ports: [{port: '53', protocol: UDP}]"
WEB_PORT = "ports: [{port: '80', protocol: TCP}]"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("endpointSelector: {}\ningress: [{}]", "combining endpointSelector and nodeSelector is not supported"),
        (
            f"ingress: [{{toPorts: [{{{WEB_PORT}, rules: {{http: [{{}}]}}}}]}}]",
            "the only L7 rules of a policy for nodes are dns, on egress; not on ingress",
        ),
        (
            f"egress: [{{toPorts: [{{{WEB_PORT}, rules: {{http: [{{}}]}}}}]}}]",
            "the only L7 rules of a policy for nodes are dns, on egress; not on egress",
        ),
        (
            f"egress: [{{toPorts: [{{{WEB_PORT}, serverNames: [a]}}]}}]",
            "the only L7 rules of a policy for nodes are dns",
        ),
        (f"egress: [{{toPorts: [{{{DNS_PORT}, rules: {{dns: [{{matchName: a}}]}}}}]}}]", ""),
    ],
)
def test_a_policy_for_nodes_is_clusterwide_and_has_no_l7_rules_but_dns(spec: str, expected: str) -> None:
    text = f"spec:\n  nodeSelector: {{}}\n{indent(spec, '  ')}\n"
    if not expected:
        assert load([Source("f", CLUSTERWIDE + text)])
        return
    with pytest.raises(PolicyErrors) as caught:
        load([Source("f", CLUSTERWIDE + text)])
    assert expected in str(caught.value)


def test_nodes_are_in_no_namespace() -> None:
    with pytest.raises(PolicyErrors, match="nodes are in no namespace"):
        load([Source("f", HEAD + "spec: {nodeSelector: {}, ingress: [{}]}\n")])


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("log: {value: 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'}\negress: [{}]", "33 characters are more than the 32"),
        ('log: {value: "a\\tb"}\negress: [{}]', "characters that cannot be printed"),
        ("log: {valu: a}\negress: [{}]", "unknown field valu"),
        ("egress: [{icmps: [], toPorts: [{ports: [{port: '1'}]}]}]", "combining icmps and toPorts is not supported"),
        ("egress: [{icmps: []}]", "icmps is empty"),
        ("egress: [{icmps: [{fields: []}]}]", "fields is empty"),
        ("egress: [{icmps: [{}]}]", "an element of icmps needs the field fields"),
        ("egress: [{icmps: [{fields: [{}]}]}]", "an element of fields needs the field type"),
        ("egress: [{icmps: [{fields: [{type: [8]}]}]}]", "type must be a number or a name, not a list"),
        ("egress: [{icmps: [{fields: [{type: 8, family: ipv4}]}]}]", "unknown family 'ipv4'; did you mean IPv4?"),
        ("egress: [{toServices: [{}]}]", "needs one of k8sService and k8sServiceSelector"),
        (
            "egress: [{toServices: [{k8sService: {serviceName: db}}]}]",
            "k8sService needs the field namespace",
        ),
        (
            "egress: [{toServices: [{k8sService: {serviceName: db, namespace: data}}]}]",
            "no Service data/db among the files: give its YAML",
        ),
        (
            "egress: [{toServices: [{k8sServiceSelector: {selector: {matchLabels: {a: b}}}}]}]",
            "no Service among the files has such labels",
        ),
        ("egress: [{toCIDRSet: [{cidr: 192.0.2.0/24, cidrGroupRef: a}]}]", "combining cidr and cidrGroupRef is not"),
        (
            "egress: [{toCIDRSet: [{cidrGroupSelector: {matchLabels: {a: b}}}]}]",
            "no CiliumCIDRGroup among the files has",
        ),
        ("egress: [{toNodes: [{matchLabels: {'container:a': b}}]}]", "unknown label source 'container'"),
    ],
)
def test_the_rest_of_the_vocabulary_is_read_as_strictly(spec: str, expected: str) -> None:
    assert any(expected in complaint for complaint in complaints(spec))


# ---- deny


def test_a_deny_rule_names_peers_or_ports() -> None:
    found = rule("egressDeny: [{toCIDR: [192.0.2.0/24], toPorts: [{ports: [{port: '22', protocol: TCP}]}]}]")
    assert found.deny
    assert found.ports == (Port(Protocol.TCP, 22, 22),)
    assert rule("ingressDeny: [{fromEntities: [world]}]").deny
    assert rule("ingressDeny: [{toPorts: [{ports: [{port: '22'}]}]}]").peers is None


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            "egressDeny: [{toFQDNs: [{matchName: a}]}]",
            (
                "1:15: field toFQDNs is not allowed here: "
                "a deny rule cannot go by name, since an address may belong to many names"
            ),
        ),
        (
            "egressDeny: [{toPorts: [{ports: [{port: '1', protocol: TCP}], rules: {http: [{}]}}]}]",
            "1:63: field rules is not allowed here: a deny rule drops packets and sees no requests",
        ),
        ("ingressDeny: [{}]", "1:15: an empty element of ingressDeny denies nothing (name peers or ports)"),
    ],
)
def test_a_deny_rule_has_no_names_no_requests_and_is_not_empty(spec: str, expected: str) -> None:
    assert complaints(spec) == [expected]


# ---- documents and origins


def test_each_element_of_to_ports_is_a_rule_with_its_origin() -> None:
    found = policy(
        "egress:\n- {}\n- toPorts:\n  - ports: [{port: '1'}]\n"
        "  - ports: [{port: '2'}, {port: '3'}]\n- toEntities: [world]"
    )
    assert [(str(r.origin), r.origin.file, r.origin.line) for r in found.rules] == [
        ("shop/web egress[1].toPorts[0]", "f", 9),
        ("shop/web egress[1].toPorts[1]", "f", 10),
        ("shop/web egress[2]", "f", 11),
    ]
    assert (found.file, found.line) == ("f", 1)


def test_specs_are_policies_of_one_name_with_rules_told_apart() -> None:
    one = "endpointSelector: {matchLabels: {app: a}}, egress: [{toEntities: [world]}]"
    text = f"{HEAD}spec: {{{one}}}\nspecs:\n- {{{one}}}\n- {{{one}}}\n"
    found = load([Source("f", text)])
    assert [(p.name, p.part, p.line, str(p.rules[0].origin)) for p in found] == [
        ("shop/web", "", 1, "shop/web egress[0]"),
        ("shop/web", "specs[0]", 6, "shop/web specs[0].egress[0]"),
        ("shop/web", "specs[1]", 7, "shop/web specs[1].egress[0]"),
    ]
    assert len({p.rules[0].origin.cookie for p in found}) == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEAD, "f:1:1: a CiliumNetworkPolicy needs the field spec or specs"),
        (HEAD + "specs: []", "f:4:8: specs is empty"),
        (HEAD + "spec:", "f:4:1: field spec has no value (hint: leave it out, or write [] or {} if you mean empty)"),
        (
            HEAD + "spec: {ingress: [{}]}",
            "f:4:7: spec needs the field endpointSelector (hint: {} selects every endpoint of the namespace)",
        ),
        (
            HEAD + "specs: [{ingress: [{}]}]",
            "f:4:9: spec needs the field endpointSelector (hint: {} selects every endpoint of the namespace)",
        ),
    ],
)
def test_a_document_needs_a_spec(text: str, expected: str) -> None:
    with pytest.raises(PolicyErrors) as caught:
        load([Source("f", text)])
    assert str(caught.value) == expected


def test_description_and_labels_are_accepted_in_their_shape() -> None:
    found = policy("description: why\nlabels: [{key: a, value: b, source: k8s}]\ningress: [{}]")
    assert found.description == "why"
    assert complaints("description: 1\nlabels: [{value: b}]\ningress: [{}]") == [
        '1:14: description must be text, not a number (quote it: "1")',
        "2:10: an element of labels needs the field key",
    ]


def test_the_reference_page_names_every_field_and_entity() -> None:
    page = (Path(__file__).parents[3] / "docs/reference/policy.md").read_text("utf-8")
    tables = [
        value
        for module in (cilium, ciliumpeers, ciliumports, ciliumhttp)
        for value in vars(module).values()
        if isinstance(value, Fields)
    ]
    for table in tables:
        for field in table.supported | table.refused.keys():
            assert f"`{field}`" in page, field
    for entity in ciliumpeers.ENTITIES | ciliumpeers.REFUSED_ENTITIES.keys():
        assert f"`{entity}`" in page, entity
