# SPDX-License-Identifier: Apache-2.0
"""Tables of flows and fragments that are full: what was evicted is judged anew, and counted."""

import dataclasses
import shutil
import struct

import pytest

from l7agent.evictions import Evictions
from l7bpf import compiler, loader, mapspecs
from l7bpf.flows import CONNTRACK_GUESSED, SECOND_NS, ConntrackKey
from l7bpf.layouts import LAYOUT

TCP, UDP = 6, 17
HASH = 1  # BPF_MAP_TYPE_HASH
TO_PROXY = 0x200
NO_RULE, FRAGMENT, CONNTRACK_FULL = 133, 157, 155
CLIENT = {"ipv4": ("web", "server"), "ipv6": ("web6", "server6")}


@pytest.fixture(params=CLIENT)
def ends(node, request):
    """web and the server, in both families; web may reach port 80 only, and nothing may reach web."""
    node.enforce(web="both")
    return [getattr(node, name) for name in CLIENT[request.param]]


def first_fragment(build, node, identifier):
    datagram = struct.pack(">HHHH", 4000, 80, 24, 0) + bytes(16)
    packet = bytearray(build.ip(node.web, node.server, UDP, datagram, fragment=1 << 13))
    struct.pack_into(">H", packet, 18, identifier)
    return bytes(packet)


def last_fragment(build, node, identifier):
    packet = bytearray(build.ip(node.web, node.server, UDP, bytes(8), fragment=3))
    struct.pack_into(">H", packet, 18, identifier)
    return bytes(packet)


@pytest.mark.parametrize(("verdict", "mark"), [("allow", 0), ("http", TO_PROXY)])
def test_a_connection_that_was_evicted_is_judged_again_and_goes_on_with_its_answers(node, build, ends, verdict, mark):
    web, server = ends
    rule = node.policy(70, "egress", 0, TCP, 80, verdict=verdict)
    mine = build.tcp(web, server, 40000, 80, build.ACK)
    theirs = build.tcp(server, web, 80, 40000, build.ACK)
    assert node.run("from_endpoint", build.tcp(web, server, 40000, 80)).mark == mark
    assert node.run("from_uplink", theirs).passed
    key = ConntrackKey(web, server, 40000, 80, TCP)
    node.maps.conntrack.delete(key)
    # The server's word alone begins nothing.
    assert node.run("from_uplink", theirs).reason == NO_RULE
    assert node.run("from_endpoint", mine).mark == mark
    assert node.run("from_uplink", theirs).mark == mark
    assert node.maps.conntrack.get(key).flags == CONNTRACK_GUESSED
    # And where policy no longer allows it, that was its end.
    node.maps.policy.delete(rule)
    node.maps.conntrack.delete(key)
    assert node.run("from_endpoint", mine).reason == NO_RULE


def test_what_a_workload_evicts_is_counted_and_nothing_else_is(node, build):
    node.enforce(web="both")
    web, server = node.web, node.server
    for port in (53, 80):
        node.policy(70, "egress", 0, UDP if port == 53 else TCP, port)
    table, evictions = node.maps.conntrack, Evictions(node.maps)

    def evicted():
        evictions.count("conntrack", len(table))
        return evictions.evicted["conntrack"]

    for _ in range(3):  # a SYN again is no other row
        assert node.run("from_endpoint", build.tcp(web, server, 40000, 80)).passed
    assert evicted() == 0
    # A guess that does not count any more is deleted, and made anew.
    assert node.run("from_endpoint", build.tcp(web, server, 40001, 80, build.ACK)).passed
    node.revision(2)
    assert node.run("from_endpoint", build.tcp(web, server, 40001, 80, build.ACK)).passed
    assert (evicted(), len(table)) == (0, 2)
    # What is swept away was not evicted.
    for key, row in list(table.items()):
        table.update(key, dataclasses.replace(row, last_seen_ns=(row.last_seen_ns - 61 * SECOND_NS) % 2**64))
    evictions.sweep()
    assert (evicted(), len(table), evictions.expired["conntrack"]) == (0, 0, 2)
    for _ in range(2):
        assert node.run("from_endpoint", build.tcp(web, server, 40000, 80)).passed
    # Flows of one packet push out each other, not those that went on.
    made, known = table.capacity + 500, ConntrackKey(web, server, 40000, 80, TCP)
    for number in range(made):
        assert node.feed("from_endpoint", build.udp(web, server, number + 1, 53)).value != 2
    assert evicted() == made + 1 - len(table)
    assert table.get(known) is not None
    # Flows of two do, after a while.
    for number in range(2 * made):
        assert node.feed("from_endpoint", build.udp(web, server, number + 1, 53), repeat=2).value != 2
    assert table.get(known) is None


def test_fragments_whose_first_was_evicted_are_dropped_where_policy_is_enforced(node, build):
    node.enforce(web="egress")
    node.policy(70, "egress", 0, UDP, 80)
    evictions = Evictions(node.maps)
    capacity = node.maps.fragments.capacity
    for identifier in range(3 * capacity):
        assert node.feed("from_endpoint", first_fragment(build, node, identifier)).value != 2
    assert node.run("from_endpoint", last_fragment(build, node, 0)).reason == FRAGMENT
    assert node.run("from_endpoint", last_fragment(build, node, 3 * capacity - 1)).passed
    evictions.count("fragments", len(node.maps.fragments))
    assert evictions.evicted["fragments"] == 3 * capacity - len(node.maps.fragments)


@pytest.fixture
def unyielding(node_of, bpf_folder, tmp_path, monkeypatch):
    """The datapath with a table of two flows that makes no room, as the kernel's may fail to under contention."""
    sources = tmp_path / "programs"
    shutil.copytree(compiler.programs_folder(), sources)
    monkeypatch.setattr(compiler, "programs_folder", lambda: sources)
    table = 'BPF_TABLE("{}", struct conntrack_key, struct conntrack_entry, conntrack, CONFIGURED)'
    text = (sources / "maps.h").read_text()
    assert table.format("lru_hash") in text
    (sources / "maps.h").write_text(text.replace(table.format("lru_hash"), table.format("hash")))
    monkeypatch.setitem(mapspecs.MAPS, "conntrack", dataclasses.replace(mapspecs.MAPS["conntrack"], type=HASH))
    pins = bpf_folder / "unyielding" / LAYOUT
    loader.load(pins, loader.Constants(max_conntrack=2))
    yield node_of(pins)
    shutil.rmtree(pins.parent)


def test_a_flow_that_cannot_be_remembered_is_dropped_with_a_reason(unyielding, build):
    node, web, server = unyielding, unyielding.web, unyielding.server
    node.enforce(web="both")
    node.policy(70, "egress", 0, TCP, 80)
    for port in (40000, 40001):
        assert node.run("from_endpoint", build.tcp(web, server, port, 80)).passed
    assert node.run("from_endpoint", build.tcp(web, server, 40002, 80)).reason == CONNTRACK_FULL
    assert node.run("from_uplink", build.tcp(server, web, 80, 40001, build.SYN_ACK)).passed
    node.maps.conntrack.delete(ConntrackKey(web, server, 40000, 80, TCP))
    assert node.run("from_endpoint", build.tcp(web, server, 40002, 80)).passed
