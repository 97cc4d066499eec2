# SPDX-License-Identifier: Apache-2.0
import itertools

import msgspec
import pytest

from l7policy import resolve
from l7policy.model import (
    LAST_PRIORITY,
    Action,
    CidrPeer,
    EntityPeer,
    FqdnPeer,
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
from l7policy.verdict import Direction, Protocol

WEB = frozenset({"k8s:app=web"})
IS_WEB = (Requirement("k8s:app", Operator.IN, ("web",)),)
IS_DB = (Requirement("k8s:app", Operator.IN, ("db",)),)
TCP_80 = (Port(Protocol.TCP, 80, 80),)


ALLOW_ALL = Rule(Direction.EGRESS, Origin("reserved/allow-all", "egress"), tier=Tier.BASELINE, priority=LAST_PRIORITY)


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
