# SPDX-License-Identifier: Apache-2.0
"""Tests of l7dns.addressrows: what an address should have, and what is done to the kernel for it."""

from typing import NamedTuple

import pytest

from l7dns.addresses import address_bytes
from l7dns.addressrows import AddressRows
from l7dns.kept import KeptAddresses
from l7dns.kerneltables import MemoryTables
from l7dns.namecache import Change, Fact
from l7dns.rows import IdentityRows
from l7dns.view import Trust, View
from l7policy.ids import FIRST_FQDN_IDENTITY, WORLD, IdentityId, PolicyId, Revision
from l7policy.model import EndpointPolicy, FqdnPeer, Origin, Port, Rule, Snapshot
from l7policy.verdict import Direction, Protocol

STARS, EXACT = FqdnPeer(match_pattern="*.example.com."), FqdnPeer(match_name="www.example.com.")
API, WWW, OTHER = Fact("api.example.com."), Fact("www.example.com."), Fact("www.example.org.")
HOSTED = IdentityId((1 << 24) + 5)
IP, IP2, IP3 = (address_bytes(f"203.0.113.{last}") for last in (1, 2, 3))
RULE = Rule(Direction.EGRESS, Origin("p", "egress[0]"), (STARS, EXACT), (Port(Protocol.TCP, 443, 443),))


class Made(NamedTuple):
    """One, and what stands around it."""

    rows: AddressRows
    kernel: MemoryTables
    kept: KeptAddresses
    identities: IdentityRows

    def selectors(self, address: bytes) -> set[str]:
        """What new flows to an address go by."""
        identity = self.identities.identities.get(self.kernel.ipcache_rows.get(address, 0))
        return set() if identity is None else set(identity.selectors)


def made(kernel: MemoryTables | None = None) -> Made:
    identities = {WORLD: ("reserved:world",), HOSTED: ("cidr:203.0.113.2/32", "reserved:world")}
    policies = {PolicyId(1): EndpointPolicy((RULE,), enforce_egress=True)}
    snapshot = Snapshot(Revision(1), policies, identities, {"203.0.113.2/32": HOSTED}, (STARS, EXACT))
    view, kernel, kept = View([snapshot], Trust(node_wide=True)), kernel or MemoryTables(), KeptAddresses(8)
    numbered = IdentityRows(kernel)
    numbered.adopt(view)
    return Made(AddressRows(kernel, numbered, kept, view), kernel, kept, numbered)


def came(fact: Fact, *addresses: bytes) -> list[Change]:
    return [Change(True, fact, address) for address in addresses]


def went(fact: Fact, *addresses: bytes) -> list[Change]:
    return [Change(False, fact, address) for address in addresses]


def test_only_a_name_with_other_selectors_makes_a_difference() -> None:
    rows = made().rows
    assert list(rows.count(came(API, IP, IP2))) == [IP, IP2]
    assert list(rows.count(came(Fact("b.example.com."), IP))) == []
    assert list(rows.count(came(WWW, IP))) == [IP]
    assert rows.given(IP, rows.view.matching(API))
    assert list(rows.count(went(API, IP, IP2))) == [IP2]
    assert list(rows.count(went(Fact("b.example.com."), IP))) == [IP]
    assert not rows.given(IP, rows.view.matching(API))


def test_an_address_has_the_union_of_its_names_and_none_without() -> None:
    one = made()
    one.rows.count([*came(API, IP), *came(OTHER, IP, IP3)])
    one.rows.settle([IP, IP3], 0.0)
    assert (one.selectors(IP), IP3 in one.kernel.ipcache_rows) == ({STARS.label}, False)
    one.rows.count(came(WWW, IP))
    one.rows.settle([IP], 0.0)
    assert one.selectors(IP) == {STARS.label, EXACT.label}
    one.rows.count([*went(WWW, IP), *went(API, IP)])
    one.rows.settle([IP], 0.0)
    assert one.kernel.ipcache_rows == {}
    assert one.rows.writes == 3


def test_until_all_names_are_read_an_address_only_gains() -> None:
    before = made()
    before.rows.count(came(WWW, IP, IP2))
    before.rows.settle([IP, IP2], 0.0)
    after = made(before.kernel)
    after.rows.adopt(after.kernel.ipcache())
    after.rows.partial = True
    after.rows.count(came(API, IP))
    after.rows.settle([IP, IP2], 1.0)
    assert after.selectors(IP) == after.selectors(IP2) == {STARS.label, EXACT.label}
    after.rows.partial = False
    after.rows.settle(after.rows.addresses(), 2.0)
    assert (after.selectors(IP), after.kernel.ipcache_rows[IP2]) == ({STARS.label}, HOSTED)


def test_a_number_that_means_nothing_is_taken_away() -> None:
    kernel = MemoryTables()
    kernel.ipcache_rows[IP] = IdentityId(FIRST_FQDN_IDENTITY + 4000)
    one = made(kernel)
    one.rows.adopt(kernel.ipcache())
    assert (one.rows.dirty, one.rows.addresses()) == ({IP}, [IP])
    one.rows.settle(one.rows.addresses(), 0.0)
    assert (kernel.ipcache_rows, one.rows.dirty) == ({}, set())


def test_what_the_agent_has_written_over_is_written_again() -> None:
    one = made()
    one.rows.count(came(API, IP, IP2))
    one.rows.settle([IP, IP2], 0.0)
    learnt = one.kernel.ipcache_rows[IP2]
    one.kernel.ipcache_rows[IP2] = HOSTED
    one.rows.settle([IP, IP2], 0.0)
    assert one.kernel.ipcache_rows[IP2] == HOSTED
    one.rows.doubt_exact()
    assert one.rows.dirty == {IP2}
    one.rows.settle(one.rows.addresses(), 0.0)
    assert one.kernel.ipcache_rows[IP2] == learnt


def test_what_the_kernel_does_not_take_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    one = made()
    one.rows.count(came(API, IP, IP2))

    def full(*_: object) -> None:
        raise OSError("full")

    with monkeypatch.context() as patched:
        patched.setattr(one.kernel, "write_ipcache", full)
        with pytest.raises(OSError, match="full"):
            one.rows.settle([IP, IP2], 0.0)
        assert one.rows.dirty == {IP, IP2}
        one.rows.settle_or_keep([IP, IP2], 0.0)
        assert one.rows.errors == 2
    one.rows.settle(one.rows.addresses(), 0.0)
    assert (one.rows.dirty, one.selectors(IP), one.selectors(IP2)) == (set(), {STARS.label}, {STARS.label})


def test_what_has_begun_goes_by_names_that_are_over() -> None:
    one = made()
    one.kept.add(WWW, IP, 0.0)
    one.rows.count(came(API, IP))
    one.rows.settle([IP], 0.0)
    number = one.kernel.established[IP]
    assert one.selectors(IP) == {STARS.label}
    assert one.kernel.identity_rows[IdentityId(number)] != one.kernel.identity_rows[one.kernel.ipcache_rows[IP]]
    one.kept.discard(WWW, IP)
    one.rows.settle([IP], 0.0)
    assert one.kernel.established == {}
