# SPDX-License-Identifier: Apache-2.0
import pytest

from l7policy.judgement import Judgement, PolicyVerdict, judge, redirect_precedence
from l7policy.model import Action, CidrPeer, EndpointPolicy, EntityPeer, FqdnPeer, HttpRule, Origin, Peer, Port, Rule
from l7policy.verdict import Direction, Protocol, ProxyKind, Reason

EGRESS, INGRESS = Direction.EGRESS, Direction.INGRESS
TCP, UDP, SCTP, ICMP, ANY = Protocol.TCP, Protocol.UDP, Protocol.SCTP, Protocol.ICMP, Protocol.ANY
ALLOW, DENY, REDIRECT = PolicyVerdict.ALLOW, PolicyVerdict.DENY, PolicyVerdict.REDIRECT
WORLD = frozenset({"reserved:world", "cidr:198.51.100.0/24"})
GET = HttpRule(method="GET")
POST = HttpRule(method="POST")
STAR = FqdnPeer(match_pattern="*")
EXAMPLE = FqdnPeer(match_pattern="*.example.com.")
GRE = 47


def rule(
    name: str,
    *ports: Port,
    peers: tuple[Peer, ...] | None = None,
    deny: bool = False,
    http: tuple[HttpRule, ...] | None = None,
    dns: tuple[FqdnPeer, ...] | None = None,
    direction: Direction = EGRESS,
) -> Rule:
    return Rule(
        direction,
        Origin(name, "rule"),
        peers=peers,
        ports=ports,
        action=Action.DENY if deny else Action.ALLOW,
        http=http,
        dns=dns,
    )


def tcp(first: int, last: int | None = None) -> Port:
    return Port(TCP, first, first if last is None else last)


def ask(*rules: Rule, port: int = 80, protocol: int = TCP, direction: Direction = EGRESS) -> Judgement:
    return judge(EndpointPolicy(rules, enforce_egress=True), direction, WORLD, protocol, port)


def names(judgement: Judgement) -> list[str]:
    return [origin.policy for origin in judgement.origins]


def test_a_direction_that_is_not_enforced_allows_everything() -> None:
    judgement = ask(rule("d", deny=True, direction=INGRESS), direction=INGRESS)
    assert judgement == Judgement(ALLOW)


def test_what_nothing_covers_is_denied_by_default() -> None:
    assert ask() == Judgement(DENY, reason=Reason.POLICY_DENIED)
    assert ask(rule("other direction", direction=INGRESS)).verdict == DENY
    assert ask(rule("other port", tcp(81))).verdict == DENY
    assert ask(rule("other protocol", Port(UDP, 80, 80))).verdict == DENY
    assert ask(rule("other peer", peers=(CidrPeer("203.0.113.0/24"),))).verdict == DENY
    assert ask(rule("nobody", peers=())).verdict == DENY


def test_a_rule_without_limits_allows_and_is_named() -> None:
    judgement = ask(rule("a", tcp(80)), rule("b"))
    assert (judgement.verdict, judgement.proxy, judgement.precedence) == (ALLOW, ProxyKind.NONE, 1)
    assert names(judgement) == ["a", "b"]
    assert judgement.http is None
    assert judgement.dns is None


def test_deny_beats_redirect_and_allow() -> None:
    judgement = ask(rule("h", tcp(80), http=(GET,)), rule("a"), rule("d", peers=(EntityPeer("world"),), deny=True))
    assert (judgement.verdict, judgement.reason, judgement.precedence) == (DENY, Reason.POLICY_DENY, 255)
    assert names(judgement) == ["d"]


def test_a_deny_rule_for_a_range_is_a_drop_and_not_a_403() -> None:
    judgement = ask(
        rule("h", tcp(80), peers=(CidrPeer("198.51.100.0/24"),), http=(GET,)),
        rule("d", peers=(CidrPeer("198.51.100.0/24"),), deny=True),
    )
    assert judgement.verdict == DENY
    assert judgement.http is None


def test_a_limited_rule_redirects_even_where_a_wider_one_allows() -> None:
    for wider in (rule("a"), rule("a", tcp(0, 65535)), rule("a", tcp(79, 81)), rule("a", tcp(80, 81))):
        judgement = ask(wider, rule("h", tcp(80), http=(GET,)))
        assert (judgement.verdict, judgement.proxy, judgement.precedence) == (REDIRECT, ProxyKind.HTTP, 154)
        assert judgement.http == (GET,)
        assert names(judgement) == ["h"]


@pytest.mark.parametrize("plain", [tcp(80), Port(ANY, 80, 80)], ids=["TCP 80", "any protocol 80"])
def test_an_allow_of_the_very_same_port_voids_the_list(plain: Port) -> None:
    judgement = ask(rule("h", tcp(80), http=(GET,)), rule("a", plain))
    assert judgement.verdict == REDIRECT
    assert judgement.http == (GET, HttpRule())


def test_an_allow_of_the_same_port_for_other_peers_voids_nothing() -> None:
    judgement = ask(rule("h", tcp(80), http=(GET,)), rule("a", tcp(80), peers=(CidrPeer("203.0.113.0/24"),)))
    assert judgement.http == (GET,)


def test_lists_of_all_rules_that_cover_the_port_are_joined() -> None:
    judgement = ask(
        rule("g", tcp(80), http=(GET,)),
        rule("p", tcp(80, 90), peers=(EntityPeer("world"),), http=(POST, GET)),
        rule("n", tcp(443), http=(HttpRule(),)),
    )
    assert judgement.http == (GET, POST)
    assert names(judgement) == ["g", "p"]


def test_an_empty_list_redirects_and_lets_nothing_pass() -> None:
    assert ask(rule("h", tcp(80), http=())).http == ()


def test_an_allow_of_a_range_voids_a_list_for_just_that_range_only() -> None:
    ranged = rule("r", tcp(80, 90), http=(POST,))
    assert ask(rule("h", tcp(80), http=(GET,)), ranged, rule("a", tcp(80, 90))).http == (GET, POST, HttpRule())
    assert ask(rule("h", tcp(80), http=(GET,)), ranged, rule("a", tcp(80, 91))).http == (GET, POST)


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_names_are_limited_over_both_protocols_of_dns(protocol: Protocol) -> None:
    judgement = ask(rule("n", Port(ANY, 53, 53), dns=(EXAMPLE,)), rule("a"), protocol=protocol, port=53)
    assert (judgement.verdict, judgement.proxy, judgement.precedence) == (REDIRECT, ProxyKind.DNS, 134)
    assert judgement.dns == (EXAMPLE,)
    assert judgement.http is None


def test_an_allow_of_the_same_port_voids_the_names() -> None:
    limited = rule("n", Port(ANY, 53, 53), dns=(EXAMPLE,))
    assert ask(limited, rule("a", Port(UDP, 53, 53)), protocol=UDP, port=53).dns == (EXAMPLE, STAR)
    assert ask(limited, rule("a", Port(UDP, 53, 53)), protocol=TCP, port=53).dns == (EXAMPLE,)


def test_http_goes_before_names() -> None:
    judgement = ask(rule("n", tcp(80), dns=(STAR,)), rule("h", tcp(80), http=(GET,)))
    assert (judgement.proxy, judgement.http, judgement.dns) == (ProxyKind.HTTP, (GET,), None)


def test_a_limited_rule_allows_only_the_protocols_its_proxy_speaks() -> None:
    assert ask(rule("h", Port(ANY, 80, 80), http=(GET,)), protocol=UDP).verdict == DENY
    assert ask(rule("h", Port(UDP, 80, 80), http=(GET,)), protocol=UDP).verdict == DENY
    assert ask(rule("h", http=(GET,)), protocol=TCP).verdict == REDIRECT
    assert ask(rule("h", http=(GET,)), protocol=ICMP, port=8).verdict == DENY
    assert ask(rule("n", Port(ANY, 53, 53), dns=(STAR,)), protocol=SCTP, port=53).verdict == DENY


@pytest.mark.parametrize(
    ("ports", "protocol", "port", "verdict"),
    [
        ((), ICMP, 8, ALLOW),
        ((), GRE, 0, ALLOW),
        ((Port(ANY),), TCP, 1, ALLOW),
        ((Port(ANY),), UDP, 1, ALLOW),
        ((Port(ANY),), SCTP, 1, ALLOW),
        ((Port(ANY),), ICMP, 8, DENY),
        ((Port(ANY),), GRE, 0, DENY),
        ((Port(ICMP, 8, 8),), ICMP, 8, ALLOW),
        ((Port(ICMP, 8, 8),), ICMP, 0, DENY),
        ((Port(TCP, 80, 90),), TCP, 90, ALLOW),
        ((Port(TCP, 80, 90),), TCP, 91, DENY),
    ],
)
def test_only_a_rule_without_ports_covers_what_has_none(
    ports: tuple[Port, ...], protocol: int, port: int, verdict: PolicyVerdict
) -> None:
    assert ask(rule("a", *ports), protocol=protocol, port=port).verdict == verdict


@pytest.mark.parametrize(
    ("priority", "precedence"), [(1, 254), (100, 155), (101, 154), (116, 139), (121, 134), (126, 129), (0, 2)]
)
def test_precedences_are_those_of_cilium(priority: int, precedence: int) -> None:
    assert redirect_precedence(priority) == precedence
