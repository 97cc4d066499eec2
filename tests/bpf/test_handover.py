# SPDX-License-Identifier: Apache-2.0
"""What one program has judged the other one of the node need not: whose packets those are, and that nobody forges them.

`BPF_PROG_TEST_RUN` does not set skb->tc_index, so here a mark never fits: tests/bpf/test_live.py has one that does.
"""

import pytest

from l7bpf.layouts import EVENT_TRACE, MARK_JUDGED

TCP = 6
NO_RULE = 133
ADDRESSES = {"ipv4": ("web", "db", "server"), "ipv6": ("web6", "db6", "server6")}


@pytest.fixture(params=ADDRESSES)
def names(node, request):
    """web, db and server, in both families; web may connect to port 80."""
    node.enforce(web="both")
    node.policy(70, "egress", 0, TCP, 80)
    return [getattr(node, name) for name in ADDRESSES[request.param]]


def begin(node, build, source, destination):
    assert node.run("from_endpoint", build.tcp(source, destination, 40000, 80)).passed


def answer(node, build, names, flags=None):
    flags = build.ACK if flags is None else flags
    return node.run("from_uplink", build.tcp(names[2], names[0], 80, 40000, flags))


class TestHandedOver:
    def test_an_answer_from_outside(self, node, build, names):
        begin(node, build, names[0], names[2])
        assert answer(node, build, names).handed_over

    def test_from_one_workload_to_another_and_back(self, node, build, names):
        web, db, _ = names
        begin(node, build, web, db)
        assert node.run("from_endpoint", build.tcp(web, db, 40000, 80, build.ACK)).handed_over
        back = build.tcp(db, web, 80, 40000, build.ACK)
        assert node.run("from_endpoint", back, ifindex=node.db_ifindex).handed_over


class TestJudgedAtBothPlaces:
    def test_what_begins_a_flow(self, node, build, names):
        assert not node.run("from_endpoint", build.tcp(names[0], names[1], 40000, 80)).handed_over
        node.policy(70, "ingress", 0, TCP, 8080)
        arriving = build.tcp(names[2], names[0], 40001, 8080)
        assert node.run("from_uplink", arriving).passed
        assert not node.run("from_uplink", arriving).handed_over

    @pytest.mark.parametrize("flags", ["SYN_ACK", "FIN", "RST"])
    def test_what_begins_or_ends_a_connection(self, node, build, names, flags):
        begin(node, build, names[0], names[2])
        result = answer(node, build, names, getattr(build, flags))
        assert result.passed
        assert not result.handed_over

    def test_the_first_packet_under_another_policy(self, node, build, names):
        begin(node, build, names[0], names[2])
        node.revision(2)
        assert not answer(node, build, names).handed_over
        assert answer(node, build, names).handed_over

    def test_what_goes_out(self, node, build, names):
        begin(node, build, names[0], names[2])
        assert not node.run("from_endpoint", build.tcp(names[0], names[2], 40000, 80, build.ACK)).handed_over

    def test_what_goes_to_a_proxy(self, node, build, names):
        node.policy(70, "egress", 0, TCP, 80, verdict="http")
        begin(node, build, names[0], names[2])
        result = node.run("from_endpoint", build.tcp(names[0], names[2], 40000, 80, build.ACK))
        assert result.mark == 0x200

    def test_fragments(self, node, build):
        node.enforce(web="egress")
        node.policy(70, "egress", 0, TCP, 80)
        begin(node, build, node.web, node.server)
        first = build.ip(node.server, node.web, TCP, build.tcp_header(80, 40000, build.ACK) + bytes(4), fragment=0x2000)
        result = node.run("from_uplink", first)
        assert result.passed
        assert not result.handed_over

    def test_everything_while_somebody_listens(self, node, build, names):
        begin(node, build, names[0], names[2])
        node.maps.config.observe(EVENT_TRACE, 2**63 - 1)
        assert not answer(node, build, names).handed_over


class TestForged:
    """db asks web, whose policy lets nobody in."""

    @pytest.fixture
    def packet(self, build, names):
        return build.tcp(names[1], names[0], 40000, 80, build.ACK)

    def test_a_workloads_mark_is_not_believed(self, node, packet):
        result = node.run("from_endpoint", packet, ifindex=node.db_ifindex, mark=MARK_JUDGED)
        assert result.reason == NO_RULE

    def test_a_mark_for_another_receiver_is_not(self, node, packet):
        result = node.run("to_endpoint", packet, ingress_ifindex=node.db_ifindex, mark=MARK_JUDGED)
        assert result.reason == NO_RULE

    def test_nor_one_of_the_nodes_own(self, node, packet):
        assert node.run("to_endpoint", packet, mark=MARK_JUDGED).reason == NO_RULE
