# SPDX-License-Identifier: Apache-2.0
import pytest

from l7policy.judgement import judge
from l7policy.model import Action, CidrPeer, EndpointPolicy, EntityPeer, FqdnPeer, HttpRule, Origin, Peer, Port, Rule
from l7policy.pinning import agrees, pins
from l7policy.verdict import Direction, Protocol

SHOP = FqdnPeer(match_name="shop.example.")
CDN = FqdnPeer(match_pattern="*.cdn.example.")
BOTH = frozenset({"fqdn:shop.example", "fqdn:*.cdn.example", "cidr:198.51.100.0/24", "reserved:world"})


def rule(*peers: Peer, port: int = 80, http: bool = True, priority: int = 0, deny: bool = False) -> Rule:
    return Rule(
        Direction.EGRESS,
        Origin("shop/web", "egress[0]"),
        peers or None,
        (Port(Protocol.TCP, port, port),),
        Action.DENY if deny else Action.ALLOW,
        (HttpRule(),) if http and not deny else None,
        priority=priority,
    )


def pinned(*rules: Rule, labels: frozenset[str] = BOTH) -> list[bytes] | None:
    policy = EndpointPolicy(rules, enforce_egress=True)
    judged = judge(policy, Direction.EGRESS, labels, Protocol.TCP, 80)
    names = pins(policy, judged, Direction.EGRESS, labels, Protocol.TCP, 80)
    hosts = (b"shop.example", b"a.cdn.example:80", b"evil.example")
    return None if names is None else [host for host in hosts if agrees(names, host)]


def test_a_destination_allowed_for_names_is_asked_for_those_names() -> None:
    assert pinned(rule(SHOP)) == [b"shop.example"]
    assert pinned(rule(SHOP, CDN)) == [b"shop.example", b"a.cdn.example:80"]
    assert pinned(rule(SHOP), rule(CDN, port=8080)) == [b"shop.example"]
    assert pinned(rule(SHOP), rule(CDN), labels=BOTH - {"fqdn:*.cdn.example"}) == [b"shop.example"]


@pytest.mark.parametrize("other", [CidrPeer("198.51.100.0/24"), EntityPeer("world"), None])
def test_what_is_allowed_for_another_reason_too_is_not_pinned(other: Peer | None) -> None:
    also = rule(other) if other is not None else rule()
    assert pinned(rule(SHOP), also) is None
    assert pinned(rule(SHOP), rule(*also.peers or (), http=False)) is None


def test_rules_that_do_not_decide_do_not_unpin() -> None:
    assert pinned(rule(SHOP), rule(priority=7)) == [b"shop.example"]
    assert pinned(rule(SHOP), rule(EntityPeer("cluster"))) == [b"shop.example"]
    assert pinned(rule(EntityPeer("world"))) is None


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (b"shop.example", True),
        (b"SHOP.example.", True),
        (b"shop.example:8080", True),
        (b"", False),
        (b"198.51.100.1", False),
        (b"[2001:db8::1]:80", False),
        (b"shop.example.evil.example", False),
    ],
)
def test_a_host_is_compared_as_a_name(host: bytes, expected: bool) -> None:
    policy = EndpointPolicy((rule(SHOP),), enforce_egress=True)
    judged = judge(policy, Direction.EGRESS, BOTH, Protocol.TCP, 80)
    names = pins(policy, judged, Direction.EGRESS, BOTH, Protocol.TCP, 80)
    assert names is not None
    assert agrees(names, host) is expected
