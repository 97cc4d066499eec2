# SPDX-License-Identifier: Apache-2.0
from typing import Any

from l7observe import flowbytes
from l7policy.model import HeaderMatch, HttpRule, Mismatch
from l7policy.verdict import Direction, Protocol, Reason, Verdict
from l7proxy import request_head
from l7proxy.commands import Record
from l7proxy.flows import Flows, refused
from l7proxy.head import RequestHead
from l7proxy.redaction import Redaction
from l7proxy.transaction import Transaction


def test_a_record_becomes_a_flow_with_both_ends_and_the_rule(world: Any) -> None:
    policy = world.policy()
    decision = policy.http(b"GET", b"/secret", b"a", ())
    record = Record(Verdict.DROPPED, Reason.HTTP_DENIED, "", "GET", "a", "/secret", 403, decision)
    flow = Flows(policy, ("192.0.2.10", 40000), ("198.51.100.7", 80), Redaction()).flow(record, 12.5)
    assert (flow.time, flow.layer, flow.verdict, flow.reason) == (12.5, "http", Verdict.DROPPED, Reason.HTTP_DENIED)
    assert (flow.direction, flow.protocol, flow.endpoint, flow.revision) == (Direction.EGRESS, Protocol.TCP, 7, 1)
    assert (flow.source.address, flow.source.port, flow.source.identity) == ("192.0.2.10", 40000, 1000)
    assert (flow.source.labels, flow.source.endpoint) == (("k8s:app=web",), 7)
    assert (flow.destination.address, flow.destination.labels) == ("198.51.100.7", ("reserved:world",))
    assert flow.http is not None
    assert (flow.http.method, flow.http.path, flow.http.status) == ("GET", "/secret", 403)
    assert (flow.rule, flow.policies) == ("shop/web egress[0]", ("shop/web",))


def test_what_must_not_be_shown_is_in_no_flow(world: Any) -> None:
    edited = HeaderMatch("X-Team", "shop", mismatch=Mismatch.REPLACE)
    world.load((HttpRule(headers=(edited,)),))
    policy = world.policy()
    decision = policy.http(b"GET", b"/a?key=s3cret", b"a", ((b"X-Team", b"s3cret"),))
    record = Record(
        Verdict.FORWARDED, Reason.NONE, "", "GET", "s3cret@a", "http://s3cret@a/a?key=s3cret", 200, decision
    )
    flow = Flows(policy, ("192.0.2.10", 1), ("198.51.100.7", 80), Redaction(query=True, headers=("X-Team",))).flow(
        record, 0.0
    )
    assert flow.http is not None
    assert (flow.http.host, flow.http.path) == ("a", "http://a/a?[redacted]")
    assert flow.http.missing_headers == flow.http.rejected_headers == ("X-Team: [redacted]",)
    assert "s3cret" not in repr(flow)


def test_without_a_decision_the_workload_is_still_named(world: Any) -> None:
    record = Record(Verdict.DROPPED, Reason.HTTP_MALFORMED, "TLS ClientHello")
    flow = Flows(world.policy(), ("192.0.2.10", 40000), ("198.51.100.7", 80), Redaction()).flow(record, 0.0)
    assert (flow.endpoint, flow.direction, flow.http, flow.detail) == (7, Direction.EGRESS, None, "TLS ClientHello")


def test_a_flow_follows_the_revision(world: Any) -> None:
    policy = world.policy()
    flows = Flows(policy, ("192.0.2.10", 1), ("198.51.100.7", 80), Redaction())
    record = Record(Verdict.FORWARDED, Reason.NONE, status=200)
    assert flows.flow(record, 0.0).revision == 1
    world.load(None)
    policy.http(b"GET", b"/", b"", ())
    assert flows.flow(record, 0.0).revision == 2


def answered(
    policy: Any, target: bytes, answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
) -> Transaction:
    head = request_head.parse(b"GET %b HTTP/1.1\r\nHost: a\r\nX-Team: s3cret\r\n\r\n" % target)
    assert isinstance(head, RequestHead)
    transaction = Transaction(head, policy.http(b"GET", head.path, b"a", head.fields), head.raw, 1.0)
    transaction.feed(answer)
    transaction.first_byte = 1.25
    return transaction


def test_a_row_is_the_flow_of_its_record(world: Any) -> None:
    world.load((HttpRule(headers=(HeaderMatch("X-Team", "shop", mismatch=Mismatch.LOG),), path="/logged"), HttpRule()))
    policy = world.policy()
    flows = Flows(policy, ("192.0.2.10", 1), ("198.51.100.7", 80), Redaction(query=True, headers=("X-Team",)))
    longer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nfoo"
    for target in (b"/a", b"/a", b"/b?key=s3cret", b"/logged", b"/a"):
        for one in (answered(policy, target), answered(policy, target, longer)):
            assert one.head is not None
            record = one.record(Verdict.FORWARDED, Reason.NONE, one.head.status)
            row = flows.row(one, 3.0)
            assert flowbytes.flow(row) == flows.flow(record, 3.0)
            assert b"s3cret" not in row
    world.load((HttpRule(),))
    assert flowbytes.flow(flows.row(answered(policy, b"/a"), 4.0)).revision == policy.revision == 3


def test_a_connection_that_was_turned_away_has_a_flow() -> None:
    flow = refused(Reason.HTTP_LIMIT, "too many connections", ("192.0.2.10", 1), ("198.51.100.7", 80), 1.0)
    assert (flow.verdict, flow.reason, flow.http) == (Verdict.DROPPED, Reason.HTTP_LIMIT, None)
