# SPDX-License-Identifier: Apache-2.0
"""Tests of l7observe.compact."""

from l7observe import record
from l7observe.compact import compact, identity
from l7observe.flow import Flow
from l7policy.verdict import Reason


def test_a_packet_denied_by_policy_reads_as_a_policy_verdict(packet_deny: Flow) -> None:
    assert compact(record.from_flow(packet_deny)) == (
        "2026-01-01T00:00:00.250000Z: web:40112 (ID:256) -> 198.51.100.7:443 (world) "
        "policy-verdict:L3-L4 EGRESS DENIED (TCP; POLICY_DENIED: No rule allows it; policies default/web)"
    )


def test_a_packet_dropped_for_another_reason_reads_as_a_drop(packet_deny: Flow) -> None:
    packet_deny.reason = Reason.INVALID_SOURCE_IP
    packet_deny.policies = ()
    packet_deny.detail = "from eth0"
    assert compact(record.from_flow(packet_deny, "node-1"), node=True) == (
        "2026-01-01T00:00:00.250000Z [node-1]: web:40112 (ID:256) -> 198.51.100.7:443 (world) drop EGRESS DROPPED "
        "(TCP; INVALID_SOURCE_IP: Source address does not belong to the workload; from eth0)"
    )


def test_an_http_request_shows_what_was_asked_and_answered(http_deny: Flow) -> None:
    assert compact(record.from_flow(http_deny)) == (
        "2026-01-01T00:00:01.000000Z: web:40113 (ID:256) -> [2001:db8::80]:80 (ID:16777217) http-request EGRESS "
        "DROPPED (HTTP POST api.example.com/admin?x=1 => 403; HTTP_DENIED: No HTTP rule allows the request; "
        "policies default/web)"
    )


def test_a_dns_query_shows_the_name_and_the_answer(dns_deny: Flow) -> None:
    dns_deny.rule = "default/dns egress[0]"
    assert compact(record.from_flow(dns_deny)) == (
        "2026-01-01T00:00:02.500000Z: web:5353 (ID:256) -> 198.51.100.53:53 (world) dns-request proxy EGRESS "
        "DROPPED (DNS Query forbidden.example. A => REFUSED; DNS_DENIED: No DNS rule allows the name; "
        "rule default/dns egress[0])"
    )


def test_a_workload_cannot_write_to_the_terminal(http_deny: Flow) -> None:
    assert http_deny.http is not None
    http_deny.http.path = "/\x1b[2J\n2026-01-01T00:00:00Z: forged"
    line = compact(record.from_flow(http_deny))
    assert "\x1b" not in line
    assert "\n" not in line
    assert "/\\x1b[2J\\n2026" in line


def test_identities_that_everybody_knows_are_named() -> None:
    assert [identity(number) for number in (1, 2, 6, 256, 16777216)] == [
        "host",
        "world",
        "remote-node",
        "ID:256",
        "ID:16777216",
    ]
