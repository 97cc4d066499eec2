# SPDX-License-Identifier: Apache-2.0
"""Laws of `judge` that hold for every policy."""

from random import Random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from l7policy.http import HttpRules
from l7policy.judgement import Judgement, PolicyVerdict, judge
from l7policy.model import Action, EndpointPolicy, EntityPeer, FqdnPeer, HttpRule, LabelPeer, Origin, Port, Rule
from l7policy.names import NameSet
from l7policy.verdict import Direction, Protocol, ProxyKind

REMOTES = (frozenset({"k8s:app=web"}), frozenset({"reserved:world"}), frozenset({"reserved:host"}))
NUMBERS = st.sampled_from([52, 53, 54, 80])
PORTS = st.builds(
    lambda protocol, one, other: Port(protocol, min(one, other), max(one, other)),
    st.sampled_from([Protocol.ANY, Protocol.TCP, Protocol.UDP]),
    NUMBERS,
    NUMBERS,
)
PEERS = st.sampled_from([LabelPeer(), EntityPeer("world"), EntityPeer("host"), EntityPeer("all")])
PATHS = ("/a", "/b")
NAMES = ("a.example.com.", "b.example.com.")


@st.composite
def rules(draw: st.DrawFn, kinds: tuple[str, ...] = ("allow", "deny", "http", "dns")) -> Rule:
    kind = draw(st.sampled_from(kinds))
    return Rule(
        Direction.EGRESS,
        Origin(kind, "rule"),
        peers=draw(st.none() | st.lists(PEERS, max_size=2).map(tuple)),
        ports=tuple(draw(st.lists(PORTS, max_size=2))),
        action=Action.DENY if kind == "deny" else Action.ALLOW,
        http=tuple(HttpRule(path=path) for path in draw(st.sets(st.sampled_from(PATHS)))) if kind == "http" else None,
        dns=tuple(FqdnPeer(match_name=n) for n in draw(st.sets(st.sampled_from(NAMES)))) if kind == "dns" else None,
    )


LISTS = st.lists(rules(), max_size=6)
FLOWS = st.tuples(st.sampled_from(REMOTES), st.sampled_from([6, 17, 132, 1]), NUMBERS)

Flow = tuple[frozenset[str], int, int]


def ask(rule_list: list[Rule], flow: Flow) -> Judgement:
    return judge(EndpointPolicy(tuple(rule_list), enforce_egress=True), Direction.EGRESS, *flow)


def let_through(judgement: Judgement) -> set[str]:
    """Of a few requests and names: those that come through."""
    if judgement.verdict == PolicyVerdict.DENY:
        return set()
    if judgement.http is not None:
        return {path for path in PATHS if HttpRules(judgement.http).match(b"GET", path.encode(), b"", ())}
    if judgement.dns is not None:
        return {name for name in NAMES if NameSet(judgement.dns).matches(name)}
    return {*PATHS, *NAMES}


@given(LISTS, rules(kinds=("deny",)), FLOWS)
@settings(max_examples=200, deadline=None)
def test_one_more_deny_never_allows_more(rule_list: list[Rule], deny: Rule, flow: Flow) -> None:
    assert let_through(ask([*rule_list, deny], flow)) <= let_through(ask(rule_list, flow))


@given(LISTS, FLOWS, st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_the_order_of_rules_decides_nothing(rule_list: list[Rule], flow: Flow, random: Random) -> None:
    shuffled = random.sample(rule_list, len(rule_list))
    one, other = ask(rule_list, flow), ask(shuffled, flow)
    assert (one.verdict, one.proxy, one.reason) == (other.verdict, other.proxy, other.reason)
    assert let_through(one) == let_through(other)
    assert set(one.origins) == set(other.origins)


@given(LISTS, FLOWS)
@settings(max_examples=150, deadline=None)
def test_what_is_not_denied_is_allowed_by_some_rule(rule_list: list[Rule], flow: Flow) -> None:
    judgement = ask(rule_list, flow)
    assert (judgement.verdict == PolicyVerdict.REDIRECT) == (judgement.proxy != ProxyKind.NONE)
    assert (judgement.http is not None) == (judgement.proxy == ProxyKind.HTTP)
    assert (judgement.dns is not None) == (judgement.proxy == ProxyKind.DNS)
    if judgement.verdict != PolicyVerdict.DENY:
        assert judgement.origins
        assert all(origin.policy != "deny" for origin in judgement.origins)


@given(LISTS, FLOWS)
@settings(max_examples=150, deadline=None)
def test_limits_never_allow_more_than_the_same_rules_without_them(rule_list: list[Rule], flow: Flow) -> None:
    unlimited = [msgspec.structs.replace(rule, http=None, dns=None) for rule in rule_list]
    assert let_through(ask(rule_list, flow)) <= let_through(ask(unlimited, flow))
