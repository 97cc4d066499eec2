# SPDX-License-Identifier: Apache-2.0
import msgspec
import pytest

from l7policy.judgement import Judgement, PolicyVerdict, judge, redirect_precedence
from l7policy.model import (
    Action,
    CidrPeer,
    EndpointPolicy,
    EntityPeer,
    FqdnPeer,
    HttpRule,
    Origin,
    Peer,
    Port,
    Rule,
    Tier,
)
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


def low_byte(judgement: Judgement) -> int:
    """What decides within a level; the rest is that of the normal tier, at its strongest."""
    assert judgement.precedence >> 8 == 0xFFFFFF - (1 << 22)
    return judgement.precedence & 0xFF


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
    assert (judgement.verdict, judgement.proxy, low_byte(judgement)) == (ALLOW, ProxyKind.NONE, 1)
    assert names(judgement) == ["a", "b"]
    assert judgement.http is None
    assert judgement.dns is None


def test_deny_beats_redirect_and_allow() -> None:
    judgement = ask(rule("h", tcp(80), http=(GET,)), rule("a"), rule("d", peers=(EntityPeer("world"),), deny=True))
    assert (judgement.verdict, judgement.reason, low_byte(judgement)) == (DENY, Reason.POLICY_DENY, 255)
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
        assert (judgement.verdict, judgement.proxy, low_byte(judgement)) == (REDIRECT, ProxyKind.HTTP, 154)
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
    assert (judgement.verdict, judgement.proxy, low_byte(judgement)) == (REDIRECT, ProxyKind.DNS, 134)
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


def of(name: str, tier: Tier, priority: int, action: Action, *ports: Port, **more: object) -> Rule:
    return msgspec.structs.replace(rule(name, *ports), tier=tier, priority=priority, action=action, **more)


ADMIN, NORMAL, BASELINE = Tier.ADMIN, Tier.NORMAL, Tier.BASELINE


@pytest.mark.parametrize(
    ("rules", "verdict", "by"),
    [
        ([(ADMIN, 5, "allow"), (NORMAL, 0, "deny")], ALLOW, ADMIN),
        ([(ADMIN, 5, "deny"), (NORMAL, 0, "allow")], DENY, ADMIN),
        ([(ADMIN, 5, "allow"), (ADMIN, 6, "deny")], ALLOW, ADMIN),
        ([(ADMIN, 6, "allow"), (ADMIN, 5, "deny")], DENY, ADMIN),
        ([(ADMIN, 5, "allow"), (ADMIN, 5, "deny")], DENY, ADMIN),
        ([(ADMIN, 5, "allow"), (ADMIN, 5, "pass"), (NORMAL, 0, "deny")], ALLOW, ADMIN),
        ([(ADMIN, 4, "pass"), (ADMIN, 5, "deny"), (NORMAL, 0, "allow")], ALLOW, NORMAL),
        ([(ADMIN, 4, "pass"), (ADMIN, 5, "allow"), (NORMAL, 0, "deny")], DENY, NORMAL),
        ([(ADMIN, 4, "pass"), (ADMIN, 5, "allow"), (BASELINE, 9, "deny")], DENY, BASELINE),
        ([(ADMIN, 4, "pass"), (NORMAL, 9, "pass"), (NORMAL, 10, "deny"), (BASELINE, 9, "allow")], ALLOW, BASELINE),
        ([(ADMIN, 4, "pass"), (ADMIN, 5, "allow")], DENY, None),
        ([(NORMAL, 0, "allow"), (BASELINE, 0, "deny")], ALLOW, NORMAL),
    ],
)
def test_the_strongest_tier_and_priority_decides_and_a_pass_skips_the_tier(
    rules: list[tuple[Tier, int, str]], verdict: PolicyVerdict, by: Tier | None
) -> None:
    judgement = ask(*(of(tier.name, tier, priority, Action(action)) for tier, priority, action in rules))
    assert judgement.verdict == verdict
    assert names(judgement) == ([] if by is None else [by.name])
    assert judgement.reason == (
        Reason.POLICY_DENIED if by is None else Reason.POLICY_DENY if verdict == DENY else Reason.NONE
    )


def test_a_stronger_plain_allow_ends_it_before_any_limit() -> None:
    """AdminNetworkPolicy's Accept is final: weaker rules do not limit what it let through, nor are they voided."""
    limited = rule("h", tcp(80), http=(GET,))
    assert ask(of("a", ADMIN, 1, Action.ALLOW, tcp(80)), limited).verdict == ALLOW
    assert ask(of("a", BASELINE, 1, Action.ALLOW, tcp(80)), limited).http == (GET,)


def test_server_names_redirect_and_nothing_voids_them() -> None:
    limited = msgspec.structs.replace(rule("t", tcp(443)), server_names=("*.example.com",))
    other = msgspec.structs.replace(rule("u", tcp(443)), server_names=("a.example", "*.example.com"))
    judgement = ask(limited, other, rule("a", tcp(443)), port=443)
    assert (judgement.verdict, judgement.proxy, low_byte(judgement)) == (REDIRECT, ProxyKind.TLS, 139)
    assert judgement.server_names == ("*.example.com", "a.example")
    assert names(judgement) == ["t", "u"]
    assert ask(limited, rule("h", tcp(443), http=(GET,)), port=443).proxy == ProxyKind.HTTP


def test_a_name_that_stands_for_no_number_covers_nothing() -> None:
    named = Port(TCP, name="web")
    assert ask(rule("a", named)).verdict == DENY
    assert ask(rule("d", named, deny=True), rule("a")).verdict == ALLOW


def test_an_audited_endpoint_is_told_so_with_every_verdict_that_refuses() -> None:
    def audited(*rules: Rule) -> Judgement:
        return judge(EndpointPolicy(rules, enforce_egress=True, audit=True), EGRESS, WORLD, TCP, 80)

    assert audited().audit
    assert audited(rule("d", deny=True)).audit
    assert audited(rule("h", tcp(80), http=(GET,))).audit
    assert not audited(rule("a")).audit


def test_the_text_for_the_log_is_that_of_the_rule_that_decided() -> None:
    noted = msgspec.structs.replace(rule("d", deny=True), log="ticket 7")
    assert ask(rule("e", deny=True), noted).log == "ticket 7"
    assert ask(msgspec.structs.replace(rule("a"), log="no"), rule("d", deny=True)).log == ""


@pytest.mark.parametrize(
    ("priority", "precedence"), [(1, 254), (100, 155), (101, 154), (116, 139), (121, 134), (126, 129), (0, 2)]
)
def test_precedences_are_those_of_cilium(priority: int, precedence: int) -> None:
    assert redirect_precedence(priority) == precedence
