# SPDX-License-Identifier: Apache-2.0
"""The typed tables, on real maps."""

import os
import select
import socket

import pytest

from l7bpf import events
from l7bpf.errors import MapFull
from l7bpf.flows import ConntrackEntry, ConntrackKey
from l7bpf.layouts import (
    METRIC_FORWARDED,
    AddressKey,
    Endpoint,
    FqdnIdentity,
    IpcacheEntry,
    IpcacheKey,
    ListenerKey,
    PolicyEntry,
    PolicyKey,
)
from l7bpf.maps import Maps


@pytest.fixture
def maps(node):
    node.clear()
    return node.maps


ROWS = {
    "endpoints": (7, Endpoint(70, 1007, 3, 1), Endpoint(71, 1007, 3, 3)),
    "endpoint_by_ifindex": (3, 7, 8),
    "endpoint_by_address": ("2001:db8::7", 7, 8),
    "ipcache": ("192.0.2.0/24", IpcacheEntry(5), IpcacheEntry(6)),
    "policy": (PolicyKey(70, 5, 0, 6, 80, 16), PolicyEntry(0, 0, 1, 9), PolicyEntry(1, 0, 255, 9)),
    "conntrack": (
        ConntrackKey("192.0.2.7", "198.51.100.1", 1, 2, 6),
        ConntrackEntry(1, 2, 3, 4, 0, 0, 0),
        ConntrackEntry(1, 2, 3, 4, 1, 1, 4),
    ),
    "fqdn_identities": (1 << 25, FqdnIdentity(2, (1, 2**64 - 1)), FqdnIdentity(5, ())),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_can_be_written_read_replaced_listed_and_removed(maps, name):
    table = getattr(maps, name)
    key, first, second = ROWS[name]
    assert table.get(key) is None
    table.update(key, first)
    assert table.get(key) == first
    table.update(key, second)
    assert table.get(key) == second
    assert list(table.items()) == [(key, second)]
    assert len(table) == 1
    assert table.delete(key)
    assert not table.delete(key)
    assert list(table.items()) == []


@pytest.mark.parametrize(
    ("prefix", "inside", "outside"),
    [
        ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
        ("192.0.2.7/32", "192.0.2.7", "192.0.2.8"),
        ("0.0.0.0/0", "203.0.113.1", "2001:db8::1"),
        ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
        ("::/0", "2001:db8::1", "192.0.2.1"),
        ("::/96", "::192.0.2.1", "192.0.2.1"),
    ],
)
def test_a_prefix_covers_its_addresses_of_its_family(maps, prefix, inside, outside):
    maps.ipcache.update(prefix, IpcacheEntry(9))
    assert maps.ipcache.get(inside) == IpcacheEntry(9)
    assert maps.ipcache.get(outside) is None
    assert list(maps.ipcache.items()) == [(prefix, IpcacheEntry(9))]


def test_the_longest_prefix_wins_and_its_removal_uncovers_the_next(maps):
    maps.ipcache.update("192.0.2.0/24", IpcacheEntry(1))
    maps.ipcache.update("192.0.2.128/25", IpcacheEntry(2))
    assert maps.ipcache.get("192.0.2.200") == IpcacheEntry(2)
    maps.ipcache.delete("192.0.2.128/25")
    assert maps.ipcache.get("192.0.2.200") == IpcacheEntry(1)


@pytest.mark.parametrize("name", ["conntrack", "fqdn_identities", "policy", "ipcache"])
def test_many_rows_are_listed_completely(maps, name):
    count = {"fqdn_identities": 250, "conntrack": 1500}.get(name, 3000)
    table = getattr(maps, name)
    written = {}
    for number in range(count):
        key, row, _ = ROWS[name]
        if name == "conntrack":
            key = ConntrackKey("192.0.2.7", "198.51.100.1", number, 80, 6)
        elif name == "fqdn_identities":
            key = number
        elif name == "policy":
            key = PolicyKey(number, 5, 0, 6, 80, 16)
        else:
            key = f"198.{18 + number // 256}.{number % 256}.0/24"
        table.update(key, row)
        written[key] = row
    listed = list(table.items())
    assert len(listed) == count
    assert dict(listed) == written


@pytest.mark.parametrize("name", ["ipcache", "policy", "fqdn_identities", "endpoint_by_ifindex"])
def test_a_full_table_says_which_and_keeps_what_it_has(maps, name):
    table = getattr(maps, name)
    make = {
        "ipcache": lambda n: (f"198.{n // 65536}.{n // 256 % 256}.{n % 256}", IpcacheEntry(1)),
        "policy": lambda n: (PolicyKey(n, 0, 0), PolicyEntry(0)),
        "fqdn_identities": lambda n: (n, FqdnIdentity(2, ())),
        "endpoint_by_ifindex": lambda n: (n, 1),
    }[name]
    for number in range(table.capacity):
        table.update(*make(number))
    with pytest.raises(MapFull, match=f"{name} is full") as full:
        table.update(*make(table.capacity))
    assert (full.value.table, full.value.capacity) == (name, table.capacity)
    assert table.get(make(0)[0]) is not None
    table.update(*make(0))  # a row that is there can still be replaced


def test_the_connection_table_never_is_full(maps):
    for number in range(maps.conntrack.capacity * 2):
        key = ConntrackKey("192.0.2.7", "198.51.100.1", number % 65536, number // 65536, 6)
        maps.conntrack.update(key, ConntrackEntry(0, 0, 0, 0, 0, 0, 0))
    assert 0 < len(maps.conntrack) <= maps.conntrack.capacity


def test_a_revision_is_seen_by_every_reader_at_once(maps, pins):
    with Maps.open(pins) as others:
        maps.config.update(41)
        assert (maps.config.revision, others.config.revision) == (41, 41)
        others.config.update(42)
        assert maps.config.revision == 42


def test_a_listener_leaves_with_its_socket(maps):
    key = ListenerKey(1, 4, 6, 3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        maps.listeners.update(key, server.fileno())
        assert maps.listeners.get(key)
        assert [found for found, _ in maps.listeners.items()] == [key]
    assert maps.listeners.get(key) is None
    assert list(maps.listeners.items()) == []


def test_only_a_socket_can_be_a_listener(maps):
    read, write = os.pipe()
    try:
        with pytest.raises(OSError, match="ocket"):
            maps.listeners.update(ListenerKey(1, 4, 6, 0), read)
    finally:
        os.close(read)
        os.close(write)


def test_counters_are_summed_over_the_processors(node, build):
    before = node.maps.metrics.get(METRIC_FORWARDED)
    packet = build.tcp(node.web, node.server, 1, 2)
    node.run("from_endpoint", packet, repeat=10)
    after = node.maps.metrics.get(METRIC_FORWARDED)
    assert (after.packets - before.packets, after.octets - before.octets) == (10, 10 * len(packet))
    assert METRIC_FORWARDED in dict(node.maps.metrics.items())
    assert len(node.maps.metrics) == len(dict(node.maps.metrics.items()))
    with pytest.raises(KeyError):
        node.maps.metrics.get(256)


def test_no_endpoint_has_the_id_that_means_none(maps):
    with pytest.raises(ValueError, match="not 0"):
        maps.endpoints.update(0, Endpoint(1, 2, 3, 0))


def test_events_are_drained_in_order_and_in_portions(node, build):
    node.enforce(web="egress")
    for port in range(1, 8):
        node.feed("from_endpoint", build.tcp(node.web, node.server, 40000, port))
    seen = [[event.destination_port for event in node.reader.drain(3)] for _ in range(4)]
    assert seen == [[1, 2, 3], [4, 5, 6], [7], []]


def test_the_ring_wakes_its_reader(node, build, pins):
    node.enforce(web="egress")
    with events.EventReader(pins) as reader, select.epoll() as poll:
        poll.register(reader.fileno(), select.EPOLLIN)
        assert poll.poll(0) == []
        node.feed("from_endpoint", build.tcp(node.web, node.server, 40000, 1))
        assert poll.poll(5)
        assert len(reader.drain()) == 1


def test_keys_can_be_written_in_any_spelling():
    assert AddressKey("2001:DB8:0::1").pack() == AddressKey("2001:db8::1").pack()
    assert IpcacheKey("192.0.2.1").pack() == IpcacheKey("192.0.2.1/32").pack()
