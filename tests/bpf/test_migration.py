# SPDX-License-Identifier: Apache-2.0
"""Rows of an older layout in the tables of this one: a real older layout, compiled from what its sources were."""

import os
import shutil

import pytest

from l7bpf import compiler, libbpf, loader, migration
from l7bpf.errors import DatapathError, MapFull
from l7bpf.flows import ConntrackEntry, ConntrackKey
from l7bpf.layouts import LAYOUT, U32, Endpoint, FqdnIdentity, IpcacheEntry, IpcacheKey, PolicyEntry, PolicyKey
from l7bpf.maps import Maps
from l7bpf.mapspecs import MAPS
from l7bpf.migration import Step

SMALL = loader.Constants(max_conntrack=64, max_ipcache=16, max_policy=16, max_fqdn_identities=16, max_event_bytes=4096)
FLOW = ConntrackKey("192.0.2.1", "198.51.100.5", 4000, 80, 6)
LATER = ConntrackKey("192.0.2.1", "198.51.100.5", 4001, 80, 6)
POLICY = PolicyKey(7, 50, 0, 6, 80, 16)


def write(pins, name, key, value):
    fd = libbpf.obj_get(pins / "maps" / name)
    libbpf.update(fd, key, value)
    os.close(fd)


@pytest.fixture
def folder(bpf_folder, request):
    made = bpf_folder / request.node.name.replace("[", "_").replace("]", "_")
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def old(folder, tmp_path, monkeypatch):
    """Layout v1, in which the keys of `policy` had no padding, with a row in every table."""
    sources = tmp_path / "programs"
    shutil.copytree(compiler.programs_folder(), sources)
    text = (sources / "maps.h").read_text()
    head, tail = text.split("struct policy_key {")
    body, rest = tail.split("};", 1)
    assert "u32 pad;" in body
    (sources / "maps.h").write_text(head + "struct policy_key {" + body.replace("u32 pad;", "") + "};" + rest)
    with monkeypatch.context() as patched:
        patched.setattr(compiler, "programs_folder", lambda: sources)
        patched.setattr(loader, "check_layout", lambda _: None)
        loader.load(folder / "v1", SMALL)
    pins = folder / "v1"
    write(pins, "policy", POLICY.pack()[:16], PolicyEntry(2, 1, 154, 5, 41, 42).pack())
    write(pins, "ipcache", IpcacheKey("198.51.100.0/24").pack(), IpcacheEntry(50).pack())
    write(pins, "endpoints", U32(1).pack(), Endpoint(7, 256, 3, 1).pack())
    write(pins, "fqdn_identities", U32(99).pack(), FqdnIdentity(2, (8,)).pack())
    write(pins, "conntrack", FLOW.pack(), ConntrackEntry(1, 2, 3, 4, 1, 0, 0).pack())
    write(pins, "config", U32(0).pack(), bytes([9]) + bytes(15))
    return pins


@pytest.fixture
def new(folder, old):
    pins = folder / LAYOUT
    loader.load(pins, SMALL)
    return pins


def test_every_row_is_there_as_this_version_reads_it(old, new):
    assert migration.older(new) == [old]
    copied = migration.copy(old, new)
    assert {name: count for name, count in copied.items() if count} == {
        "policy": 1, "ipcache": 1, "endpoints": 1, "fqdn_identities": 1, "conntrack": 1, "config": 1,
    }  # fmt: skip
    with Maps.open(new) as maps:
        assert maps.policy.get(POLICY) == PolicyEntry(2, 1, 154, 5, 41, 42)
        assert dict(maps.ipcache.items()) == {"198.51.100.0/24": IpcacheEntry(50)}
        assert dict(maps.endpoints.items()) == {1: Endpoint(7, 256, 3, 1)}
        assert maps.fqdn_identities.get(99) == FqdnIdentity(2, (8,))
        assert maps.conntrack.get(FLOW).revision == 4
        assert maps.config.revision == 9


def test_a_copy_that_was_cut_short_is_begun_again(old, new):
    with Maps.open(new) as maps:
        maps.policy.update(POLICY, PolicyEntry(1))
        migration.copy(old, new)
        migration.copy(old, new)
        assert maps.policy.get(POLICY).verdict == 2
        assert len(list(maps.policy.items())) == 1


def test_flows_that_began_meanwhile_follow_and_those_that_went_on_are_left(old, new):
    migration.copy(old, new)
    write(old, "conntrack", LATER.pack(), ConntrackEntry(1, 2, 3, 4, 0, 0, 0).pack())
    with Maps.open(new) as maps:
        maps.conntrack.update(FLOW, ConntrackEntry(7, 7, 7, 7, 1, 0, 0))
        migration.follow(old, new)
        assert maps.conntrack.get(FLOW).packets == 7
        assert maps.conntrack.get(LATER).packets == 2


def test_a_layout_that_no_steps_lead_from_is_not_copied(old, new):
    assert migration.copy(old, new, steps=()) is None
    assert migration.follow(old, new, steps=()) == 0


def test_steps_are_gone_one_after_the_other_and_may_leave_rows_behind(old, new):
    steps = (
        Step("v1", "v9", {"policy": (16, 32)}, {"policy": lambda key, value: (key + bytes(4), value)}),
        Step("v9", LAYOUT, {}, {"ipcache": lambda _key, _value: None}),
    )
    copied = migration.copy(old, new, steps)
    assert (copied["policy"], copied["ipcache"]) == (1, 0)


def test_what_does_not_fit_is_told(old, folder):
    write(old, "policy", PolicyKey(8, 50, 0, 6, 80, 16).pack()[:16], PolicyEntry(0).pack())
    pins = folder / LAYOUT
    loader.load(pins, loader.Constants(**{**{f: getattr(SMALL, f) for f in SMALL.__slots__}, "max_policy": 1}))
    with pytest.raises(MapFull, match="policy"):
        migration.copy(old, pins)


def test_a_folder_that_is_not_what_its_name_says_is_refused(old, new):
    (old / "maps/policy").unlink()
    fd = libbpf.obj_get(new / "maps/policy")
    libbpf.obj_pin(fd, old / "maps/policy")
    os.close(fd)
    with pytest.raises(DatapathError, match="not as v1 had it"):
        migration.copy(old, new)


def test_removed_is_removed(old, new):
    migration.remove(old)
    assert migration.older(new) == []
    assert not old.exists()


def test_every_table_that_outlives_an_upgrade_is_copied_or_begins_anew_on_purpose():
    anew = {"cgroup_endpoints", "uplinks", "fragments", "listeners", "event_budget", "metrics", "events", "passed"}
    assert set(migration.TABLES) | anew == set(MAPS)
