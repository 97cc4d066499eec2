# SPDX-License-Identifier: Apache-2.0
import msgspec
import pytest

from l7policy.entries import Entry, entries, port_prefixes
from l7policy.ids import ANY_IDENTITY, IdentityId
from l7policy.judgement import PolicyVerdict
from l7policy.model import Action, EndpointPolicy, EntityPeer, FqdnPeer, HttpRule, Origin, Peer, Port, Rule, Tier
from l7policy.verdict import Direction, Protocol

WORLD = frozenset({"reserved:world"})
SOMEONE = IdentityId(300)
TCP, UDP, SCTP = Protocol.TCP, Protocol.UDP, Protocol.SCTP


def rule(
    *ports: Port,
    peers: tuple[Peer, ...] | None = (EntityPeer("world"),),
    deny: bool = False,
    http: bool = False,
    dns: bool = False,
    name: str = "rule",
) -> Rule:
    return Rule(
        Direction.EGRESS,
        Origin(name, "r"),
        peers=peers,
        ports=ports,
        action=Action.DENY if deny else Action.ALLOW,
        http=(HttpRule(),) if http else None,
        dns=(FqdnPeer(match_pattern="*"),) if dns else None,
    )


def compiled(*rules: Rule) -> list[Entry]:
    return entries(EndpointPolicy(rules, enforce_egress=True), SOMEONE, WORLD)


def seen(found: list[Entry]) -> list[tuple[int, int, int, str]]:
    return [(entry.protocol, entry.port, entry.prefix_bits, entry.verdict.name) for entry in found]


@pytest.mark.parametrize(
    ("first", "last", "prefixes"),
    [
        (0, 65535, ((0, 0),)),
        (80, 80, ((80, 16),)),
        (8080, 8083, ((8080, 14),)),
        (0, 0, ((0, 16),)),
        (65535, 65535, ((65535, 16),)),
        (1, 4, ((1, 16), (2, 15), (4, 16))),
        (32768, 65535, ((32768, 1),)),
        (5, 4, ()),
    ],
)
def test_a_range_of_ports_becomes_prefixes(first: int, last: int, prefixes: tuple[tuple[int, int], ...]) -> None:
    assert port_prefixes(first, last) == prefixes


def test_the_worst_range_takes_thirty_prefixes() -> None:
    assert len(port_prefixes(1, 65534)) == 30


def test_a_rule_without_ports_is_one_entry_for_any_protocol() -> None:
    assert seen(compiled(rule())) == [(0, 0, 0, "ALLOW")]


def test_any_protocol_with_ports_is_the_three_that_have_ports() -> None:
    found = seen(compiled(rule(Port(Protocol.ANY))))
    assert found == [(TCP, 0, 8, "ALLOW"), (UDP, 0, 8, "ALLOW"), (SCTP, 0, 8, "ALLOW")]


def test_an_entry_that_says_no_more_than_the_next_shorter_one_is_left_out() -> None:
    assert seen(compiled(rule(), rule(Port(TCP, 80, 80)), rule(Port(TCP)))) == [(0, 0, 0, "ALLOW")]
    assert seen(compiled(rule(deny=True), rule(Port(TCP, 80, 80), http=True))) == [(0, 0, 0, "DENY")]


def test_a_stronger_verdict_inside_a_wider_one_is_an_entry_of_its_own() -> None:
    found = compiled(
        rule(name="all"), rule(Port(TCP, 80, 80), http=True, name="web"), rule(Port(TCP, 8080, 8083), deny=True)
    )
    assert seen(found) == [(0, 0, 0, "ALLOW"), (TCP, 8080, 22, "DENY"), (TCP, 80, 24, "REDIRECT")]
    assert [entry.precedence & 0xFF for entry in found] == [1, 255, 154]
    assert found[0].cookie == Origin("all", "r").cookie
    assert found[2].cookie == Origin("web", "r").cookie


def test_a_wider_deny_covers_what_a_narrow_rule_allows() -> None:
    found = compiled(rule(Port(TCP, 443, 443)), rule(Port(TCP, 0, 32767), deny=True))
    assert seen(found) == [(TCP, 0, 9, "DENY")]


def test_rules_for_any_peer_are_entries_of_identity_zero_alone() -> None:
    policy = EndpointPolicy((rule(peers=None), rule(Port(TCP, 80, 80), peers=(EntityPeer("all"),), deny=True)), True)
    assert entries(policy, SOMEONE, WORLD) == []
    assert seen(entries(policy, ANY_IDENTITY, None)) == [(0, 0, 0, "ALLOW"), (TCP, 80, 24, "DENY")]


def test_rules_for_certain_peers_are_not_entries_of_identity_zero() -> None:
    assert entries(EndpointPolicy((rule(),), True), ANY_IDENTITY, None) == []


def test_a_rule_that_does_not_select_the_identity_gives_no_entry() -> None:
    assert compiled(rule(peers=(EntityPeer("host"),)), rule(peers=())) == []


def test_a_direction_that_is_not_enforced_has_no_entries() -> None:
    assert entries(EndpointPolicy((rule(),), enforce_egress=False), SOMEONE, WORLD) == []


def test_dns_over_any_protocol_is_redirected_for_tcp_and_udp() -> None:
    found = compiled(rule(Port(Protocol.ANY, 53, 53), dns=True))
    assert seen(found) == [(TCP, 53, 24, "REDIRECT"), (UDP, 53, 24, "REDIRECT")]
    assert {entry.precedence & 0xFF for entry in found} == {134}


def test_an_entry_knows_the_last_port_it_covers() -> None:
    entry = compiled(rule(Port(TCP, 8080, 8083)))[0]
    assert (entry.port, entry.last_port) == (8080, 8083)
    assert entry.verdict == PolicyVerdict.ALLOW


@pytest.mark.parametrize(("identity", "labels"), [(ANY_IDENTITY, WORLD), (SOMEONE, None)])
def test_identity_zero_and_only_that_has_no_labels(identity: IdentityId, labels: frozenset[str] | None) -> None:
    with pytest.raises(ValueError, match="identity 0"):
        entries(EndpointPolicy(), identity, labels)


def test_a_pass_holds_what_the_later_tiers_come_to_and_beats_the_rest_of_its_tier() -> None:
    def of(tier: Tier, priority: int, action: Action, *ports: Port) -> Rule:
        return msgspec.structs.replace(rule(*ports, name=action.value), tier=tier, priority=priority, action=action)

    passed, denied = of(Tier.ADMIN, 4, Action.PASS, Port(TCP, 80, 80)), of(Tier.ADMIN, 5, Action.DENY)
    found = compiled(passed, denied, of(Tier.NORMAL, 0, Action.ALLOW))
    assert seen(found) == [(0, 0, 0, "DENY"), (TCP, 80, 24, "ALLOW")]
    assert found[1].precedence == (0xFFFFFF - 4) << 8
    assert found[0].precedence == (0xFFFFFF - 5) << 8 | 255
    # Nothing behind the pass: default deny, named by the rule that passed.
    alone = compiled(passed, of(Tier.ADMIN, 5, Action.ALLOW))
    assert seen(alone) == [(0, 0, 0, "ALLOW"), (TCP, 80, 24, "DENY")]
    assert alone[1].cookie == passed.origin.cookie


def test_where_a_rule_passes_an_identity_also_holds_the_rules_for_any_peer() -> None:
    policy = EndpointPolicy((rule(peers=None), msgspec.structs.replace(rule(), action=Action.PASS)), True)
    assert seen(entries(policy, SOMEONE, WORLD)) == [(0, 0, 0, "ALLOW")]


def test_types_of_icmp_stand_where_ports_do() -> None:
    assert seen(compiled(rule(Port(Protocol.ICMP, 8, 8), Port(Protocol.ICMPV6, 128, 128)))) == [
        (Protocol.ICMP, 8, 24, "ALLOW"),
        (Protocol.ICMPV6, 128, 24, "ALLOW"),
    ]
