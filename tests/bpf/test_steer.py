# SPDX-License-Identifier: Apache-2.0
"""Which listener gets a flow: the sk_lookup program, with real sockets."""

import socket
import struct

import pytest

from l7bpf import libbpf
from l7bpf.flows import ConntrackEntry, ConntrackKey
from l7bpf.layouts import ListenerKey

TCP, UDP, HTTP, DNS = 6, 17, 1, 2
SK_DROP, SK_PASS = 0, 1
PROXY_UNAVAILABLE = 200


def look_up(node, source, destination, sport, dport, protocol=TCP):
    """Verdict, and the cookie of the socket that was chosen (0: none)."""
    v6 = ":" in source
    family = socket.AF_INET6 if v6 else socket.AF_INET
    remote, local = (socket.inet_pton(family, address) for address in (source, destination))
    none4, none6 = bytes(4), bytes(16)
    context = struct.pack(
        "=QII4s16sHH4s16sII4x",
        0,
        family,
        protocol,
        none4 if v6 else remote,
        remote if v6 else none6,
        socket.htons(sport),
        0,
        none4 if v6 else local,
        local if v6 else none6,
        dport,
        0,
    )
    ran = node.namespace(libbpf.run_program, node.programs["steer"], None, context, 1)
    return ran.value, struct.unpack_from("=Q", ran.context)[0]


def remember(node, source, destination, sport, dport, protocol=TCP, proxy=HTTP):
    key = ConntrackKey(source, destination, sport, dport, protocol)
    node.maps.conntrack.update(key, ConntrackEntry(0, 1, 1, 1, proxy, 0, 0))


@pytest.fixture
def listener(node):
    """Makes sockets as the proxies do, in the datapath's namespace, and registers them."""
    made = []

    def make(proxy, family, protocol, slot=0):
        kind = socket.SOCK_STREAM if protocol == TCP else socket.SOCK_DGRAM
        new = node.namespace(socket.socket, socket.AF_INET6 if family == 6 else socket.AF_INET, kind)
        made.append(new)
        new.bind(("::" if family == 6 else "0.0.0.0", 0))
        if protocol == TCP:
            new.listen()
        node.maps.listeners.update(ListenerKey(proxy, family, protocol, slot), new.fileno())
        return new, struct.unpack("=Q", new.getsockopt(socket.SOL_SOCKET, 57, 8))[0]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize(("protocol", "proxy"), [(TCP, HTTP), (TCP, DNS), (UDP, DNS)])
@pytest.mark.parametrize("family", [4, 6])
def test_a_flow_gets_the_listener_of_its_proxy_family_and_protocol(node, listener, protocol, proxy, family):
    cookies = {(p, f, t): listener(p, f, t)[1] for p, t in ((HTTP, TCP), (DNS, TCP), (DNS, UDP)) for f in (4, 6)}
    web, server = (node.web, node.server) if family == 4 else (node.web6, node.server6)
    remember(node, web, server, 40000, 80, protocol, proxy)
    assert look_up(node, web, server, 40000, 80, protocol) == (SK_PASS, cookies[proxy, family, protocol])


def test_other_flows_are_left_to_the_kernel(node, listener):
    listener(HTTP, 4, TCP)
    remember(node, node.web, node.server, 40000, 80, proxy=0)
    assert look_up(node, node.web, node.server, 40000, 80) == (SK_PASS, 0)
    assert look_up(node, node.web, node.server, 40000, 81) == (SK_PASS, 0)


def test_the_first_slot_that_lives_is_taken(node, listener):
    first, first_cookie = listener(HTTP, 4, TCP, slot=1)
    _, second_cookie = listener(HTTP, 4, TCP, slot=7)
    remember(node, node.web, node.server, 40000, 80)
    assert look_up(node, node.web, node.server, 40000, 80) == (SK_PASS, first_cookie)
    first.close()
    assert look_up(node, node.web, node.server, 40000, 80) == (SK_PASS, second_cookie)


def test_without_a_listener_the_flow_is_refused_and_reported(node):
    remember(node, node.web6, node.server6, 40000, 80)
    assert look_up(node, node.web6, node.server6, 40000, 80) == (SK_DROP, 0)
    (event,) = node.reader.drain()
    assert (event.reason, event.endpoint_id, event.direction) == (PROXY_UNAVAILABLE, node.WEB, 0)
    assert (event.source, event.destination, event.source_port, event.destination_port) == (
        node.web6,
        node.server6,
        40000,
        80,
    )


def test_a_flow_towards_a_workload_is_reported_as_its_ingress(node):
    remember(node, node.stranger, node.db, 40000, 80)
    assert look_up(node, node.stranger, node.db, 40000, 80) == (SK_DROP, 0)
    (event,) = node.reader.drain()
    assert (event.endpoint_id, event.direction) == (node.DB, 1)
