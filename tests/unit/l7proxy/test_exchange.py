# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from typing import Any

import pytest

from l7policy.model import HeaderMatch, HttpRule, Mismatch
from l7policy.verdict import Reason, Verdict
from l7proxy import foreign
from l7proxy.commands import (
    CloseClient,
    CloseServer,
    Connect,
    GoOn,
    HalfCloseClient,
    HalfCloseServer,
    PauseClient,
    ResetClient,
    ResetServer,
    ResumeClient,
    SendToClient,
    SendToServer,
)
from l7proxy.limits import Limits
from l7proxy.replies import ACCESS_DENIED, reply

Begin = Callable[..., Any]

HOST = b"Host: shop.example.com\r\n"
GET = b"GET /public HTTP/1.1\r\n" + HOST + b"\r\n"
SECRET = b"GET /secret HTTP/1.1\r\n" + HOST + b"\r\n"
UPLOAD = b"POST /upload HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\n"
CHUNKED = b"POST /upload HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
WEBSOCKET = b"GET /ws HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
DENIED = SendToClient(reply(403, ACCESS_DENIED, keep_alive=True))
DENIED_AND_CLOSED = SendToClient(reply(403, ACCESS_DENIED, keep_alive=False))
MALFORMED = SendToClient(reply(400, b"malformed request\r\n", keep_alive=False))


def started(playbook: Begin, request: bytes = GET, **options: Any) -> Any:
    """A connection whose first request was sent on."""
    book = playbook(**options)
    book.client(request)
    book.connected()
    return book


class TestRequests:
    def test_an_allowed_request_is_sent_as_it_came_and_answered(self, playbook: Begin) -> None:
        book = playbook()
        assert book.client(GET) == [Connect()]
        assert book.connected() == [SendToServer(GET)]
        assert book.server(OK) == [SendToClient(OK)]
        assert book.client(GET) == [SendToServer(GET)]
        assert book.server(OK) == [SendToClient(OK)]
        assert book.records == []

    def test_nothing_is_connected_for_a_denied_request(self, playbook: Begin) -> None:
        book = playbook()
        assert book.client(SECRET) == [DENIED]
        assert book.client(GET) == [Connect()]
        (record,) = book.records
        assert (record.verdict, record.reason) == (Verdict.DROPPED, Reason.HTTP_DENIED)
        assert (record.method, record.host, record.path, record.status) == ("GET", "shop.example.com", "/secret", 403)
        assert record.decision.rule == "shop/web egress[0]"
        assert record.decision.policies == ("shop/web",)

    def test_a_denied_head_request_gets_no_body(self, playbook: Begin) -> None:
        book = playbook()
        assert book.client(b"HEAD /secret HTTP/1.1\r\n" + HOST + b"\r\n") == [
            SendToClient(reply(403, ACCESS_DENIED, keep_alive=True, method=b"HEAD"))
        ]

    def test_headers_are_judged(self, playbook: Begin) -> None:
        book = playbook()
        assert book.client(b"GET /token HTTP/1.1\r\n" + HOST + b"X-Token: wrong\r\n\r\n") == [DENIED]
        assert book.client(b"GET /token HTTP/1.1\r\n" + HOST + b"x-token: s3cret\r\n\r\n") == [Connect()]

    def test_a_record_of_what_passed_tells_when_and_how_much(self, playbook: Begin) -> None:
        book = playbook(record_forwarded=True)
        book.client(UPLOAD + b"he")
        book.now += 1.0
        book.connected()
        book.client(b"llo")
        book.now += 1.0
        book.server(OK[:-2])
        book.now += 1.0
        assert book.records == []
        book.server(OK[-2:])
        (record,) = book.records
        assert (record.latency, record.request_bytes, record.response_bytes) == (2.0, 5, 5)
        assert (record.status, record.minor) == (200, 1)

    def test_headers_are_changed_as_the_rules_want_and_recorded(self, playbook: Begin, world: Any) -> None:
        world.load((HttpRule(headers=(HeaderMatch("X-Team", "shop", None, Mismatch.REPLACE),)),))
        book = playbook()
        as_wanted = b"GET /public HTTP/1.1\r\n" + HOST + b"x-team: shop\r\n\r\n"
        assert book.client(as_wanted.replace(b"shop\r\n\r", b"admin\r\n\r")) == [Connect()]
        assert book.connected() == [SendToServer(as_wanted.replace(b"x-team", b"X-Team"))]
        assert book.server(OK) == [SendToClient(OK)]
        (record,) = book.records
        assert (record.verdict, record.status) == (Verdict.FORWARDED, 200)
        assert (record.decision.missing, record.decision.rejected) == (("X-Team: shop",), ("X-Team: admin",))
        assert book.client(as_wanted) == [SendToServer(as_wanted)]

    def test_a_header_that_cannot_be_written_refuses_the_request(self, playbook: Begin, world: Any) -> None:
        world.load((HttpRule(headers=(HeaderMatch("X-Team", "a\r\nX-Admin: 1", None, Mismatch.ADD),)),))
        book = playbook()
        assert book.client(GET) == [MALFORMED, HalfCloseClient()]
        assert book.records[0].detail == "a header that a rule sets cannot be written"

    def test_pipelined_requests_are_answered_in_order_and_each_is_judged(self, playbook: Begin) -> None:
        book = playbook()
        assert book.client(GET + SECRET + GET + SECRET) == [Connect()]
        assert book.connected() == [SendToServer(GET)]
        assert book.server(OK[:-1]) == [SendToClient(OK[:-1])]
        assert book.server(OK[-1:]) == [SendToClient(OK[-1:]), DENIED, SendToServer(GET)]
        assert book.server(OK) == [SendToClient(OK), DENIED]

    def test_many_refused_requests_at_once_let_other_connections_have_their_turn(self, playbook: Begin) -> None:
        book = playbook()
        assert book.client(SECRET * 40) == [DENIED] * 16 + [PauseClient(), GoOn()]
        assert book.client(SECRET) == [DENIED] * 16
        assert book.go_on() == [DENIED] * 9 + [ResumeClient()]
        assert len(book.records) == 41
        assert book.client(SECRET * 20) == [DENIED] * 16 + [PauseClient(), GoOn()]
        assert book.client_eof() == [DENIED] * 4 + [ResumeClient(), CloseClient()]
        assert book.go_on() == []

    def test_a_reload_reaches_the_next_request_of_a_kept_alive_connection(self, playbook: Begin, world: Any) -> None:
        book = started(playbook)
        book.server(OK)
        world.load((HttpRule(path="/secret"),))
        assert book.client(GET) == [DENIED]
        assert book.client(SECRET) == [SendToServer(SECRET)]

    def test_a_reload_reaches_a_request_that_waits_for_its_server(self, playbook: Begin, world: Any) -> None:
        book = playbook()
        assert book.client(GET + GET) == [Connect()]
        world.load((HttpRule(path="/other"),))
        assert book.connected() == [DENIED, DENIED]
        assert [record.reason for record in book.records] == [Reason.HTTP_DENIED] * 2
        world.load((HttpRule(),))
        assert book.client(GET) == [SendToServer(GET)]

    def test_a_body_that_waits_with_its_refused_request_is_thrown_away(self, playbook: Begin, world: Any) -> None:
        book = playbook()
        assert book.client(UPLOAD + b"he") == [Connect()]
        world.load((HttpRule(path="/public"),))
        assert book.connected() == [DENIED]
        assert book.client(b"llo" + GET) == [SendToServer(GET)]

    def test_a_reload_that_forbids_the_flow_lets_nothing_out_that_waited(self, playbook: Begin, world: Any) -> None:
        book = playbook()
        assert book.client(GET) == [Connect()]
        world.load(None)
        assert book.connected() == [DENIED_AND_CLOSED, CloseServer(), HalfCloseClient()]

    def test_a_request_that_waited_goes_out_as_the_new_rules_want_it(self, playbook: Begin, world: Any) -> None:
        book = playbook()
        assert book.client(UPLOAD + b"hello") == [Connect()]
        world.load((HttpRule(headers=(HeaderMatch("X-Team", "shop", None, Mismatch.ADD),)),))
        assert book.connected() == [SendToServer(UPLOAD[:-2] + b"X-Team: shop\r\n\r\nhello")]
        assert book.server(OK) == [SendToClient(OK)]

    def test_a_reload_that_forbids_the_flow_ends_the_connection(self, playbook: Begin, world: Any) -> None:
        book = started(playbook)
        book.server(OK)
        world.load(None)
        assert book.client(GET) == [DENIED_AND_CLOSED, CloseServer(), HalfCloseClient()]
        assert book.records[0].reason == Reason.POLICY_DENIED

    def test_a_body_passes_as_it_comes(self, playbook: Begin) -> None:
        book = playbook()
        assert book.client(UPLOAD + b"he") == [Connect()]
        assert book.connected() == [SendToServer(UPLOAD + b"he")]
        assert book.client(b"ll") == [SendToServer(b"ll")]
        assert book.client(b"o" + GET) == [SendToServer(b"o")]
        assert book.server(OK) == [SendToClient(OK), SendToServer(GET)]

    def test_a_chunked_body_passes_line_by_line(self, playbook: Begin) -> None:
        book = started(playbook, CHUNKED)
        assert book.client(b"5;a=b\r") == []
        assert book.client(b"\nhel") == [SendToServer(b"5;a=b\r\nhel")]
        assert book.client(b"lo\r\n0\r\nX-Sum: 1\r\n\r\n") == [SendToServer(b"lo\r\n0\r\nX-Sum: 1\r\n\r\n")]
        assert book.server(OK) == [SendToClient(OK)]

    def test_a_broken_chunk_ends_both_sides_and_the_server_sees_no_complete_request(self, playbook: Begin) -> None:
        book = started(playbook, CHUNKED)
        assert book.client(b"5\r\nhelloX") == [SendToServer(b"5\r\nhello"), ResetServer(), MALFORMED, HalfCloseClient()]
        (record,) = book.records
        assert (record.reason, record.detail) == (Reason.HTTP_MALFORMED, "chunk does not end where its size says")

    def test_a_head_in_pieces_waits_until_it_is_whole(self, playbook: Begin) -> None:
        book = playbook()
        for byte in GET[:-1]:
            assert book.client(bytes([byte])) == []
        assert book.client(GET[-1:]) == [Connect()]
        assert book.connected() == [SendToServer(GET)]


class TestRefusals:
    @pytest.mark.parametrize(
        ("data", "detail"),
        [
            (b"\x16\x03\x01\x02\x00\x01", foreign.TLS),
            (b"SSH-2.0-OpenSSH_9.2p1\r\n", "SSH"),
            (
                UPLOAD.replace(b"5\r\n", b"5\r\nTransfer-Encoding: chunked\r\n"),
                "both Content-Length and Transfer-Encoding",
            ),
            (b"GET /public/..%2fsecret HTTP/1.1\r\n" + HOST + b"\r\n", "encoded slash or backslash in path"),
        ],
    )
    def test_not_a_byte_of_what_is_uncertain_is_forwarded(self, playbook: Begin, data: bytes, detail: str) -> None:
        book = playbook()
        assert book.client(data) == [MALFORMED, HalfCloseClient()]
        (record,) = book.records
        assert (record.verdict, record.reason, record.detail) == (Verdict.DROPPED, Reason.HTTP_MALFORMED, detail)
        assert book.client(GET) == []

    def test_a_malformed_request_is_answered_in_its_turn(self, playbook: Begin) -> None:
        book = started(playbook, GET + b"GET / HTTP/1.1\r\nHost : a\r\n\r\n")
        assert book.server(OK) == [SendToClient(OK), MALFORMED, CloseServer(), HalfCloseClient()]
        assert book.records[0].detail == "blank before colon"

    def test_a_small_refused_body_is_thrown_away_and_the_connection_kept(self, playbook: Begin) -> None:
        refused = UPLOAD.replace(b"/upload", b"/secret")
        book = playbook()
        assert book.client(refused + b"he") == [DENIED]
        assert book.client(b"llo" + GET) == [Connect()]
        assert book.connected() == [SendToServer(GET)]

    def test_a_large_refused_body_ends_the_connection(self, playbook: Begin) -> None:
        refused = UPLOAD.replace(b"/upload", b"/secret").replace(b": 5", b": 500000")
        book = playbook()
        assert book.client(refused) == [DENIED_AND_CLOSED, HalfCloseClient()]
        assert book.client(b"a" * 1000) == []

    def test_a_refused_chunked_body_is_thrown_away_up_to_the_limit(self, playbook: Begin) -> None:
        refused = CHUNKED.replace(b"/upload", b"/secret")
        book = playbook(Limits(discard=10))
        assert book.client(refused) == [DENIED]
        assert book.client(b"100\r\naaaaaaaaa") == [HalfCloseClient()]

    def test_a_refused_client_that_waits_for_100_may_not_send_another_request(self, playbook: Begin) -> None:
        refused = UPLOAD.replace(b"/upload", b"/secret").replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
        assert playbook().client(refused) == [DENIED_AND_CLOSED, HalfCloseClient()]

    def test_a_client_that_goes_on_after_a_refusal_is_cut_off(self, playbook: Begin) -> None:
        book = playbook(Limits(discard=10))
        book.client(b"\x16\x03\x01")
        assert book.client(b"a" * 10) == []
        assert book.client(b"a") == [ResetClient()]

    def test_a_client_that_does_not_read_its_answers_gets_no_more_of_them(self, playbook: Begin) -> None:
        book = playbook(Limits(hold=2 * len(SECRET)))
        assert book.client_slow(True) == []
        assert book.client(SECRET) == []
        assert book.client(SECRET) == [PauseClient()]
        assert book.client_slow(False) == [DENIED, DENIED, ResumeClient()]


class TestAudit:
    """A workload that is audited: what its rules refuse passes, and each request that they refuse is recorded."""

    def test_a_refused_request_passes_as_it_is(self, playbook: Begin, world: Any) -> None:
        world.load(world.rules, audit=True)
        book = started(playbook, SECRET)
        assert book.server(OK) == [SendToClient(OK)]
        assert [(r.verdict, r.reason, r.path, r.status) for r in book.records] == [
            (Verdict.AUDIT, Reason.HTTP_DENIED, "/secret", 0)
        ]

    def test_each_one_is_recorded_and_what_is_allowed_is_not(self, playbook: Begin, world: Any) -> None:
        world.load(world.rules, audit=True)
        book = started(playbook)
        book.server(OK)
        assert book.records == []
        for _ in range(2):
            book.client(SECRET)
            book.server(OK)
        assert [r.verdict for r in book.records] == [Verdict.AUDIT] * 2

    def test_what_is_not_http_is_refused_all_the_same(self, playbook: Begin, world: Any) -> None:
        world.load(world.rules, audit=True)
        book = playbook()
        book.client(b"\x16\x03\x01\x00\x00\r\n\r\n")
        assert [r.reason for r in book.records] == [Reason.HTTP_MALFORMED]

    def test_a_connection_follows_when_it_begins_and_ends(self, playbook: Begin, world: Any) -> None:
        book = started(playbook)
        book.server(OK)
        assert book.client(SECRET) == [DENIED]
        world.load(world.rules, audit=True)
        assert book.client(SECRET) == [SendToServer(SECRET)]
        book.server(OK)
        world.load(world.rules)
        assert book.client(SECRET) == [DENIED]
        assert [r.verdict for r in book.records] == [Verdict.DROPPED, Verdict.AUDIT, Verdict.DROPPED]

    def test_an_open_tunnel_goes_on_and_is_recorded_once(self, playbook: Begin, world: Any) -> None:
        book = started(playbook, WEBSOCKET)
        book.server(SWITCH)
        world.load((HttpRule(path="/public"),), audit=True)
        assert book.after(1) == []
        assert book.after(1) == []
        assert [(r.verdict, r.detail) for r in book.records] == [(Verdict.AUDIT, "tunnel goes on")]


class TestAnswers:
    def test_an_early_answer_does_not_stop_the_body(self, playbook: Begin) -> None:
        book = started(playbook, UPLOAD + b"he")
        assert book.server(OK) == [SendToClient(OK)]
        assert book.client(b"llo" + GET) == [SendToServer(b"llo"), SendToServer(GET)]

    def test_an_early_answer_that_closes_does(self, playbook: Begin) -> None:
        answer = b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        book = started(playbook, UPLOAD + b"he")
        assert book.server(answer) == [SendToClient(answer), CloseServer(), HalfCloseClient()]

    def test_a_final_answer_instead_of_100_ends_the_connection(self, playbook: Begin) -> None:
        book = started(playbook, UPLOAD.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        assert book.server(OK) == [SendToClient(OK), CloseServer(), HalfCloseClient()]

    def test_100_continue_passes_through(self, playbook: Begin) -> None:
        book = started(playbook, UPLOAD.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        interim = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert book.server(interim) == [SendToClient(interim)]
        assert book.client(b"hello") == [SendToServer(b"hello")]
        assert book.server(OK) == [SendToClient(OK)]
        assert book.client(GET) == [SendToServer(GET)]

    def test_either_side_may_end_keep_alive(self, playbook: Begin) -> None:
        closing = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        assert started(playbook).server(closing) == [SendToClient(closing), CloseServer(), CloseClient()]
        book = started(playbook, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert book.server(OK) == [SendToClient(OK), CloseServer(), CloseClient()]

    def test_an_answer_without_length_ends_with_the_server(self, playbook: Begin) -> None:
        book = started(playbook)
        assert book.server(b"HTTP/1.0 200 OK\r\n\r\nhel") == [SendToClient(b"HTTP/1.0 200 OK\r\n\r\nhel")]
        assert book.server(b"lo") == [SendToClient(b"lo")]
        assert book.server_eof() == [CloseServer(), CloseClient()]
        assert book.records == []

    def test_an_answer_to_nothing_never_reaches_the_client(self, playbook: Begin) -> None:
        book = started(playbook)
        book.server(OK)
        assert book.server(OK) == [CloseServer(), CloseClient()]
        book = started(playbook)
        assert book.server(OK + OK) == [SendToClient(OK), CloseServer(), CloseClient()]

    def test_an_answer_that_cannot_be_understood_is_a_502(self, playbook: Begin) -> None:
        book = started(playbook)
        bad_gateway = SendToClient(reply(502, b"upstream protocol error\r\n", keep_alive=False))
        assert book.server(b"220 mail.example.com ESMTP\r\n") == [ResetServer(), bad_gateway, HalfCloseClient()]
        (record,) = book.records
        assert (record.verdict, record.reason, record.status) == (Verdict.ERROR, Reason.UPSTREAM_MALFORMED, 502)

    def test_a_broken_answer_is_broken_off(self, playbook: Begin) -> None:
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        book = started(playbook)
        assert book.server(chunked) == [SendToClient(chunked)]
        assert book.server(b"zz\r\n") == [ResetServer(), ResetClient()]
        assert book.records[0].reason == Reason.UPSTREAM_MALFORMED

    def test_a_truncated_answer_is_truncated_for_the_client_in_the_same_way(self, playbook: Begin) -> None:
        book = started(playbook)
        book.server(OK[:-1])
        assert book.server_eof() == [CloseServer(), CloseClient()]
        book = started(playbook)
        book.server(OK[:-1])
        assert book.server_lost() == [ResetServer(), ResetClient()]
        assert book.records[0].detail == "answer cut short"

    def test_forwarded_requests_are_recorded_when_wanted(self, playbook: Begin) -> None:
        book = started(playbook, record_forwarded=True)
        book.server(OK)
        (record,) = book.records
        assert (record.verdict, record.reason, record.path, record.status) == (
            Verdict.FORWARDED,
            Reason.NONE,
            "/public",
            200,
        )
        book.client(GET)
        book.client_lost()
        assert (book.records[1].status, book.records[1].detail) == (0, "client went away before the end of the answer")


class TestServers:
    def test_a_server_that_cannot_be_reached_is_a_503(self, playbook: Begin) -> None:
        book = playbook()
        book.client(GET)
        unavailable = SendToClient(reply(503, b"upstream connect error\r\n", keep_alive=False))
        assert book.failed("connection refused") == [unavailable, HalfCloseClient()]
        (record,) = book.records
        assert (record.verdict, record.reason) == (Verdict.ERROR, Reason.UPSTREAM_UNREACHABLE)
        assert (record.detail, record.status) == ("connection refused", 503)

    def test_a_failed_request_has_one_record(self, playbook: Begin) -> None:
        book = playbook(record_forwarded=True)
        book.client(GET)
        book.failed("connection refused")
        assert book.client_lost() == []
        assert [record.status for record in book.records] == [503]

    def test_a_client_that_sends_its_body_too_slowly_or_never_reads_is_broken_off(self, playbook: Begin) -> None:
        limits = Limits(stall_timeout=10, request_timeout=100)
        book = started(playbook, UPLOAD + b"h", limits=limits)
        assert book.after(9) == []
        assert book.after(2)[0] == ResetServer()
        assert book.records[0].detail == "request body stalled"
        book = started(playbook, limits=limits)
        book.server(OK[:-1])
        book.client_slow(True)
        assert book.after(11) == [ResetServer(), ResetClient()]
        assert book.records[0].detail == "client does not read the answer"

    def test_a_byte_now_and_then_does_not_keep_a_connection(self, playbook: Begin) -> None:
        limits = Limits(stall_timeout=10, min_body_rate=100)
        large = CHUNKED + b"fffff\r\n"
        book = started(playbook, large, limits=limits)
        for _ in range(9):
            assert book.after(1) == []
            book.client(b"x")
        assert book.after(2)[0] == ResetServer()
        assert book.records[0].detail == "request body stalled"
        book = started(playbook, large, limits=limits)
        for _ in range(50):  # and a slow but steady one goes on
            assert book.after(1) == []
            book.client(b"x" * 100)
        assert book.records == []
        book = started(playbook, large, limits=Limits(stall_timeout=10, min_body_rate=0))
        for _ in range(50):
            assert book.after(9) == []
            book.client(b"x")

    def test_a_reader_that_takes_a_little_now_and_then_is_too_slow_too(self, playbook: Begin) -> None:
        limits = Limits(stall_timeout=10, min_body_rate=100)
        for rate, detail in ((10, ["client does not read the answer"]), (100, [])):
            book = started(playbook, limits=limits)
            book.server(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            book.client_slow(True)
            for _ in range(30):  # the kernel moves it: nothing but its size is seen
                book.exchange.went_by(rate, book.now)
                book.after(1)
            assert [record.detail for record in book.records] == detail

    def test_what_the_server_says_does_not_excuse_a_body_that_stalls(self, playbook: Begin) -> None:
        limits = Limits(stall_timeout=10)
        book = started(playbook, UPLOAD.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"), limits=limits)
        book.server(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert book.after(9) == []
        assert book.after(2)[0] == ResetServer()
        assert book.records[0].detail == "request body stalled"
        book = started(playbook, UPLOAD + b"h", limits=limits)
        book.server(OK[:-1])
        assert book.after(11) == [ResetServer(), ResetClient()]

    def test_a_slow_server_is_not_the_clients_fault(self, playbook: Begin) -> None:
        book = started(playbook, UPLOAD + b"h", limits=Limits(stall_timeout=10))
        book.server_slow(True)
        assert book.after(100) == []
        book.server_slow(False)
        assert book.after(11)[0] == ResetServer()

    def test_no_request_takes_longer_than_it_may_however_busy_it_is(self, playbook: Begin) -> None:
        book = started(playbook, CHUNKED, limits=Limits(request_timeout=10))
        for _ in range(9):
            assert book.after(1) == []
            book.client(b"1\r\nx\r\n")
        assert book.after(2)[0] == ResetServer()
        assert book.records[0].detail == "took longer than any request may"

    def test_an_answer_that_stalls_is_broken_off(self, playbook: Begin) -> None:
        book = started(playbook)
        book.server(OK[:-1])
        assert book.after(3601) == [ResetServer(), ResetClient()]
        assert book.records[0].detail == "no byte in either direction"

    def test_a_server_that_does_not_accept_in_time_is_a_503(self, playbook: Begin) -> None:
        book = playbook()
        book.client(GET)
        assert book.after(4) == []
        unavailable = SendToClient(reply(503, b"upstream connect error\r\n", keep_alive=False))
        assert book.after(2) == [ResetServer(), unavailable, HalfCloseClient()]

    def test_a_server_that_does_not_answer_in_time_is_a_504(self, playbook: Begin) -> None:
        book = started(playbook)
        timeout = SendToClient(reply(504, b"upstream response timeout\r\n", keep_alive=False))
        assert book.after(3601) == [ResetServer(), timeout, HalfCloseClient()]

    @pytest.mark.parametrize("event", ["server_eof", "server_lost"])
    def test_a_server_that_leaves_before_its_first_answer_is_a_502(self, playbook: Begin, event: str) -> None:
        book = started(playbook)
        bad_gateway = SendToClient(reply(502, b"upstream closed the connection\r\n", keep_alive=False))
        assert getattr(book, event)() == [ResetServer(), bad_gateway, HalfCloseClient()]

    def test_a_kept_alive_connection_that_the_server_left_ends_as_if_nobody_were_between(self, playbook: Begin) -> None:
        book = started(playbook)
        book.server(OK)
        assert book.server_eof() == [CloseServer(), CloseClient()]
        assert book.records == []
        book = started(playbook)
        book.server(OK)
        book.client(GET)
        assert book.server_eof() == [CloseServer(), CloseClient()]
        assert book.records[0].detail == "server closed the connection before answering"


class TestClients:
    def test_a_half_closed_client_gets_its_answers(self, playbook: Begin) -> None:
        book = started(playbook)
        assert book.client_eof() == [HalfCloseServer()]
        assert book.server(OK) == [SendToClient(OK), CloseServer(), CloseClient()]

    def test_a_half_closed_client_gets_all_its_answers(self, playbook: Begin) -> None:
        book = started(playbook, GET + GET)
        assert book.client_eof() == []
        assert book.server(OK) == [SendToClient(OK), SendToServer(GET), HalfCloseServer()]
        assert book.server(OK) == [SendToClient(OK), CloseServer(), CloseClient()]

    def test_a_client_that_ends_between_requests_just_ends(self, playbook: Begin) -> None:
        book = started(playbook)
        book.server(OK)
        assert book.client_eof() == [CloseServer(), CloseClient()]
        assert playbook().client_eof() == [CloseClient()]
        assert book.records == []

    def test_a_request_that_breaks_off_is_broken_off(self, playbook: Begin) -> None:
        book = started(playbook, UPLOAD + b"he")
        assert book.client_eof() == [ResetServer(), MALFORMED, CloseClient()]
        book = started(playbook, UPLOAD + b"he")
        assert book.client_lost() == [ResetServer()]
        book = playbook()
        book.client(GET[:-1])
        assert book.client_eof() == [MALFORMED, CloseClient()]
        assert book.records[0].detail == "client ended inside the head"

    def test_what_waits_for_its_turn_is_bounded(self, playbook: Begin) -> None:
        book = started(playbook, limits=Limits(hold=100))
        assert book.client(b"GET /public/x" + b"x" * 100) == [PauseClient()]
        assert book.server(OK) == [SendToClient(OK)]
        book = playbook(Limits(hold=100))
        assert book.client(UPLOAD.replace(b": 5", b": 500") + b"a" * 100) == [Connect(), PauseClient()]
        commands = book.connected()
        assert [type(command) for command in commands] == [SendToServer, ResumeClient]

    def test_a_slow_head_times_out(self, playbook: Begin) -> None:
        book = playbook()
        book.client(b"GET /")
        book.now += 10
        book.client(b"public")
        assert book.after(4) == []
        timeout = SendToClient(reply(408, b"request timeout\r\n", keep_alive=False))
        assert book.after(2) == [timeout, HalfCloseClient()]
        assert (book.records[0].reason, book.records[0].status) == (Reason.HTTP_TIMEOUT, 408)
        assert book.after(3) == [ResetClient()]

    def test_a_client_that_says_nothing_is_recorded_and_closed(self, playbook: Begin) -> None:
        book = playbook()
        assert book.after(16) == [HalfCloseClient()]
        assert book.records[0].detail == "client sent nothing"

    def test_an_idle_connection_is_closed_and_a_later_head_has_its_own_time(self, playbook: Begin) -> None:
        book = started(playbook)
        book.server(OK)
        assert book.after(299) == []
        book.client(b"GET")
        assert book.after(14) == []
        timeout = SendToClient(reply(408, b"request timeout\r\n", keep_alive=False))
        assert book.after(2) == [CloseServer(), timeout, HalfCloseClient()]
        book = started(playbook)
        book.server(OK)
        assert book.after(301) == [CloseServer(), CloseClient()]

    def test_a_stalled_body_times_out(self, playbook: Begin) -> None:
        book = started(playbook, UPLOAD + b"he")
        timeout = SendToClient(reply(408, b"request timeout\r\n", keep_alive=False))
        assert book.after(3601) == [ResetServer(), timeout, HalfCloseClient()]

    def test_a_client_that_never_reads_the_end_is_reset(self, playbook: Begin) -> None:
        book = started(playbook, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        book.server(OK)
        assert book.after(59) == []
        assert book.after(2) == [ResetClient()]


class TestTunnels:
    def test_a_websocket_is_spliced_after_the_servers_consent(self, playbook: Begin) -> None:
        book = started(playbook, WEBSOCKET, record_forwarded=True)
        assert book.client(b"\x81\x80early") == []
        assert book.server(SWITCH + b"\x81\x00") == [SendToClient(SWITCH + b"\x81\x00"), SendToServer(b"\x81\x80early")]
        assert book.client(SECRET) == [SendToServer(SECRET)]
        assert book.server(b"raw") == [SendToClient(b"raw")]
        assert book.records[0].status == 101

    def test_without_consent_it_stays_http(self, playbook: Begin) -> None:
        book = started(playbook, WEBSOCKET)
        assert book.server(OK) == [SendToClient(OK)]
        assert book.client(SECRET) == [DENIED]

    def test_connect_is_judged_by_its_target(self, playbook: Begin) -> None:
        connect = b"CONNECT db.example.com:5432 HTTP/1.1\r\nHost: db.example.com:5432\r\n\r\n"
        assert playbook().client(connect.replace(b"5432", b"5433")) == [DENIED]
        book = started(playbook, connect)
        established = b"HTTP/1.1 200 Connection established\r\n\r\n"
        assert book.server(established) == [SendToClient(established)]
        assert book.client(b"\x00\x01") == [SendToServer(b"\x00\x01")]

    def test_each_side_may_end_first(self, playbook: Begin) -> None:
        book = started(playbook, WEBSOCKET)
        book.server(SWITCH)
        assert book.client_eof() == [HalfCloseServer()]
        assert book.server(b"raw") == [SendToClient(b"raw")]
        assert book.server_eof() == [CloseServer(), CloseClient()]
        book = started(playbook, WEBSOCKET)
        book.server(SWITCH)
        assert book.server_eof() == [HalfCloseClient()]
        assert book.client(b"raw") == [SendToServer(b"raw")]
        assert book.client_eof() == [CloseServer(), CloseClient()]

    def test_a_reload_reaches_an_open_tunnel(self, playbook: Begin, world: Any) -> None:
        book = started(playbook, WEBSOCKET)
        book.server(SWITCH)
        assert book.after(1) == []
        world.load((HttpRule(path="/public"),))
        assert book.after(1) == [ResetServer(), ResetClient()]
        assert book.records[0].reason == Reason.POLICY_CHANGED

    def test_a_lost_server_is_a_lost_tunnel(self, playbook: Begin) -> None:
        book = started(playbook, WEBSOCKET)
        book.server(SWITCH)
        assert book.server_lost() == [ResetClient()]
        assert book.client_lost() == []

    def test_an_idle_tunnel_ends(self, playbook: Begin) -> None:
        book = started(playbook, WEBSOCKET)
        book.server(SWITCH)
        assert book.after(3601) == [ResetServer(), ResetClient()]


class TestDraining:
    def test_an_idle_connection_is_closed_at_once(self, playbook: Begin) -> None:
        book = started(playbook)
        book.server(OK)
        assert book.drain() == [CloseServer(), CloseClient()]

    def test_a_new_connection_still_gets_its_first_request_answered(self, playbook: Begin) -> None:
        """It is under way by the time the connection is accepted: workers that ended in order lost some."""
        book = playbook()
        assert book.drain() == []
        assert book.client(GET) == [Connect()]
        book.connected()
        assert book.server(OK) == [SendToClient(OK), CloseServer(), CloseClient()]

    def test_a_request_under_way_is_the_last(self, playbook: Begin) -> None:
        book = started(playbook)
        assert book.drain() == []
        assert book.server(OK) == [SendToClient(OK), CloseServer(), CloseClient()]
