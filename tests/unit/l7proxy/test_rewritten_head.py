# SPDX-License-Identifier: Apache-2.0
import pytest

from l7proxy.head import Malformed, RequestHead
from l7proxy.request_head import parse


def rewritten(data: bytes) -> RequestHead:
    head = parse(data)
    assert isinstance(head, RequestHead), head
    return head


@pytest.mark.parametrize(
    ("head", "host", "path", "sent"),
    [
        (
            b"GET http://a.example.com/x?y HTTP/1.1\r\nHost:  A.example.com \r\n\r\n",
            b"A.example.com",
            b"/x?y",
            b"GET http://a.example.com/x?y HTTP/1.1\r\nHost: A.example.com\r\n\r\n",
        ),
        (
            b"GET HTTP://a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
            b"a",
            b"/",
            b"GET http://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        (
            b"GET http://a?q HTTP/1.1\r\nHost: a\r\n\r\n",
            b"a",
            b"/?q",
            b"GET http://a/?q HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        (
            b"GET http://a/ HTTP/1.0\r\n\r\n",
            b"a",
            b"/",
            b"GET http://a/ HTTP/1.0\r\n\r\n",
        ),
        (
            b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            b"a",
            b"*",
            b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        (
            b"CONNECT db.example.com:5432 HTTP/1.1\r\nHost: db.example.com\r\n\r\n",
            b"db.example.com",
            b"db.example.com:5432",
            b"CONNECT db.example.com:5432 HTTP/1.1\r\nHost: db.example.com\r\n\r\n",
        ),
        (
            b"CONNECT [2001:db8::1]:443 HTTP/1.0\r\n\r\n",
            b"[2001:db8::1]:443",
            b"[2001:db8::1]:443",
            b"CONNECT [2001:db8::1]:443 HTTP/1.0\r\n\r\n",
        ),
        (
            b"GET /x HTTP/1.1\r\nHost: a\r\nX-Name:\tJ\xf6rg\r\n\r\n",
            b"a",
            b"/x",
            b"GET /x HTTP/1.1\r\nHost: a\r\nX-Name: J\xf6rg\r\n\r\n",
        ),
        (
            b"POST /x HTTP/1.1\r\nHost:\ta\t\r\nContent-Length:\t7\t\r\nX: a\tb\r\n\r\n",
            b"a",
            b"/x",
            b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\nX: a\tb\r\n\r\n",
        ),
        (
            b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 007\r\n\r\n",
            b"a",
            b"/x",
            b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\n",
        ),
        (
            b"GET /x HTTP/1.0\r\n\r\n",
            b"",
            b"/x",
            b"GET /x HTTP/1.0\r\n\r\n",
        ),
    ],
)
def test_valid_heads_that_are_not_canonical_are_written_anew(
    head: bytes, host: bytes, path: bytes, sent: bytes
) -> None:
    parsed = rewritten(head + b"rest")
    assert (parsed.host, parsed.path, parsed.raw, parsed.size) == (host, path, sent, len(head))


@pytest.mark.parametrize(
    ("head", "detail"),
    [
        (b"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", "authority of target and Host disagree"),
        (b"GET http://a:8080/ HTTP/1.1\r\nHost: a\r\n\r\n", "authority of target and Host disagree"),
        (b"GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n", "authority of target and Host disagree"),
        (b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", "authority of target and Host disagree"),
        (b"GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "malformed request target"),
        (b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "malformed request target"),
        (b"GET http://a/../x HTTP/1.1\r\nHost: a\r\n\r\n", "dot segment in path"),
        (b"GET http://a#b HTTP/1.1\r\nHost: a\r\n\r\n", "fragment in request target"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: b:1\r\n\r\n", "CONNECT target and Host disagree"),
        (b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", "CONNECT without host and port"),
        (b"CONNECT /x HTTP/1.1\r\nHost: a\r\n\r\n", "CONNECT without host and port"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 3\r\n\r\n", "CONNECT with a body"),
    ],
)
def test_targets_that_leave_a_doubt_are_refused(head: bytes, detail: str) -> None:
    result = parse(head)
    assert isinstance(result, Malformed)
    assert result.detail == detail


def test_a_websocket_offer_is_relayed() -> None:
    head = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n"
    parsed = rewritten(head)
    assert (parsed.upgrade, parsed.raw) == (b"websocket", head)


@pytest.mark.parametrize("offer", [b"h2c", b"HTTP/2.0", b"TLS/1.0", b"websocket, h2c", b"h2c, websocket", b"H2C"])
def test_an_offer_that_would_carry_requests_past_the_rules_is_taken_out(offer: bytes) -> None:
    parsed = rewritten(
        b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: " + offer + b"\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
    )
    assert parsed.upgrade == b""
    assert parsed.raw == b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"


def test_an_offer_without_its_connection_token_is_taken_out() -> None:
    parsed = rewritten(b"GET /x HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n")
    assert (parsed.upgrade, parsed.raw) == (b"", b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")


def test_expect_is_relayed_and_known() -> None:
    head = b"PUT /x HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n"
    parsed = rewritten(head)
    assert parsed.expect
    assert parsed.raw == head
