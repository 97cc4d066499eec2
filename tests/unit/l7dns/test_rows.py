# SPDX-License-Identifier: Apache-2.0
"""Identity rows: an identity counts as ready only when the kernel knows all of it, and nothing written is forgotten."""

import pytest

from l7dns.identities import Key
from l7dns.kerneltables import MemoryTables
from l7dns.rows import IdentityRows
from l7dns.view import Trust, View
from l7policy.entries import Entry
from l7policy.ids import WORLD, PolicyId, Revision
from l7policy.model import EndpointPolicy, FqdnPeer, Origin, Port, Rule, Snapshot
from l7policy.verdict import Direction, Protocol

API = FqdnPeer(match_name="api.example.com.")
KEY: Key = (WORLD, frozenset({API.label}))


def view(*policies: int, port: int = 80) -> View:
    rule = Rule(
        Direction.EGRESS, Origin("shop/web", "egress[0]"), peers=(API,), ports=(Port(Protocol.TCP, port, port),)
    )
    policy = EndpointPolicy((rule,), enforce_egress=True)
    return View(
        [Snapshot(Revision(1), {PolicyId(number): policy for number in policies}, {}, {}, (API,))],
        Trust(node_wide=True),
    )


class FullTables(MemoryTables):
    """Takes so many entries and no more."""

    room = 0

    def write_entries(self, policy_id: PolicyId, entries: "list[Entry] | tuple[Entry, ...]") -> None:  # type: ignore[override]
        if len(self.policy_rows) + len(entries) > self.room:
            raise OSError("full")
        super().write_entries(policy_id, entries)


def test_a_ready_identity_has_its_row_and_an_entry_in_every_policy() -> None:
    kernel = MemoryTables()
    identity = IdentityRows(kernel).ready(KEY, view(1, 2), 0.0)
    assert identity.ready
    assert list(kernel.identity_rows) == [identity.id]
    assert sorted(key[0] for key in kernel.policy_rows) == [1, 2]


def test_a_policy_that_comes_gets_entries_and_one_that_goes_loses_them() -> None:
    kernel = MemoryTables()
    rows = IdentityRows(kernel)
    rows.ready(KEY, view(1), 0.0)
    rows.add_policies(view(1, 2))
    assert sorted(key[0] for key in kernel.policy_rows) == [1, 2]
    rows.drop_policies(view(2))
    assert [key[0] for key in kernel.policy_rows] == [2]


def test_an_identity_is_not_ready_when_its_entries_did_not_fit() -> None:
    kernel = FullTables()
    kernel.room = 1
    rows = IdentityRows(kernel)
    with pytest.raises(OSError, match="full"):
        rows.ready(KEY, view(1, 2), 0.0)
    assert not rows.identities.obtain(KEY).ready
    kernel.room = 2
    assert rows.ready(KEY, view(1, 2), 0.0).ready
    assert len(kernel.policy_rows) == 2


def test_idle_identities_make_room_for_one_that_is_needed() -> None:
    kernel = FullTables()
    kernel.room = 1
    rows = IdentityRows(kernel)
    rows.ready((WORLD, frozenset({API.label, "fqdn:old.example.com"})), view(1), 0.0)
    assert rows.ready(KEY, view(1), 1.0).ready
    assert len(kernel.identity_rows) == 1


def test_an_idle_identity_goes_after_it_lingered() -> None:
    kernel = MemoryTables()
    rows = IdentityRows(kernel)
    rows.ready(KEY, view(1), 0.0)
    assert rows.collect(59.0, linger=60.0) == 0
    assert rows.collect(60.0, linger=60.0) == 1
    assert (kernel.identity_rows, kernel.policy_rows) == ({}, {})


def test_what_the_kernel_holds_is_taken_over_if_its_selectors_still_exist_and_swept_otherwise() -> None:
    kernel = MemoryTables()
    first = IdentityRows(kernel)
    kept = first.ready(KEY, view(1), 0.0)
    lost = first.ready((WORLD, frozenset({"fqdn:gone.example.com"})), view(1), 0.0)
    second = IdentityRows(kernel)
    unknown = second.adopt(view(1))
    assert unknown == [lost.id]
    assert second.ready(KEY, view(1), 0.0).id == kept.id
    second.sweep(unknown)
    assert list(kernel.identity_rows) == [kept.id]
    assert {key[2] for key in kernel.policy_rows} == {kept.id}
