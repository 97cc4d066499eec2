# SPDX-License-Identifier: Apache-2.0
"""Whose answers count for which policies."""

import pytest

from l7policy.model import Action, CidrPeer, EndpointPolicy, EntityPeer, FqdnPeer, Origin, Port, Rule
from l7policy.trust import scope, scoped, selectors, unscoped
from l7policy.verdict import Direction, Protocol

RESOLVER, OTHER = CidrPeer("192.0.2.53/32"), CidrPeer("198.51.100.53/32")
KNOWN = {"192.0.2.53": "cidr:192.0.2.53/32", "198.51.100.53": "cidr:198.51.100.53/32"}
API, SHOP = FqdnPeer(match_name="api.example.com."), FqdnPeer(match_name="shop.example.net.")
UDP, TCP = Port(Protocol.UDP, 53, 53), Port(Protocol.TCP, 53, 53)


def dns(peer: CidrPeer, *names: FqdnPeer, ports: tuple[Port, ...] = (UDP, TCP), place: str = "egress[0]") -> Rule:
    return Rule(Direction.EGRESS, Origin("p", place), (peer,), ports, dns=names)


def heeds(rules: tuple[Rule, ...], server: str, name: str, port: int = 53) -> bool:
    labels = frozenset({KNOWN[server], "reserved:world"})
    found = scope(EndpointPolicy(rules, enforce_egress=True)).heeds(labels, port)
    return any(names.matches(name) for names in found)


@pytest.mark.parametrize(
    ("rules", "server", "name", "port", "expected"),
    [
        ((dns(RESOLVER, API),), "192.0.2.53", "api.example.com.", 53, True),
        # All rules name one resolver: it is trusted, whichever names may be asked for.
        ((dns(RESOLVER, API), dns(RESOLVER, SHOP)), "192.0.2.53", "other.example.org.", 53, True),
        ((dns(RESOLVER, API),), "198.51.100.53", "api.example.com.", 53, False),
        ((dns(RESOLVER, API),), "192.0.2.53", "api.example.com.", 5353, False),
        # Two resolvers, each for its own names.
        ((dns(RESOLVER, API), dns(OTHER, SHOP)), "192.0.2.53", "api.example.com.", 53, True),
        ((dns(RESOLVER, API), dns(OTHER, SHOP)), "198.51.100.53", "api.example.com.", 53, False),
        ((dns(RESOLVER, API), dns(OTHER, SHOP)), "198.51.100.53", "shop.example.net.", 53, True),
        # What may be asked over one transport is trusted, however another workload asked it.
        ((dns(RESOLVER, API, ports=(TCP,)),), "192.0.2.53", "api.example.com.", 53, True),
        # A plain allow says nothing of names, and a deny takes the trust away.
        ((Rule(Direction.EGRESS, Origin("p", "r"), (RESOLVER,), (UDP,)),), "192.0.2.53", "api.example.com.", 53, False),
        (
            (dns(RESOLVER, API), Rule(Direction.EGRESS, Origin("p", "d"), (RESOLVER,), (), Action.DENY)),
            "192.0.2.53",
            "api.example.com.",
            53,
            False,
        ),
        ((), "192.0.2.53", "api.example.com.", 53, False),
    ],
)
def test_a_policy_heeds_the_servers_that_its_dns_rules_let_endpoints_ask(
    rules: tuple[Rule, ...], server: str, name: str, port: int, expected: bool
) -> None:
    assert heeds(rules, server, name, port) == expected


def test_policies_that_ask_the_same_servers_share_a_scope_whatever_else_they_say() -> None:
    web = Rule(Direction.EGRESS, Origin("web", "egress[1]"), (EntityPeer("world"),), (Port(Protocol.TCP, 443, 443),))
    one = EndpointPolicy((dns(RESOLVER, API), web), enforce_egress=True)
    two = EndpointPolicy((dns(RESOLVER, SHOP, place="egress[7]"),), enforce_egress=True, enforce_ingress=True)
    other = EndpointPolicy((dns(OTHER, API),), enforce_egress=True)
    split = EndpointPolicy((dns(RESOLVER, API), dns(OTHER, SHOP)), enforce_egress=True)
    swapped = EndpointPolicy((dns(RESOLVER, SHOP), dns(OTHER, API)), enforce_egress=True)
    assert scope(one) is scope(two)
    assert len({scope(found).name for found in (one, other, split, swapped)}) == 4


def test_a_selector_has_a_name_for_each_scope_and_one_for_people() -> None:
    assert scoped("fqdn:api.example.com", "0a1b2c3d") == "fqdn:api.example.com@0a1b2c3d"
    assert scoped("fqdn:api.example.com", "") == "fqdn:api.example.com"
    assert unscoped("fqdn:api.example.com@0a1b2c3d") == unscoped("fqdn:api.example.com") == "fqdn:api.example.com"
    reach = Rule(Direction.EGRESS, Origin("p", "r"), (API, RESOLVER, SHOP))
    assert selectors(EndpointPolicy((reach, dns(RESOLVER, API)))) == {API.label, SHOP.label}
