# SPDX-License-Identifier: Apache-2.0
"""ICMP of a workload: echoes, types that policy names, errors about flows."""

import pytest

TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
TO_PROXY = 0x200
NO_RULE = 133

ADDRESSES = {4: ("web", "db", "server", "node", "stranger"), 6: ("web6", "db6", "server6", "node6", "stranger6")}


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def names(node, request):
    """web, db, server, node and stranger, in both families."""
    return [getattr(node, name) for name in ADDRESSES[request.param]]


def send(node, packet, **options):
    return node.run("from_endpoint", packet, **options)


def ack(build, kind):
    """Of a packet that begins nothing, what `build` needs to know beyond the tuple."""
    return [build.ACK] if kind == "tcp" else []


class TestIcmp:
    def test_policy_names_the_type(self, node, build, names):
        web, _, server, *_ = names
        request, reply, other = (128, 129, 127) if ":" in web else (8, 0, 13)
        protocol = ICMP6 if ":" in web else ICMP
        node.enforce(web="egress")
        result = send(node, build.icmp(web, server, request, 77))
        assert (result.reason, result.events[0].destination_port) == (NO_RULE, request)
        node.policy(70, "egress", 0, protocol, request)
        assert send(node, build.icmp(web, server, request, 77)).passed
        assert send(node, build.icmp(web, server, other, 77)).reason == NO_RULE
        assert send(node, build.icmp(web, server, reply, 77)).reason == NO_RULE

    def test_the_reply_to_a_ping_passes_and_other_replies_do_not(self, node, build, names):
        _, db, server, *_ = names
        request, reply = (128, 129) if ":" in db else (8, 0)
        node.enforce(db="egress")
        assert node.run("from_uplink", build.icmp(server, db, request, 77)).passed
        out = {"ifindex": node.db_ifindex}
        assert send(node, build.icmp(db, server, reply, 77), **out).passed
        assert send(node, build.icmp(db, server, reply, 78), **out).reason == NO_RULE
        assert send(node, build.icmp(db, server, request, 77), **out).reason == NO_RULE

    def test_ids_of_pings_in_opposite_directions_do_not_meet(self, node, build, names):
        """Whatever the id: 0 is the one that reads the same both ways."""
        web, db, *_ = names
        request, reply = (128, 129) if ":" in web else (8, 0)
        assert send(node, build.icmp(web, db, request, 0)).passed
        node.enforce(web="ingress", db="both")
        on_db = {"ifindex": node.db_ifindex}
        assert send(node, build.icmp(db, web, reply, 0), **on_db).passed
        assert send(node, build.icmp(db, web, request, 0), **on_db).reason == NO_RULE
        assert send(node, build.icmp(web, db, reply, 0)).reason == NO_RULE

    def test_a_reply_that_nobody_asked_for_is_no_flow(self, node, build):
        assert send(node, build.icmp(node.web, node.server, 0, 77)).passed
        assert len(node.maps.conntrack) == 0

    def test_a_ping_is_judged_again_by_its_type(self, node, build, names):
        web, _, server, *_ = names
        request, reply = (128, 129) if ":" in web else (8, 0)
        node.enforce(web="egress")
        node.policy(70, "egress", 0, ICMP6 if ":" in web else ICMP, request)
        send(node, build.icmp(web, server, request, 77))
        node.revision(2)
        assert node.run("from_uplink", build.icmp(server, web, reply, 77)).passed

    @pytest.mark.parametrize("inner", ["tcp", "udp"])
    def test_an_error_about_a_known_flow_passes(self, node, build, names, inner):
        web, _, server, _, stranger = names
        error = 1 if ":" in web else 3
        node.enforce(web="egress")
        assert node.run("from_uplink", getattr(build, inner)(server, web, 40000, 80)).passed
        quoted = getattr(build, inner)(server, web, 40000, 80)[14:]
        assert send(node, build.icmp(web, server, error, data=quoted)).passed
        # …but only to the sender of what it quotes, and only about a flow that exists
        assert send(node, build.icmp(web, stranger, error, data=quoted)).reason == NO_RULE
        unknown = getattr(build, inner)(server, web, 40000, 81)[14:]
        assert send(node, build.icmp(web, server, error, data=unknown)).reason == NO_RULE
        assert send(node, build.icmp(web, server, error, data=b"")).reason == NO_RULE

    @pytest.mark.parametrize("inner", ["tcp", "udp"])
    def test_a_workload_is_no_router_that_reports_about_packets_of_others(self, node, build, names, inner):
        web, db, server, *_ = names
        error, make = 1 if ":" in web else 3, getattr(build, inner)
        node.enforce(web="egress")
        assert send(node, make(db, server, 40000, 80), ifindex=node.db_ifindex).passed
        to_client, to_server = make(db, server, 40000, 80)[14:], make(server, db, 80, 40000, *ack(build, inner))[14:]
        assert send(node, build.icmp(web, db, error, data=to_client)).reason == NO_RULE
        assert send(node, build.icmp(web, server, error, data=to_server)).reason == NO_RULE
        # …whereas who did get the packet may
        assert send(node, build.icmp(db, server, error, data=to_server), ifindex=node.db_ifindex).passed

    def test_nor_about_packets_within_the_node(self, node, build, names):
        web, db, *_ = names
        error = 1 if ":" in web else 3
        node.enforce(web="egress", db="egress")
        node.policy(70, "egress", node.DB_IDENTITY, UDP, 80)
        quoted = build.udp(web, db, 40000, 80)
        assert send(node, quoted).passed
        assert send(node, build.icmp(db, web, error, data=quoted[14:]), ifindex=node.db_ifindex).passed
        assert send(node, build.icmp(web, web, error, data=quoted[14:])).reason == NO_RULE
        assert send(node, build.icmp(web, db, error, data=quoted[14:])).reason == NO_RULE

    def test_an_error_may_quote_a_packet_with_options(self, node, build):
        node.enforce(web="egress")
        packet = build.udp(node.server, node.web, 40000, 80)
        assert node.run("from_uplink", packet).passed
        quoted = build.with_options(packet, bytes.fromhex("07070400000000"))[14:]
        assert send(node, build.icmp(node.web, node.server, 3, data=quoted)).passed

    def test_an_error_about_a_proxied_flow_goes_to_the_proxy(self, node, build):
        node.enforce(web="egress")
        node.policy(70, "egress", 0, TCP, 80, verdict="http")
        send(node, build.tcp(node.web, node.server, 40000, 80))
        quoted = build.tcp(node.server, node.web, 80, 40000, build.ACK)[14:42]
        assert send(node, build.icmp(node.web, node.server, 3, data=quoted)).mark == TO_PROXY

    def test_an_error_about_a_flow_of_an_older_revision_is_judged(self, node, build):
        node.enforce(web="egress")
        node.run("from_uplink", build.tcp(node.server, node.web, 40000, 80))
        node.revision(2)
        quoted = build.tcp(node.server, node.web, 40000, 80)[14:]
        assert send(node, build.icmp(node.web, node.server, 3, data=quoted)).reason == NO_RULE
