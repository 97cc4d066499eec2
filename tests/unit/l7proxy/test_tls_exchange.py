# SPDX-License-Identifier: Apache-2.0
import math
from collections.abc import Callable
from typing import Any

import pytest

from l7policy.verdict import Reason, Verdict
from l7proxy.commands import (
    CloseClient,
    CloseServer,
    Connect,
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

Begin = Callable[..., Any]


def record(kind: int, data: bytes) -> bytes:
    return bytes([kind]) + b"\x03\x03" + len(data).to_bytes(2, "big") + data


def hello(name: bytes) -> bytes:
    extension = b""
    if name:
        entry = b"\0" + len(name).to_bytes(2, "big") + name
        names = len(entry).to_bytes(2, "big") + entry
        extension = b"\0\0" + len(names).to_bytes(2, "big") + names
    body = b"\x03\x03" + bytes(32) + b"\0\0\x02\x13\x01\x01\0" + len(extension).to_bytes(2, "big") + extension
    return record(22, b"\x01" + len(body).to_bytes(3, "big") + body)


HELLO = hello(b"a.example")
OTHER = hello(b"c.example")
EARLY = record(23, b"early")
ANSWER = record(22, b"\x02\0\0\x46\x03\x03" + bytes(68))


def opened(begin: Begin, name: bytes = b"a.example", **options: Any) -> Any:
    """A connection whose hello the server has answered."""
    book = begin(**options)
    book.client(hello(name))
    book.connected()
    book.server(ANSWER)
    return book


def reasons(book: Any) -> list[tuple[Verdict, Reason, str]]:
    return [(one.verdict, one.reason, one.detail) for one in book.records]


class TestJudgement:
    def test_an_allowed_name_is_sent_as_it_came_and_bytes_pass_both_ways(self, tls_playbook: Begin) -> None:
        book = tls_playbook()
        assert book.client(HELLO[:7]) == []
        assert book.client(HELLO[7:] + EARLY) == [Connect()]
        assert book.connected() == [SendToServer(HELLO), SendToServer(EARLY)]
        assert book.server(ANSWER) == [SendToClient(ANSWER)]
        assert book.client(b"opaque") == [SendToServer(b"opaque")]
        assert book.server(b"opaque") == [SendToClient(b"opaque")]
        assert book.records == []

    @pytest.mark.parametrize(
        ("name", "detail"),
        [
            (b"c.example", ""),
            (b"", "no server name"),
            (b"a.example.", "server name ends in a dot"),
            (b"192.0.2.1", "server name is an address"),
        ],
    )
    def test_what_no_rule_allows_is_reset_and_never_connected(
        self, tls_playbook: Begin, name: bytes, detail: str
    ) -> None:
        book = tls_playbook()
        assert book.client(hello(name)) == [ResetClient()]
        (one,) = book.records
        assert (one.verdict, one.reason, one.detail) == (Verdict.DROPPED, Reason.SNI_DENIED, detail)
        assert (one.layer, one.hello.sent) == ("tls", name.decode())
        assert (one.decision.rule, one.decision.endpoint) == ("shop/web egress[0]", 7)
        assert book.client(b"more") == []
        assert book.exchange.deadline == math.inf

    def test_what_is_not_tls_is_reset(self, tls_playbook: Begin) -> None:
        book = tls_playbook()
        assert book.client(b"GET / HTTP/1.1\r\n") == [ResetClient()]
        assert reasons(book) == [(Verdict.DROPPED, Reason.TLS_MALFORMED, "not TLS: text, perhaps HTTP")]

    def test_what_passes_is_recorded_if_somebody_asks(self, tls_playbook: Begin) -> None:
        book = opened(tls_playbook, record_forwarded=True)
        assert reasons(book) == [(Verdict.FORWARDED, Reason.NONE, "")]
        assert book.records[0].hello.name == "a.example"

    def test_a_second_hello_for_another_server_breaks_the_connection_off(self, tls_playbook: Begin) -> None:
        book = tls_playbook()
        book.client(HELLO)
        book.connected()
        assert book.client(OTHER) == [ResetServer(), ResetClient()]
        assert reasons(book)[0][1:] == (Reason.TLS_MALFORMED, "another server name in the second TLS ClientHello")

    def test_a_second_hello_that_came_before_the_server_was_there_is_judged_too(self, tls_playbook: Begin) -> None:
        book = tls_playbook()
        assert book.client(HELLO + OTHER) == [Connect()]
        assert book.connected() == [SendToServer(HELLO), ResetServer(), ResetClient()]
        assert book.client(b"more") == []

    def test_what_was_held_goes_on_with_the_servers_answer(self, tls_playbook: Begin) -> None:
        book = tls_playbook()
        book.client(HELLO)
        book.connected()
        assert book.client(OTHER[:8]) == []
        assert book.server(ANSWER) == [SendToClient(ANSWER), SendToServer(OTHER[:8])]


class TestReload:
    def test_an_open_connection_is_judged_again(self, tls_playbook: Begin, world: Any) -> None:
        book = opened(tls_playbook, b"x.b.example")
        world.load_names(("**.b.example",))
        assert book.after(0.5) == []
        world.load_names(("a.example",))
        assert book.after(0.5) == [ResetServer(), ResetClient()]
        assert reasons(book) == [(Verdict.DROPPED, Reason.POLICY_CHANGED, "connection broken off")]
        assert book.records[0].hello.name == "x.b.example"
        assert book.after(0.5) == []

    def test_a_policy_that_wants_http_by_now_ends_it(self, tls_playbook: Begin, world: Any) -> None:
        book = opened(tls_playbook)
        world.load(world.rules)
        assert book.after(0.5) == [ResetServer(), ResetClient()]

    def test_a_limit_that_is_gone_lets_anything_pass(self, tls_playbook: Begin, world: Any) -> None:
        book = tls_playbook()
        world.load_names(None)
        assert book.client(b"SSH-2.0-x\r\n") == [Connect()]
        assert book.connected() == [SendToServer(b"SSH-2.0-x\r\n")]
        assert book.records == []


class TestAudit:
    def test_a_name_no_rule_allows_passes_and_is_recorded(self, tls_playbook: Begin, world: Any) -> None:
        book = tls_playbook(record_forwarded=True)
        world.load_names(("a.example",), audit=True)
        assert book.client(OTHER) == [Connect()]
        assert book.connected() == [SendToServer(OTHER)]
        assert reasons(book) == [(Verdict.AUDIT, Reason.SNI_DENIED, "")]
        assert book.after(1) == []
        assert len(book.records) == 1

    def test_what_is_not_tls_passes_and_is_recorded(self, tls_playbook: Begin, world: Any) -> None:
        book = tls_playbook()
        world.load_names(("a.example",), audit=True)
        assert book.client(b"SSH-2.0-x\r\n") == [Connect()]
        assert book.connected() == [SendToServer(b"SSH-2.0-x\r\n")]
        assert book.client(b"more") == [SendToServer(b"more")]
        assert reasons(book) == [(Verdict.AUDIT, Reason.TLS_MALFORMED, "not TLS: text, perhaps HTTP")]

    def test_a_client_that_waits_for_the_server_is_connected_late(self, tls_playbook: Begin, world: Any) -> None:
        book = tls_playbook()
        world.load_names(("a.example",), audit=True)
        assert book.after(15) == [Connect()]
        assert book.connected() == []
        assert book.server(b"220 ready\r\n") == [SendToClient(b"220 ready\r\n")]

    def test_another_name_in_the_second_hello_is_recorded(self, tls_playbook: Begin, world: Any) -> None:
        book = tls_playbook()
        world.load_names(("a.example",), audit=True)
        book.client(HELLO)
        book.connected()
        assert book.client(OTHER + EARLY) == [SendToServer(OTHER + EARLY)]
        assert [one[:2] for one in reasons(book)] == [(Verdict.AUDIT, Reason.TLS_MALFORMED)]

    def test_a_reload_that_would_have_ended_it_is_recorded_once(self, tls_playbook: Begin, world: Any) -> None:
        book = opened(tls_playbook)
        world.load_names(("x.example",), audit=True)
        assert book.after(1) == []
        assert book.after(1) == []
        assert reasons(book) == [(Verdict.AUDIT, Reason.SNI_DENIED, "")]


class TestEnds:
    def test_half_closed_stays_half_closed(self, tls_playbook: Begin) -> None:
        book = opened(tls_playbook)
        assert book.client_eof() == [HalfCloseServer()]
        assert book.server(b"rest") == [SendToClient(b"rest")]
        assert book.server_eof() == [CloseServer(), CloseClient()]
        book = opened(tls_playbook)
        assert book.server_eof() == [HalfCloseClient()]
        assert book.client(b"rest") == [SendToServer(b"rest")]
        assert book.client_eof() == [CloseServer(), CloseClient()]

    def test_a_client_that_ends_before_the_server_is_there_is_still_sent_on(self, tls_playbook: Begin) -> None:
        book = tls_playbook()
        book.client(HELLO)
        assert book.client_eof() == []
        assert book.connected() == [SendToServer(HELLO), HalfCloseServer()]

    def test_a_client_that_says_nothing_and_goes_leaves_no_record(self, tls_playbook: Begin) -> None:
        book = tls_playbook()
        assert book.client_eof() == [CloseClient()]
        assert book.records == []

    def test_a_client_that_ends_inside_the_hello_is_recorded(self, tls_playbook: Begin) -> None:
        book = tls_playbook()
        book.client(HELLO[:20])
        assert book.client_eof() == [ResetClient()]
        assert reasons(book) == [(Verdict.DROPPED, Reason.TLS_MALFORMED, "client ended inside the TLS ClientHello")]

    def test_what_breaks_off_is_broken_off_on_the_other_side(self, tls_playbook: Begin) -> None:
        assert opened(tls_playbook).server_lost() == [ResetClient()]
        assert opened(tls_playbook).client_lost() == [ResetServer()]
        book = tls_playbook()
        book.client(HELLO)
        assert book.client_lost() == [ResetServer()]
        assert book.connected() == []

    def test_a_server_that_cannot_be_had_is_a_reset_and_an_error(self, tls_playbook: Begin) -> None:
        book = tls_playbook()
        book.client(HELLO)
        assert book.failed("connection refused") == [ResetClient()]
        assert reasons(book) == [(Verdict.ERROR, Reason.UPSTREAM_UNREACHABLE, "connection refused")]

    def test_draining_lets_go_on_what_has_begun_or_is_about_to(self, tls_playbook: Begin) -> None:
        book = tls_playbook()
        assert book.drain() == []
        assert book.client(HELLO) == [Connect()]
        assert opened(tls_playbook).drain() == []


class TestBounds:
    def test_a_client_may_not_be_silent(self, tls_playbook: Begin) -> None:
        book = tls_playbook(Limits(head_timeout=5))
        assert book.after(5) == [ResetClient()]
        assert reasons(book) == [(Verdict.DROPPED, Reason.TLS_TIMEOUT, "client sent nothing")]
        book = tls_playbook(Limits(head_timeout=5))
        book.after(4)
        book.client(HELLO[:20])
        assert book.after(1) == [ResetClient()]
        assert reasons(book) == [(Verdict.DROPPED, Reason.TLS_TIMEOUT, "")]

    def test_a_server_may_not_be_silent(self, tls_playbook: Begin) -> None:
        book = tls_playbook(Limits(connect_timeout=5))
        book.client(HELLO)
        assert book.after(5) == [ResetServer(), ResetClient()]
        assert reasons(book)[0][:2] == (Verdict.ERROR, Reason.UPSTREAM_UNREACHABLE)

    def test_a_connection_may_be_idle_for_so_long(self, tls_playbook: Begin) -> None:
        book = opened(tls_playbook, limits=Limits(idle_timeout=60))
        book.after(59)
        book.server(b"x")
        assert book.after(59) == []
        assert book.after(1) == [ResetServer(), ResetClient()]
        assert reasons(book) == [(Verdict.DROPPED, Reason.TLS_TIMEOUT, "no byte in either direction")]

    def test_a_client_that_does_not_take_the_end_is_reset(self, tls_playbook: Begin) -> None:
        book = opened(tls_playbook, limits=Limits(close_timeout=3))
        book.client_eof()
        book.server_eof()
        assert book.after(3) == [ResetClient()]

    def test_a_client_that_sends_on_before_the_server_is_there_is_held_up(self, tls_playbook: Begin) -> None:
        book = tls_playbook(Limits(hold=400))
        data = record(23, bytes(400))
        book.client(HELLO)
        assert book.client(data) == [PauseClient()]
        assert book.client(data) == []
        assert book.connected() == [SendToServer(HELLO), SendToServer(data + data), ResumeClient()]
