# SPDX-License-Identifier: Apache-2.0
import pytest

from l7proxy import foreign
from l7proxy.head import CHUNKED, MAX_HEAD, NEED_MORE, NO_BODY, Malformed, RequestHead
from l7proxy.redaction import Redaction
from l7proxy.request_head import parse

HOST = b"Host: shop.example.com\r\n"


def accepted(data: bytes) -> RequestHead:
    head = parse(data)
    assert isinstance(head, RequestHead), head
    return head


@pytest.mark.parametrize(
    ("head", "framing", "keep_alive"),
    [
        (b"GET / HTTP/1.1\r\n" + HOST + b"\r\n", NO_BODY, True),
        (b"GET /a?b=//..%2f\\ HTTP/1.1\r\n".replace(b"\\ ", b"\\ ") + HOST + b"\r\n", NO_BODY, True),
        (b"POST / HTTP/1.1\r\nhOST:shop.example.com  \r\nContent-Length: 5\r\n\r\n", 5, True),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n", NO_BODY, True),
        (b"PUT / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: Chunked\r\n\r\n", CHUNKED, True),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Close\r\n\r\n", NO_BODY, False),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Keep-Alive\r\n\r\n", NO_BODY, True),
        (b"GET / HTTP/1.0\r\n" + HOST + b"\r\n", NO_BODY, False),
        (b"GET / HTTP/1.0\r\n" + HOST + b"Connection: keep-alive\r\n\r\n", NO_BODY, True),
        (b"M-SEARCH / HTTP/1.1\r\nHost: [2001:db8::1]:8080\r\nX-Empty:\r\n\r\n", NO_BODY, True),
    ],
)
def test_the_canonical_form_is_relayed_as_it_came(head: bytes, framing: int, keep_alive: bool) -> None:
    parsed = accepted(head + b"rest")
    assert parsed.raw == head
    assert parsed.size == len(head)
    assert (parsed.framing, parsed.keep_alive) == (framing, keep_alive)
    assert parsed.path == parsed.target == head.split(b" ")[1]


def test_judged_fields_are_those_that_are_sent() -> None:
    head = accepted(b"GET /x HTTP/1.1\r\nHost: A.example.com:80\r\nX-Token:  a b \r\nx-token: c\r\n\r\n")
    assert (head.method, head.path, head.host) == (b"GET", b"/x", b"A.example.com:80")
    assert list(head.fields) == [(b"host", b"A.example.com:80"), (b"x-token", b"a b"), (b"x-token", b"c")]


def test_one_empty_line_before_a_request_is_dropped() -> None:
    head = accepted(b"\r\nGET / HTTP/1.1\r\n" + HOST + b"\r\n")
    assert head.raw == b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
    assert head.size == len(head.raw) + 2
    assert isinstance(parse(b"\r\n\r\nGET / HTTP/1.1\r\n" + HOST + b"\r\n"), Malformed)


LINE = b"GET / HTTP/1.1\r\n"


@pytest.mark.parametrize(
    ("head", "detail"),
    [
        (b"GET / HTTP/1.1\nHost: a\n\n", "bare LF in head"),
        (b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", "bare LF in head"),
        (b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", "bare CR in head"),
        (b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", "bare CR in head"),
        (b"GET / HTTP/1.1\r\nHost: a\0\r\n\r\n", "NUL in head"),
        (LINE + HOST + b"X: a\x0bb\r\n\r\n", "control character in head"),
        (LINE + HOST + b"X: a\x7f\r\n\r\n", "control character in head"),
        (LINE + HOST + b" folded: a\r\n\r\n", "folded header line"),
        (LINE + b" Host: a\r\n\r\n", "folded header line"),
        (LINE + b"Host : a\r\n\r\n", "blank before colon"),
        (LINE + HOST + b"Content-Length\t: 3\r\n\r\n", "blank before colon"),
        (LINE + b"\r\n", "no Host"),
        (LINE + b"X: y\r\n\r\n", "no Host"),
        (LINE + HOST + HOST + b"\r\n", "more than one Host"),
        (LINE + HOST + b"host: b\r\n\r\n", "more than one Host"),
        (LINE + b"Host:\r\n\r\n", "malformed Host"),
        (LINE + b"Host: a b\r\n\r\n", "malformed Host"),
        (LINE + b"Host: a,b\r\n\r\n", "malformed Host"),
        (LINE + b"Host: u@a\r\n\r\n", "malformed Host"),
        (LINE + b"Host: a/b\r\n\r\n", "malformed Host"),
        (
            LINE + HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "both Content-Length and Transfer-Encoding",
        ),
        (LINE + HOST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n", "more than one Content-Length"),
        (LINE + HOST + b"Content-Length: 5, 5\r\n\r\n", "malformed Content-Length"),
        (LINE + HOST + b"Content-Length: +5\r\n\r\n", "malformed Content-Length"),
        (LINE + HOST + b"Content-Length: -5\r\n\r\n", "malformed Content-Length"),
        (LINE + HOST + b"Content-Length: 0x5\r\n\r\n", "malformed Content-Length"),
        (LINE + HOST + b"Content-Length: 5 5\r\n\r\n", "malformed Content-Length"),
        (LINE + HOST + b"Content-Length:\r\n\r\n", "malformed Content-Length"),
        (LINE + HOST + b"Content-Length: 99999999999999999999\r\n\r\n", "malformed Content-Length"),
        (LINE + HOST + b"Content_Length: 5\r\n\r\n", "header that some servers take for another"),
        (LINE + HOST + b"Transfer_Encoding: chunked\r\n\r\n", "header that some servers take for another"),
        (LINE + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", "unknown Transfer-Encoding"),
        (LINE + HOST + b"Transfer-Encoding: xchunked\r\n\r\n", "unknown Transfer-Encoding"),
        (
            LINE + HOST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
            "unknown Transfer-Encoding",
        ),
        (LINE + HOST + b"Transfer-Encoding:\r\n\r\n", "unknown Transfer-Encoding"),
        (b"GET / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n", "Transfer-Encoding in HTTP/1.0"),
        (
            LINE + HOST + b"Connection: close, Content-Length\r\n\r\n",
            "Connection names a field that a server would drop",
        ),
        (LINE + HOST + b"Connection: a b\r\n\r\n", "malformed Connection"),
        (LINE + HOST + b"Expect: 200-ok\r\n\r\n", "unknown Expect"),
        (LINE + HOST + b"Expect: 100-continue\r\nExpect: 100-continue\r\n\r\n", "unknown Expect"),
        (LINE + HOST + b": no name\r\n\r\n", "refused by h11"),
        (LINE + HOST + b"no colon\r\n\r\n", "refused by h11"),
        (LINE + HOST + b"X(Y): a\r\n\r\n", "refused by h11"),
        (b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", "malformed request line"),
        (b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n", "malformed request line"),
        (b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n", "malformed request line"),
        (b"GET\t/ HTTP/1.1\r\n" + HOST + b"\r\n", "not an HTTP request"),
        (b"GET /\xc3\xa4 HTTP/1.1\r\n" + HOST + b"\r\n", "malformed request line"),
        (b"GET / HTTP/1.2\r\n" + HOST + b"\r\n", "unknown HTTP version"),
        (b"GET / http/1.1\r\n" + HOST + b"\r\n", "malformed request line"),
        (b"GET / HTTP/1.1.1\r\n" + HOST + b"\r\n", "malformed request line"),
        (b"GET /\r\n\r\n", "malformed request line"),
        (b"GET x HTTP/1.1\r\n" + HOST + b"\r\n", "malformed request target"),
        (b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", "malformed request target"),
        (b"GET /a/../b HTTP/1.1\r\n" + HOST + b"\r\n", "dot segment in path"),
        (b"get / HTTP/1.1\r\n" + HOST + b"\r\n", "not an HTTP request"),
        (b"G@T / HTTP/1.1\r\n" + HOST + b"\r\n", "not an HTTP request"),
        (b"A" * 33 + b" / HTTP/1.1\r\n" + HOST + b"\r\n", "not an HTTP request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2 preface"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", foreign.TLS),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "SSH"),
        (LINE + HOST + b"X: " + b"a" * MAX_HEAD + b"\r\n\r\n", "head is too large"),
        (LINE + HOST + b"X: " + b"a" * MAX_HEAD, "head is too large"),
    ],
)
def test_what_two_parsers_could_read_differently_is_refused(head: bytes, detail: str) -> None:
    result = parse(head)
    assert isinstance(result, Malformed)
    assert result.detail == detail


@pytest.mark.parametrize(
    "part", [b"", b"\r", b"\r\n", b"G", b"GET", b"GET / HTTP/1.1\r\nHost: a\r\n", b"\x16", b"SSH-"]
)
def test_what_may_become_a_request_is_waited_for(part: bytes) -> None:
    assert parse(part) is NEED_MORE


def test_a_head_of_exactly_the_limit_passes() -> None:
    start = LINE + HOST + b"X: "
    head = start + b"a" * (MAX_HEAD - len(start) - 4) + b"\r\n\r\n"
    assert accepted(head).size == MAX_HEAD
    assert parse(head[:-1]) is NEED_MORE
    assert isinstance(parse(start + b"a" + head[len(start) :]), Malformed)


def test_a_refusal_tells_what_was_asked_but_no_secret() -> None:
    head = b"GET http://user:hunter2@a/x HTTP/1.1\r\nHost: a\r\nAuthorization: Basic c2VjcmV0\r\n\r\n"
    refused = parse(head)
    assert refused == Malformed("authority of target and Host disagree", "GET", "a", "http://user:hunter2@a/x")
    assert Redaction().target(refused.path) == "http://a/x"
