# SPDX-License-Identifier: Apache-2.0
"""The list of names is read a row at a time, and the cache may change in between."""

from l7dns.identities import FqdnIdentity, Held
from l7dns.kept import KeptAddresses
from l7dns.listing import Listing
from l7dns.namecache import Fact, NameCache
from l7dns.view import Trust, View
from l7policy.ids import FIRST_FQDN_IDENTITY, WORLD, IdentityId, PolicyId, Revision
from l7policy.model import EndpointPolicy, FqdnPeer, Origin, Rule, Snapshot
from l7policy.verdict import Direction

PEER = FqdnPeer(match_pattern="*.example.com.")
FACTS = [Fact(f"n{number}.example.com.", "198.51.100.53", 53) for number in range(3)]
ADDRESS = b"\xc6\x33\x64\x01"


def test_names_that_went_are_left_out_and_names_that_came_are_not_in_it() -> None:
    policy = EndpointPolicy((Rule(Direction.EGRESS, Origin("p", "egress[0]"), (PEER,)),), enforce_egress=True)
    found = Snapshot(Revision(1), {PolicyId(1): policy}, {WORLD: ("reserved:world",)}, {}, (PEER,))
    view = View([found], Trust(node_wide=True))
    cache, kept = NameCache(), KeptAddresses(8)
    opened, longer = (FqdnIdentity(IdentityId(FIRST_FQDN_IDENTITY + n), WORLD, frozenset()) for n in (0, 1))
    for fact in FACTS:
        cache.put(fact, [ADDRESS], 100.0, endpoint=7)
    kept.add(FACTS[2], ADDRESS, 5.0)
    kept.release([ADDRESS], {ADDRESS: {"192.0.2.7"}}, 6.0)
    rows = Listing(cache, kept, {ADDRESS: Held(opened, longer)}.get, lambda: view).rows(40.0, 1000.0)
    first = next(rows)
    assert (first.name, first.address, first.ttl, first.expires) == ("n0.example.com", "198.51.100.1", 60.0, 1060.0)
    assert (first.identity, first.selectors, first.endpoints) == (opened.id, ("fqdn:*.example.com",), (7,))
    assert (first.server, first.port, first.policies, first.kept) == ("198.51.100.53", 53, (1,), False)
    cache.forget(FACTS[1])
    cache.put(Fact("late.example.com."), [ADDRESS], 100.0)
    rest = list(rows)
    assert [(row.name, row.kept, row.identity) for row in rest] == [
        ("n2.example.com", False, opened.id),
        ("n2.example.com", True, longer.id),
    ]
    assert (rest[1].ttl, rest[1].clients, rest[1].endpoints) == (0.0, ("192.0.2.7",), ())
