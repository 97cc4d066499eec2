# SPDX-License-Identifier: Apache-2.0
"""Learning over the kernel's own tables leaves in them what it leaves in tables in memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from l7bpf import bpffs, layouts, loader
from l7bpf.maps import Maps
from l7dns.addresses import address_bytes
from l7dns.kernel import PinnedTables
from l7dns.kerneltables import KernelTables, MemoryTables, entry_key
from l7dns.learner import Learner
from l7dns.namecache import Fact
from l7dns.view import Trust
from l7policy.ids import PolicyId, Revision
from l7policy.model import EndpointPolicy, FqdnPeer, Origin, Port, Rule, Snapshot
from l7policy.verdict import Direction, Protocol


@pytest.fixture
def maps(tmp_path: Path) -> Iterator[Maps]:
    """Tables of a datapath that is attached to nothing."""
    folder = tmp_path / "bpffs"
    assert bpffs.ensure(folder) == folder
    try:
        pins = folder / layouts.LAYOUT
        loader.load(pins, loader.Constants(max_conntrack=1024, max_ipcache=8, max_policy=64, max_fqdn_identities=16))
        with Maps.open(pins) as opened:
            yield opened
    finally:
        bpffs.unmount(folder)


def test_the_pinned_tables_hold_what_tables_in_memory_do(maps: Maps, tmp_path: Path) -> None:
    stars = FqdnPeer(match_pattern="*.example.com.")
    exact = FqdnPeer(match_name="a.example.com.")
    rules = tuple(
        Rule(Direction.EGRESS, Origin("p", f"egress[{number}]"), (peer,), (Port(Protocol.TCP, 8080, 8090),))
        for number, peer in enumerate((stars, exact))
    )
    snapshot = Snapshot(
        Revision(1), {PolicyId(4): EndpointPolicy(rules, enforce_egress=True)}, {}, {}, (stars, exact)
    )  # fmt: skip
    memory, pinned = MemoryTables(), PinnedTables(maps)

    def drive(tables: KernelTables, folder: Path) -> Learner:
        learner = Learner(tables, folder, linger=10.0, trust=Trust(node_wide=True))
        learner.restore(0.0)
        assert learner.prepare(snapshot, 0.0) == ""
        learner.commit(1, 0.0)
        assert learner.learn(Fact("a.example.com."), [address_bytes("203.0.113.1")], 60, 0.0) == ""
        assert (
            learner.learn(Fact("b.example.com."), [address_bytes("2001:db8::1"), address_bytes("203.0.113.2")], 30, 0.0)
            == ""
        )
        learner.expire(45.0)
        # One address is kept for a connection, which the datapath of this test knows nothing of.
        learner.release(frozenset({address_bytes("2001:db8::1")}), {}, 45.0)
        learner.expire(56.0)
        return learner

    def held(tables: KernelTables) -> tuple[object, object, object]:
        entries = {entry_key(policy_id, entry): entry for policy_id, entry in tables.entries()}
        return tables.identities(), entries, tables.ipcache()

    drive(memory, tmp_path / "memory")
    learner = drive(pinned, tmp_path / "pinned")
    assert held(pinned) == held(memory)
    assert memory.established.keys() == {address_bytes("203.0.113.2")}
    assert len(memory.ipcache_rows) == 2
    entry = maps.ipcache.get("203.0.113.1")
    assert entry is not None
    assert entry.identity == memory.ipcache_rows[address_bytes("203.0.113.1")]
    # A process that is killed and comes back finds the same; one that has lost its memory removes it.
    again = Learner(pinned, tmp_path / "pinned", trust=Trust(node_wide=True))
    again.restore(57.0)
    assert held(pinned) == held(memory)
    assert again.clients(again.kept()) == {}
    for one in (learner, again):
        one.release(one.kept(), {}, 57.0)
    memory.delete_ipcache(address_bytes("203.0.113.2"))
    # Nine addresses do not fit a table of eight: the answer is withheld, and nothing of it stays.
    many = [address_bytes(f"203.0.113.{last}") for last in range(10, 19)]
    assert "the kernel table ipcache is full" in learner.learn(Fact("c.example.com."), many, 60, 57.0)
    assert held(pinned)[2] == held(memory)[2]
    assert learner.learn(Fact("c.example.com."), many[:7], 60, 57.0) == ""
    assert maps.ipcache.get("203.0.113.16") is not None
    Learner(pinned, tmp_path / "elsewhere").restore(57.0)
    assert held(pinned) == ({}, {}, {})
