# SPDX-License-Identifier: Apache-2.0
"""How long a flow is remembered, what ends it, and who sweeps up behind it."""

import dataclasses
import time

import pytest

from l7bpf.flows import CONNTRACK_ANSWERED, CONNTRACK_GUESSED, CONNTRACK_RESET, SECOND_NS, ConntrackEntry, ConntrackKey
from l7bpf.hostflows import HOST_SIDE_DENIED, HostFlow, HostSide
from l7bpf.layouts import IpcacheEntry, PolicyKey
from l7bpf.reached import reached

TCP, UDP = 6, 17
TO_PROXY = 0x200
NO_RULE, DENY_RULE = 133, 181
ADDRESSES = {"ipv4": ("web", "db", "server"), "ipv6": ("web6", "db6", "server6")}


@pytest.fixture(params=ADDRESSES)
def names(node, request):
    """web, db and server, in both families."""
    return [getattr(node, name) for name in ADDRESSES[request.param]]


def send(node, packet, **options):
    return node.run("from_endpoint", packet, **options)


def arrive(node, packet):
    return node.run("from_uplink", packet)


def ago(now, seconds):
    """The clock may not have come so far yet: then it wraps round, as in C."""
    return (now - seconds * SECOND_NS) % 2**64


def age(node, key, seconds):
    """As if the flow had been silent for so long."""
    row = node.maps.conntrack.get(key)
    node.maps.conntrack.update(key, dataclasses.replace(row, last_seen_ns=ago(row.last_seen_ns, seconds)))


class TestConnection:
    """web may connect to the server's port 80 until the rule is taken away without a new revision: from then on only
    what is remembered passes, so that a packet tells whether it still is."""

    @pytest.fixture
    def flow(self, node, build, names):
        web, _, server = names
        node.enforce(web="both")
        rule = node.policy(70, "egress", 0, TCP, 80)
        assert send(node, build.tcp(web, server, 40000, 80)).passed
        node.maps.policy.delete(rule)
        return ConntrackKey(web, server, 40000, 80, TCP)

    def mine(self, node, build, names, flags):
        return send(node, build.tcp(names[0], names[2], 40000, 80, flags)).passed

    def theirs(self, node, build, names, flags):
        return arrive(node, build.tcp(names[2], names[0], 80, 40000, flags)).passed

    def test_without_an_answer_it_lasts_a_minute(self, node, build, names, flow):
        age(node, flow, 50)
        assert self.mine(node, build, names, build.ACK)
        assert node.maps.conntrack.get(flow).state == 0
        age(node, flow, 61)
        assert not self.mine(node, build, names, build.ACK)

    def test_answered_it_lasts_for_hours_of_silence(self, node, build, names, flow):
        assert self.theirs(node, build, names, build.SYN_ACK)
        assert node.maps.conntrack.get(flow).state == CONNTRACK_ANSWERED
        age(node, flow, 7900)
        assert self.mine(node, build, names, build.ACK)
        age(node, flow, 8001)
        assert not self.mine(node, build, names, build.ACK)

    def test_one_fin_leaves_the_other_half_open(self, node, build, names, flow):
        assert self.theirs(node, build, names, build.SYN_ACK)
        assert self.mine(node, build, names, build.FIN)
        age(node, flow, 600)
        assert self.theirs(node, build, names, build.ACK)

    def test_both_fins_end_it_soon(self, node, build, names, flow):
        assert self.theirs(node, build, names, build.SYN_ACK)
        assert self.mine(node, build, names, build.FIN)
        assert self.theirs(node, build, names, build.FIN)
        assert self.mine(node, build, names, build.ACK)
        age(node, flow, 11)
        assert not self.theirs(node, build, names, build.ACK)

    @pytest.mark.parametrize("side", ["mine", "theirs"])
    def test_a_reset_of_either_side_ends_it_soon(self, node, build, names, flow, side):
        assert self.theirs(node, build, names, build.SYN_ACK)
        assert getattr(self, side)(node, build, names, build.RST)
        assert node.maps.conntrack.get(flow).state & CONNTRACK_RESET
        age(node, flow, 11)
        assert not self.mine(node, build, names, build.ACK)

    def test_a_new_syn_on_the_same_ports_starts_over(self, node, build, names, flow):
        node.policy(70, "egress", 0, TCP, 80)
        assert self.theirs(node, build, names, build.RST)
        assert send(node, build.tcp(names[0], names[2], 40000, 80)).passed
        assert node.maps.conntrack.get(flow).state == 0


def test_a_proxied_connection_counts_as_answered_when_the_client_goes_on(node, build, names):
    """The proxy's answers do not cross a program that would see them."""
    web, _, server = names
    node.enforce(web="egress")
    node.policy(70, "egress", 0, TCP, 80, verdict="http")
    key = ConntrackKey(web, server, 40000, 80, TCP)
    assert send(node, build.tcp(web, server, 40000, 80)).mark == TO_PROXY
    assert node.maps.conntrack.get(key).state == 0
    assert send(node, build.tcp(web, server, 40000, 80, build.ACK)).mark == TO_PROXY
    assert node.maps.conntrack.get(key).state == CONNTRACK_ANSWERED


class TestMetHalfWay:
    """A connection that is older than the datapath's memory of it."""

    def test_who_spoke_first_is_no_excuse_under_a_later_policy(self, node, build, names):
        web, _, server = names
        assert arrive(node, build.tcp(server, web, 80, 40000, build.ACK)).passed
        assert node.maps.conntrack.get(ConntrackKey(server, web, 80, 40000, TCP)).flags == CONNTRACK_GUESSED
        assert send(node, build.tcp(web, server, 40000, 80, build.ACK)).passed
        node.enforce(web="egress")
        node.revision(2)
        assert send(node, build.tcp(web, server, 40000, 80, build.ACK)).reason == NO_RULE
        assert arrive(node, build.tcp(server, web, 80, 40000, build.ACK)).passed
        assert send(node, build.tcp(web, server, 40000, 80, build.ACK)).reason == NO_RULE
        assert len(node.maps.conntrack) == 0

    def test_nor_the_other_way_round(self, node, build, names):
        web, _, server = names
        assert send(node, build.tcp(web, server, 80, 40000, build.ACK)).passed
        assert arrive(node, build.tcp(server, web, 40000, 80, build.ACK)).passed
        node.enforce(web="ingress")
        node.revision(2)
        assert arrive(node, build.tcp(server, web, 40000, 80, build.ACK)).reason == NO_RULE

    def test_it_goes_on_where_the_later_policy_lets_it(self, node, build, names):
        web, _, server = names
        assert arrive(node, build.tcp(server, web, 80, 40000, build.ACK)).passed
        node.enforce(web="egress")
        node.policy(70, "egress", 0, TCP, 80)
        node.revision(2)
        assert send(node, build.tcp(web, server, 40000, 80, build.ACK)).passed
        assert arrive(node, build.tcp(server, web, 80, 40000, build.ACK)).passed
        assert node.maps.conntrack.get(ConntrackKey(web, server, 40000, 80, TCP)).flags == CONNTRACK_GUESSED

    def test_a_connection_that_was_seen_to_begin_keeps_its_side(self, node, build, names):
        web, _, server = names
        assert arrive(node, build.tcp(server, web, 40000, 80)).passed
        node.enforce(web="egress")
        node.revision(2)
        assert send(node, build.tcp(web, server, 80, 40000, build.SYN_ACK)).passed


class TestNameThatIsOver:
    """The server's name is over: new flows find the world there, those that have begun what its name opened."""

    NAMED = 1 << 25

    @pytest.fixture
    def over(self, node, build, names):
        web, _, server = names
        node.enforce(web="egress")
        node.maps.ipcache.update(server, IpcacheEntry(self.NAMED))
        for protocol, port in ((TCP, 80), (UDP, 443)):
            node.policy(70, "egress", self.NAMED, protocol, port)
        assert send(node, build.tcp(web, server, 40000, 80)).passed
        assert send(node, build.udp(web, server, 40000, 443)).passed
        node.maps.ipcache.update(server, IpcacheEntry(node.WORLD, self.NAMED))
        node.revision(2)

    def test_connections_go_on_under_every_revision_and_new_ones_are_refused(self, node, build, names, over):
        web, _, server = names
        for revision in (2, 3):
            node.revision(revision)
            assert send(node, build.tcp(web, server, 40000, 80, build.ACK)).passed
            assert arrive(node, build.tcp(server, web, 80, 40000, build.ACK)).passed
            assert send(node, build.udp(web, server, 40000, 443)).passed
            for packet in (
                build.tcp(web, server, 40001, 80),
                build.tcp(web, server, 40001, 80, build.ACK),
                build.udp(web, server, 40001, 443),
            ):
                assert send(node, packet).reason == NO_RULE

    def test_a_syn_on_the_ports_of_a_connection_begins_a_new_one(self, node, build, names, over):
        web, _, server = names
        assert send(node, build.tcp(web, server, 40000, 80)).reason == NO_RULE

    def test_what_its_name_no_longer_opens_ends(self, node, build, names, over):
        web, _, server = names
        node.maps.policy.delete(PolicyKey(70, self.NAMED, 0, TCP, 80, 16))
        assert send(node, build.tcp(web, server, 40000, 80, build.ACK)).reason == NO_RULE

    def test_the_flows_that_lead_there_can_be_told(self, node, build, names, over):
        web, _, server = names
        stranger = "2001:db8::99" if ":" in server else "198.51.100.99"

        def clients():
            return reached(node.maps, [server, stranger], time.clock_gettime_ns(time.CLOCK_MONOTONIC))

        assert clients() == {server: {web}}
        node.maps.conntrack.delete(ConntrackKey(web, server, 40000, 443, UDP))
        assert clients() == {server: {web}}
        key = ConntrackKey(web, server, 40000, 80, TCP)
        age(node, key, 61)
        assert clients() == {}
        row = node.maps.conntrack.get(key)
        node.maps.conntrack.update(key, dataclasses.replace(row, last_seen_ns=row.last_seen_ns + 61 * SECOND_NS))
        assert clients() == {server: {web}}
        # Those of the node's own processes count, too.
        now = row.last_seen_ns + 61 * SECOND_NS
        other = ConntrackKey(node.node, server, 40000, 80, TCP) if ":" not in server else key
        for side, found in ((HostSide(1, 9), {web, other.source}), (HostSide(1, 9, HOST_SIDE_DENIED), {web})):
            node.maps.host_flows.update(other, HostFlow(now, 1, 60, side, HostSide(), 0, 0, 0))
            assert clients() == {server: found}
        # What was refused is no connection.
        node.maps.policy.delete(PolicyKey(70, self.NAMED, 0, TCP, 80, 16))
        assert send(node, build.tcp(web, server, 40000, 80, build.ACK)).reason == NO_RULE
        assert clients() == {}


class TestDeniedAnswer:
    """A datagram that no ingress policy let in does not open what an egress rule denies."""

    @pytest.fixture
    def denied(self, node):
        node.enforce(web="egress")
        node.policy(70, "egress", 0)
        node.policy(70, "egress", node.SERVER_IDENTITY, verdict="deny", cookie=9)
        return node

    @pytest.mark.parametrize("kind", ["udp", "icmp"])
    def test_the_workload_does_not_answer(self, denied, build, names, kind):
        node, (web, _, server) = denied, names
        six = ":" in web
        if kind == "udp":
            question, answer = build.udp(server, web, 40000, 5302), build.udp(web, server, 5302, 40000)
        else:
            question = build.icmp(server, web, 128 if six else 8, 7)
            answer = build.icmp(web, server, 129 if six else 0, 7)
        assert arrive(node, question).passed
        assert len(node.maps.conntrack) == 0
        result = send(node, answer)
        assert (result.reason, result.events[0].cookie) == (DENY_RULE, 9)

    def test_an_older_flow_ends_with_the_rule(self, node, build, names):
        web, _, server = names
        assert arrive(node, build.udp(server, web, 40000, 5302)).passed
        assert send(node, build.udp(web, server, 5302, 40000)).passed
        node.enforce(web="egress")
        node.policy(70, "egress", node.SERVER_IDENTITY, verdict="deny")
        node.revision(2)
        for _ in range(2):
            assert send(node, build.udp(web, server, 5302, 40000)).reason == DENY_RULE
        assert len(node.maps.conntrack) == 0

    def test_where_an_ingress_rule_let_it_in_it_is_answered(self, denied, build, names):
        node, (web, _, server) = denied, names
        node.enforce(web="both")
        node.policy(70, "ingress", 0, UDP, 5302)
        assert arrive(node, build.udp(server, web, 40000, 5302)).passed
        assert send(node, build.udp(web, server, 5302, 40000)).passed

    def test_others_are_answered(self, denied, build, names):
        node, (web, db, _) = denied, names
        assert send(node, build.udp(db, web, 40000, 5302), ifindex=node.db_ifindex).passed
        assert send(node, build.udp(web, db, 5302, 40000)).passed


class TestSweep:
    def keys(self, node, count, protocol=UDP):
        return [ConntrackKey(node.web, node.server, 1000 + number, 80, protocol) for number in range(count)]

    def test_flows_that_are_over_go_and_the_others_stay(self, node):
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        table = node.maps.conntrack
        rows = {
            "fresh": (UDP, 1, 0),
            "silent": (UDP, 61, 0),
            "begun": (TCP, 50, 0),
            "unanswered": (TCP, 61, 0),
            "long": (TCP, 7000, CONNTRACK_ANSWERED),
            "reset": (TCP, 11, CONNTRACK_ANSWERED | CONNTRACK_RESET),
        }
        keys = {}
        for number, (name, (protocol, silent, state)) in enumerate(rows.items()):
            keys[name] = ConntrackKey(node.web, node.server, 1000 + number, 80, protocol)
            table.update(keys[name], ConntrackEntry(ago(now, silent), 1, 1, 1, 0, 0, 0, state))
        swept = table.sweep()
        assert (swept.alive, swept.expired) == (3, 3)
        assert {name for name, key in keys.items() if table.get(key)} == {"fresh", "begun", "long"}

    def test_a_table_full_of_dead_flows_is_empty_afterwards(self, node):
        table, now = node.maps.conntrack, time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        for key in self.keys(node, 2000):
            table.update(key, ConntrackEntry(ago(now, 99), 1, 1, 1, 0, 0, 0))
        met = len(table)  # an LRU hash may evict before it is full
        assert met > 1000
        assert table.sweep().expired == met
        assert len(table) == 0

    def test_a_flow_that_lives_again_meanwhile_is_put_back(self, node, monkeypatch):
        table = node.maps.conntrack
        (key,) = self.keys(node, 1)
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        dead, renewed = ConntrackEntry(ago(now, 99), 1, 1, 1, 0, 0, 0), ConntrackEntry(now, 2, 2, 1, 0, 0, 0)
        monkeypatch.setattr(table, "_rows", lambda: iter([(key.pack(), dead.pack())]))
        table.update(key, renewed)
        assert table.sweep().alive == 1
        assert table.get(key) == renewed


class TestBegunFromBothSides:
    """web has connected to the server through a proxy, or no longer may; then the server begins the same connection.

    web takes a port below the server's, so that its packets look like answers."""

    @pytest.fixture
    def packet(self, node, build, names):
        """web's next one."""
        node.enforce(web="egress")
        return build.tcp(names[0], names[2], 79, 8080, build.ACK)

    def begin(self, node, build, names):
        assert send(node, build.tcp(names[0], names[2], 79, 8080)).passed

    def begin_in_reverse(self, node, build, names):
        assert arrive(node, build.tcp(names[2], names[0], 8080, 79)).passed
        assert len(node.maps.conntrack) == 2

    def test_what_the_workload_sends_stays_with_its_proxy(self, node, build, names, packet):
        node.policy(70, "egress", 0, TCP, 8080, verdict="http")
        self.begin(node, build, names)
        self.begin_in_reverse(node, build, names)
        assert send(node, packet).mark == TO_PROXY

    def test_what_was_denied_stays_denied(self, node, build, names, packet):
        rule = node.policy(70, "egress", 0, TCP, 8080)
        self.begin(node, build, names)
        node.maps.policy.delete(rule)
        node.revision(2)
        assert send(node, packet).reason == NO_RULE
        self.begin_in_reverse(node, build, names)
        assert send(node, packet).reason == NO_RULE
