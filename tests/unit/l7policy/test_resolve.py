# SPDX-License-Identifier: Apache-2.0
import itertools

import msgspec
import pytest

from l7policy import resolve
from l7policy.documents import Source, load
from l7policy.entries import entries
from l7policy.ids import ANY_IDENTITY
from l7policy.judgement import Judgement, PolicyVerdict, judge
from l7policy.model import (
    Action,
    CidrPeer,
    EntityPeer,
    FqdnPeer,
    HttpRule,
    Labels,
    Operator,
    Origin,
    Peer,
    Port,
    Requirement,
    Rule,
    Tier,
)
from l7policy.policydoc import Policy, SubjectKind
from l7policy.resolve import Mode
from l7policy.verdict import Direction, Protocol, Reason

WEB = frozenset({"k8s:app=web"})
IS_WEB = (Requirement("k8s:app", Operator.IN, ("web",)),)
IS_DB = (Requirement("k8s:app", Operator.IN, ("db",)),)
TCP_80 = (Port(Protocol.TCP, 80, 80),)


ALLOW_ALL = Rule(Direction.EGRESS, Origin("reserved/allow-all", "egress"), tier=Tier.REST)


def policy(
    name: str,
    *rules: Rule,
    subject: tuple[Requirement, ...] = IS_WEB,
    egress: bool = False,
    ingress: bool = False,
) -> Policy:
    return Policy(
        name=name,
        namespace="shop",
        kind="CiliumNetworkPolicy",
        subject=subject,
        rules=rules,
        default_deny_egress=egress,
        default_deny_ingress=ingress,
    )


def rule(name: str, direction: Direction = Direction.EGRESS, *peers: Peer, deny: bool = False) -> Rule:
    return Rule(
        direction, Origin(name, "rule"), peers=peers or None, ports=TCP_80, action=Action.DENY if deny else Action.ALLOW
    )


def test_an_endpoint_that_no_policy_selects_is_not_enforced() -> None:
    resolved = resolve.endpoint_policy([policy("a", rule("a"), subject=IS_DB, egress=True)], WEB)
    assert resolved == resolve.EndpointPolicy()


def test_default_deny_of_any_selecting_policy_counts() -> None:
    resolved = resolve.endpoint_policy([policy("a", rule("a")), policy("b", egress=True)], WEB)
    assert resolved.enforce_egress
    assert not resolved.enforce_ingress
    assert resolved.selected_by == ("a", "b")
    assert resolved.rules == (rule("a"),)


def test_policies_that_do_not_deny_by_default_still_act_and_the_rest_is_allowed() -> None:
    resolved = resolve.endpoint_policy([policy("a", rule("a", deny=True))], WEB)
    assert resolved.enforce_egress
    assert not resolved.enforce_ingress
    assert resolved.rules == (rule("a", deny=True), ALLOW_ALL)


def test_the_baseline_has_its_say_only_where_nothing_denies_by_default() -> None:
    baseline = msgspec.structs.replace(rule("base", deny=True), tier=Tier.BASELINE)
    admin = msgspec.structs.replace(rule("admin"), tier=Tier.ADMIN)
    policies = [policy("base", baseline), policy("admin", admin)]
    assert resolve.endpoint_policy(policies, WEB).rules == (admin, baseline, ALLOW_ALL)
    assert resolve.endpoint_policy([*policies, policy("np", egress=True)], WEB).rules == (admin,)
    # In the other direction only: that is no reason to skip it here.
    assert baseline in resolve.endpoint_policy([*policies, policy("np", ingress=True)], WEB).rules


def test_what_the_baseline_passes_is_allowed_where_nothing_denies_by_default() -> None:
    passing = msgspec.structs.replace(rule("base"), tier=Tier.BASELINE, action=Action.PASS)
    resolved = resolve.endpoint_policy([policy("base", passing)], WEB)
    judged = judge(resolved, Direction.EGRESS, frozenset({"reserved:world"}), Protocol.TCP, 80)
    assert (judged.verdict, judged.origins) == (PolicyVerdict.ALLOW, (ALLOW_ALL.origin,))
    row = max(entries(resolved, ANY_IDENTITY, None), key=lambda entry: entry.prefix_bits)
    assert row.verdict == PolicyVerdict.ALLOW


@pytest.mark.parametrize(
    ("mode", "policies", "egress", "ingress"),
    [
        (Mode.DEFAULT, [], False, False),
        (Mode.ALWAYS, [], True, True),
        (Mode.NEVER, [policy("a", rule("a"), egress=True)], False, False),
        (Mode.ALWAYS, [policy("a", rule("a"))], True, True),
    ],
)
def test_modes_say_whom_policy_is_enforced_for(mode: Mode, policies: list[Policy], egress: bool, ingress: bool) -> None:
    resolved = resolve.endpoint_policy(policies, WEB, mode=mode)
    assert (resolved.enforce_egress, resolved.enforce_ingress) == (egress, ingress)
    assert ALLOW_ALL not in resolved.rules
    assert resolved.rules or mode != Mode.ALWAYS


def test_a_policy_for_nodes_selects_the_node_and_no_workload() -> None:
    node = frozenset({"reserved:host", "k8s:app=web"})
    host_policy = msgspec.structs.replace(policy("n", rule("n"), ingress=True), subject_kind=SubjectKind.NODE)
    other = policy("e", rule("e"), egress=True)
    assert resolve.endpoint_policy([host_policy, other], node).selected_by == ("n",)
    assert resolve.endpoint_policy([host_policy, other], WEB).selected_by == ("e",)
    assert resolve.endpoint_policy([host_policy], node).rules == (rule("n"), ALLOW_ALL)
    assert not resolve.endpoint_policy([], node, mode=Mode.ALWAYS).enforce_egress


def test_an_endpoint_that_is_not_enforced_is_not_audited_either() -> None:
    assert not resolve.endpoint_policy([], WEB, audit=True).audit
    assert resolve.endpoint_policy([policy("a", egress=True)], WEB, audit=True).audit


def test_the_node_may_reach_its_workloads_where_ingress_is_enforced() -> None:
    resolved = resolve.endpoint_policy([policy("a", ingress=True)], WEB)
    localhost = Rule(Direction.INGRESS, Origin("reserved/allow-localhost", "ingress"), peers=(EntityPeer("host"),))
    assert resolved.rules == (localhost,)


def test_a_policy_without_rules_that_denies_nothing_enforces_nothing() -> None:
    resolved = resolve.endpoint_policy([policy("a")], WEB)
    assert not resolved.enforce_egress
    assert not resolved.enforce_ingress
    assert resolved.rules == ()
    assert resolved.selected_by == ("a",)


def test_the_order_of_policies_does_not_matter() -> None:
    policies = [
        policy("b", rule("b"), egress=True),
        policy("a", rule("a", Direction.INGRESS)),
        policy("c", rule("c", deny=True)),
    ]
    resolved = {resolve.endpoint_policy(order, WEB).digest for order in itertools.permutations(policies)}
    assert len(resolved) == 1


def test_every_prefix_that_a_rule_tells_apart_needs_an_identity() -> None:
    policies = [
        policy("a", rule("a", Direction.EGRESS, CidrPeer("198.51.100.0/24", ("198.51.100.7/32",)))),
        policy("b", rule("b", Direction.INGRESS, EntityPeer("world-ipv6"), EntityPeer("world"))),
        policy("c", rule("c")),
    ]
    assert resolve.cidrs(policies) == {"198.51.100.0/24", "198.51.100.7/32", "::/0"}


def test_selectors_are_those_that_allow_addresses_each_once_and_sorted() -> None:
    star, www = FqdnPeer(match_pattern="*.example.com."), FqdnPeer(match_name="www.example.com.")
    question = Rule(Direction.EGRESS, Origin("c", "rule"), ports=TCP_80, dns=(FqdnPeer(match_pattern="*"),))
    policies = [
        policy("a", rule("a", Direction.EGRESS, www, star)),
        policy("b", rule("b", Direction.EGRESS, www)),
        policy("c", question),
    ]
    assert resolve.selectors(policies) == (star, www)


CIDRS = {"0.0.0.0/0", "198.51.100.0/24", "198.51.100.0/25", "198.51.0.0/16", "2001:db8::/32", "::/0"}


@pytest.mark.parametrize(
    ("prefix", "around"),
    [
        ("0.0.0.0/0", {"0.0.0.0/0"}),
        ("198.51.100.0/25", {"198.51.100.0/25", "198.51.100.0/24", "198.51.0.0/16", "0.0.0.0/0"}),
        ("198.51.100.7/32", {"198.51.100.7/32", "198.51.100.0/25", "198.51.100.0/24", "198.51.0.0/16", "0.0.0.0/0"}),
        ("203.0.113.0/24", {"203.0.113.0/24", "0.0.0.0/0"}),
        ("2001:db8::1/128", {"2001:db8::1/128", "2001:db8::/32", "::/0"}),
    ],
)
def test_a_prefix_carries_its_own_label_those_around_it_and_the_world(prefix: str, around: set[str]) -> None:
    assert resolve.cidr_labels(prefix, CIDRS) == {"reserved:world"} | {f"cidr:{text}" for text in around}


def test_labels_of_all_prefixes_are_those_of_each() -> None:
    labels = resolve.prefix_identity_labels(CIDRS)
    assert labels == {prefix: resolve.cidr_labels(prefix, CIDRS) for prefix in CIDRS}
    assert list(labels)[:2] == ["0.0.0.0/0", "198.51.0.0/16"]


# ---- from documents to verdicts: the advisories and traps by name

SHOP = "k8s:io.kubernetes.pod.namespace=shop"
CLIENT, SERVER = frozenset({"k8s:app=web", SHOP}), frozenset({"k8s:app=db", SHOP})
HOST, WORLD_IDENTITY = frozenset({"reserved:host"}), frozenset({"reserved:world"})
NARROW = frozenset({"reserved:world", "cidr:198.51.100.0/24", "cidr:198.51.100.7/32"})
NAMED = frozenset({"reserved:world", "cidr:198.51.100.0/24", "fqdn:www.example.com"})
ALLOW, DENY, REDIRECT = PolicyVerdict.ALLOW, PolicyVerdict.DENY, PolicyVerdict.REDIRECT
EGRESS, INGRESS = Direction.EGRESS, Direction.INGRESS


def cnp(*specs: str) -> str:
    head = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a, namespace: shop}\nspecs:\n"
    return head + "".join(f"- {{endpointSelector: {{}}, {spec}}}\n" for spec in specs)


def np(spec: str) -> str:
    head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a, namespace: shop}\n"
    return f"{head}spec: {{{spec}}}\n"


def ask(text: str, remote: Labels, port: int = 80, direction: Direction = EGRESS) -> Judgement:
    resolved = resolve.endpoint_policy(load([Source("f", text)]), CLIENT)
    return judge(resolved, direction, remote, Protocol.TCP, port)


TCP_80_RULES = "toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{path: /public}]}}]"
TCP_80_PLAIN = "toPorts: [{ports: [{port: '80', protocol: TCP}]}]"
PUBLIC = (HttpRule(path="/public"),)


@pytest.mark.parametrize(
    "wide", ["{port: '1', endPort: 65535, protocol: TCP}", "{port: '79', endPort: 80}", "{port: '0'}"]
)
def test_cve_2024_52529_a_range_does_not_hide_the_http_rules_of_a_port_inside_it(wide: str) -> None:
    ranged = f"egress: [{{toEntities: [world], toPorts: [{{ports: [{wide}]}}]}}]"
    text = cnp(f"egress: [{{toEntities: [world], {TCP_80_RULES}}}]", ranged)
    judgement = ask(text, WORLD_IDENTITY)
    assert (judgement.verdict, judgement.http) == (REDIRECT, PUBLIC)
    same_port = cnp(
        f"egress: [{{toEntities: [world], {TCP_80_RULES}}}]", f"egress: [{{toEntities: [world], {TCP_80_PLAIN}}}]"
    )
    assert ask(same_port, WORLD_IDENTITY).http == (*PUBLIC, HttpRule())


@pytest.mark.parametrize(
    "narrow",
    [
        "egress: [{toCIDR: [198.51.100.7/32]}], enableDefaultDeny: {egress: false}",
        "egress: [{toFQDNs: [{matchName: www.example.com}]}], enableDefaultDeny: {egress: false}",
        "egress: [{toEntities: [all]}]",
        "egress: [{toCIDR: [198.51.100.7/32]}, {toFQDNs: [{matchName: www.example.com}]}, {toEntities: [all]}]",
    ],
)
def test_cve_2024_47825_a_wide_deny_holds_for_what_is_allowed_more_narrowly(narrow: str) -> None:
    text = cnp("egressDeny: [{toCIDR: [198.51.100.0/24]}]", narrow)
    for remote in (NARROW, NAMED):
        assert ask(text, remote).reason == Reason.POLICY_DENY


def test_cve_2025_64715_an_empty_list_of_prefixes_allows_nobody() -> None:
    for listed in ("toCIDRSet: []", "toCIDR: []", "toEndpoints: []", "toFQDNs: []", "toServices: []"):
        assert ask(cnp(f"egress: [{{{listed}, {TCP_80_PLAIN}}}]"), WORLD_IDENTITY).verdict == DENY


def test_cve_2023_30851_rules_for_others_add_no_wildcard() -> None:
    text = cnp(f"egress: [{{toEntities: [world], {TCP_80_RULES}}}, {{toEndpoints: [{{}}], {TCP_80_PLAIN}}}]")
    assert ask(text, WORLD_IDENTITY).http == PUBLIC
    assert ask(text, SERVER).verdict == ALLOW


def test_an_empty_element_denies_in_one_dialect_and_allows_in_the_other() -> None:
    assert ask(cnp("ingress: [{}]"), SERVER, direction=INGRESS).verdict == DENY
    assert ask(np("ingress: [{}]"), SERVER, direction=INGRESS).verdict == ALLOW


def test_a_networkpolicy_with_egress_rules_alone_isolates_ingress_too() -> None:
    assert ask(np("egress: [{}]"), SERVER, direction=INGRESS).verdict == DENY
    assert ask(np("egress: [{}]"), SERVER).verdict == ALLOW
    assert ask(np("egress: [{}], policyTypes: [Egress]"), SERVER, direction=INGRESS).verdict == ALLOW


def test_no_default_deny_does_not_soften_the_lists_of_l7_rules() -> None:
    text = cnp(f"egress: [{{toEntities: [world], {TCP_80_RULES}}}], enableDefaultDeny: {{egress: false}}")
    assert ask(text, WORLD_IDENTITY).http == PUBLIC
    assert ask(text, WORLD_IDENTITY, port=81).verdict == ALLOW


def test_the_node_is_always_let_in_and_its_workloads_not_to_it() -> None:
    text = cnp("ingress: [{}], egress: [{}]")
    assert ask(text, HOST, direction=INGRESS).verdict == ALLOW
    assert ask(text, HOST).verdict == DENY
    assert ask(cnp("ingressDeny: [{fromEntities: [host]}]"), HOST, direction=INGRESS).verdict == DENY


def test_a_deny_beats_an_l7_allow_of_the_same_peer_as_a_drop_and_not_a_403() -> None:
    text = cnp(f"egress: [{{toCIDR: [198.51.100.0/24], {TCP_80_RULES}}}]", "egressDeny: [{toCIDR: [198.51.100.0/24]}]")
    judgement = ask(text, NARROW)
    assert (judgement.verdict, judgement.reason, judgement.http) == (DENY, Reason.POLICY_DENY, None)


def test_an_exception_carves_out_of_its_own_rule_only() -> None:
    carved = "egress: [{toCIDRSet: [{cidr: 198.51.100.0/24, except: [198.51.100.7/32]}]}]"
    assert ask(cnp(carved), NARROW).verdict == DENY
    assert ask(cnp(carved, "egress: [{toCIDR: [198.51.100.7/32]}]"), NARROW).verdict == ALLOW


def test_icmp_passes_by_its_type_and_not_by_any_port() -> None:
    text = cnp("egress: [{toPorts: [{ports: [{port: '0'}]}]}, {icmps: [{fields: [{type: EchoRequest}]}]}]")
    resolved = resolve.endpoint_policy(load([Source("f", text)]), CLIENT)
    asked = {kind: judge(resolved, EGRESS, WORLD_IDENTITY, Protocol.ICMP, kind).verdict for kind in (0, 8)}
    assert asked == {0: DENY, 8: ALLOW}


def test_clusterwide_endpoints_are_neither_the_world_nor_nodes() -> None:
    text = (
        "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: a}\n"
        "spec: {endpointSelector: {}, egress: [{toEndpoints: [{}]}]}\n"
    )
    assert ask(text, SERVER).verdict == ALLOW
    assert ask(text, WORLD_IDENTITY).verdict == DENY
    assert ask(text, HOST).verdict == DENY
    assert ask(text, frozenset({"reserved:remote-node", "k8s:role=db", SHOP})).verdict == DENY
