# SPDX-License-Identifier: Apache-2.0
"""Datagrams to a workload from a port that its own datagrams reach through a proxy only.

Remembered as a flow, one of them would turn whatever the workload sends there into an answer.
"""

import pytest

from l7bpf.flows import ConntrackKey

TCP, UDP, SCTP = 6, 17, 132
TO_PROXY = 0x200
NO_RULE, REDIRECT_IMPOSSIBLE = 133, 201
ELSEWHERE = 1
ADDRESSES = {"ipv4": ("web", "db", "server", "node"), "ipv6": ("web6", "db6", "server6", "node6")}


@pytest.fixture(params=ADDRESSES)
def names(node, request):
    """web, db, server and node, in both families."""
    return [getattr(node, name) for name in ADDRESSES[request.param]]


@pytest.fixture
def asks_by_proxy(node):
    """web may ask anybody's port 53, through the DNS proxy, and nothing else."""
    node.enforce(web="egress")
    for protocol in (TCP, UDP):
        node.policy(70, "egress", 0, protocol, 53, verdict="dns")
    return node


def entry(node, source, destination, sport, dport, protocol=UDP):
    return node.maps.conntrack.get(ConntrackKey(source, destination, sport, dport, protocol))


def send(node, packet, **options):
    return node.run("from_endpoint", packet, **options)


class TestFromAPortBehindAProxy:
    def test_it_is_delivered_and_the_workload_still_asks_the_proxy(self, asks_by_proxy, build, names):
        node, (web, _, server, _) = asks_by_proxy, names
        forged, question = build.udp(server, web, 53, 5302), build.udp(web, server, 5302, 53)
        for _ in range(2):
            assert node.run("from_uplink", forged).mark == 0
            assert node.run("to_endpoint", forged, ingress_ifindex=ELSEWHERE).passed
            assert len(node.maps.conntrack) == 0
        assert send(node, question).mark == TO_PROXY
        assert entry(node, web, server, 5302, 53).proxy == 2
        assert node.run("from_uplink", forged).mark == TO_PROXY  # now it does look like an answer
        assert send(node, question).mark == TO_PROXY

    def test_ingress_policy_that_names_the_peer_is_no_leave_to_ask_it(self, asks_by_proxy, build, names):
        node, (web, _, server, _) = asks_by_proxy, names
        node.enforce(web="both")
        node.policy(70, "ingress", node.SERVER_IDENTITY, UDP, 5302)
        assert node.run("from_uplink", build.udp(server, web, 53, 5302)).passed
        assert send(node, build.udp(web, server, 5302, 53)).mark == TO_PROXY
        assert node.run("from_uplink", build.udp(server, web, 53, 5303)).reason == NO_RULE

    def test_another_workload_opens_no_way_either(self, asks_by_proxy, build, names):
        node, (web, db, *_) = asks_by_proxy, names
        datagram = build.udp(db, web, 53, 5302)
        assert send(node, datagram, ifindex=node.db_ifindex).passed
        assert node.run("to_endpoint", datagram, ingress_ifindex=node.db_ifindex).passed
        assert len(node.maps.conntrack) == 0
        assert send(node, build.udp(web, db, 5302, 53)).mark == TO_PROXY

    def test_nor_does_the_node(self, asks_by_proxy, build, names):
        node, (web, _, _, host) = asks_by_proxy, names
        assert node.run("to_endpoint", build.udp(host, web, 53, 5302)).passed
        assert len(node.maps.conntrack) == 0
        assert send(node, build.udp(web, host, 5302, 53)).mark == TO_PROXY

    def test_the_strongest_entry_of_the_peer_counts(self, node, build, names):
        """As it would for the question."""
        web, _, server, _ = names
        node.enforce(web="egress")
        node.policy(70, "egress", 0, UDP, 53, verdict="dns")
        node.policy(70, "egress", node.SERVER_IDENTITY, UDP, 53, precedence=300)
        assert node.run("from_uplink", build.udp(server, web, 53, 5302)).passed
        assert entry(node, server, web, 53, 5302) is not None

    def test_a_flow_that_goes_to_a_proxy_itself_is_remembered(self, asks_by_proxy, build, names):
        """Else no listener would be found for it. Answers go to the same proxy."""
        node, (web, _, server, _) = asks_by_proxy, names
        node.enforce(web="both")
        node.policy(70, "ingress", 0, UDP, 53, verdict="dns")
        assert node.run("from_uplink", build.udp(server, web, 53, 53)).mark == TO_PROXY
        assert entry(node, server, web, 53, 53).proxy == 2
        assert send(node, build.udp(web, server, 53, 53)).mark == TO_PROXY

    def test_a_connection_is_the_clients_whatever_its_port(self, asks_by_proxy, build, names):
        node, (web, _, server, _) = asks_by_proxy, names
        assert node.run("from_uplink", build.tcp(server, web, 53, 5302)).passed
        assert send(node, build.tcp(web, server, 5302, 53, build.SYN_ACK)).mark == 0
        assert send(node, build.tcp(web, server, 5302, 53)).mark == TO_PROXY


class TestServer:
    @pytest.mark.parametrize("enforced", ["egress", "both"])
    def test_it_answers_clients_that_it_may_not_call(self, asks_by_proxy, build, names, enforced):
        node, (web, db, server, host) = asks_by_proxy, names
        node.enforce(web=enforced)
        node.policy(70, "ingress", 0, UDP, 5302)
        assert node.run("from_uplink", build.udp(server, web, 40000, 5302)).passed
        assert send(node, build.udp(db, web, 40000, 5302), ifindex=node.db_ifindex).passed
        assert node.run("to_endpoint", build.udp(host, web, 40000, 5302)).passed
        for client in (server, db, host):
            answer = send(node, build.udp(web, client, 5302, 40000))
            assert (answer.passed, answer.mark) == (True, 0)
            assert send(node, build.udp(web, client, 5302, 40001)).reason == NO_RULE

    def test_it_answers_port_53_where_no_proxy_is_for_it(self, node, build, names):
        web, _, server, _ = names
        for enforced in ("", "egress"):
            node.enforce(web=enforced)
            assert node.run("from_uplink", build.udp(server, web, 53, 5302)).passed
            assert send(node, build.udp(web, server, 5302, 53)).passed

    def test_sctp_answers_too(self, asks_by_proxy, build, names):
        node, (web, _, server, _) = asks_by_proxy, names
        init = bytes.fromhex("0035 14b6 00000000 00000000")
        answer = bytes.fromhex("14b6 0035 00000000 00000000")
        assert node.run("from_uplink", build.ip(server, web, SCTP, init)).passed
        assert send(node, build.ip(web, server, SCTP, answer)).passed


class TestRevision:
    """A flow that was harmless under the policy that it was remembered for."""

    @pytest.fixture
    def remembered(self, node, build, names):
        web, _, server, _ = names
        assert node.run("from_uplink", build.udp(server, web, 53, 5302)).passed
        assert send(node, build.udp(web, server, 5302, 53)).mark == 0
        node.enforce(web="egress")
        node.policy(70, "egress", 0, UDP, 53, verdict="dns")
        node.revision(2)
        return build.udp(server, web, 53, 5302), build.udp(web, server, 5302, 53)

    def test_the_workloads_next_datagram_is_the_last_that_it_makes_an_answer(self, node, names, remembered):
        web, _, server, _ = names
        _, question = remembered
        lost = send(node, question)
        assert (lost.reason, lost.events[0].endpoint_id) == (REDIRECT_IMPOSSIBLE, node.WEB)
        assert len(node.maps.conntrack) == 0
        assert send(node, question).mark == TO_PROXY
        assert entry(node, web, server, 5302, 53).proxy == 2

    def test_the_peers_next_datagram_ends_it_too(self, node, remembered):
        datagram, question = remembered
        assert node.run("from_uplink", datagram).mark == 0
        assert len(node.maps.conntrack) == 0
        assert send(node, question).mark == TO_PROXY

    def test_what_the_proxys_own_socket_uses_is_kept(self, node, build, names):
        web, _, server, _ = names
        node.run("to_endpoint", build.udp(server, web, 53, 5302), mark=0xB00)
        node.enforce(web="egress")
        node.policy(70, "egress", 0, UDP, 53, verdict="dns")
        node.revision(2)
        assert send(node, build.udp(web, server, 5302, 53)).mark == TO_PROXY
        assert entry(node, server, web, 53, 5302).upstream == 1
