# SPDX-License-Identifier: Apache-2.0
import pytest

from l7proxy.head import CHUNKED, NEED_MORE, NO_BODY, UNTIL_CLOSE, Malformed, ResponseHead
from l7proxy.response_head import MAX_RESPONSE_HEAD, framing, parse


def accepted(data: bytes) -> ResponseHead:
    head = parse(data)
    assert isinstance(head, ResponseHead), head
    return head


@pytest.mark.parametrize(
    ("head", "status", "body", "keep_alive"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200, 5, True),
        (b"HTTP/1.1 200\r\nContent-Length: 05\r\n\r\n", 200, 5, True),
        (b"HTTP/1.1 200 \r\n\r\n", 200, UNTIL_CLOSE, True),
        (b"HTTP/1.1 404 Nicht gef\xfcnden\r\nX: \xff\r\nTransfer-Encoding: Chunked\r\n\r\n", 404, CHUNKED, True),
        (b"HTTP/1.1 200 OK\r\nConnection: Keep-Alive, Close\r\nContent-Length: 0\r\n\r\n", 200, NO_BODY, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", 200, 1, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n", 200, 1, True),
    ],
)
def test_usual_heads_are_relayed_as_they_came(head: bytes, status: int, body: int, keep_alive: bool) -> None:
    assert accepted(head + b"rest") == ResponseHead(status, body, keep_alive, head, len(head))


def test_heads_that_only_h11_understands_are_written_anew() -> None:
    lax = b"HTTP/1.1 200 OK\nContent-Length: 5\nX: a\n b\n\n"
    head = accepted(lax + b"hello")
    assert head.raw == b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: a b\r\n\r\n"
    assert head.size == len(lax)


def test_a_length_given_twice_alike_is_sent_once() -> None:
    head = accepted(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n")
    assert head.framing == 5
    assert head.raw == b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * MAX_RESPONSE_HEAD,
    ],
)
def test_heads_with_an_uncertain_end_are_refused(head: bytes) -> None:
    assert isinstance(parse(head), Malformed)


def test_an_incomplete_head_is_waited_for() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    for cut in range(len(head)):
        assert parse(head[:cut]) is NEED_MORE


@pytest.mark.parametrize(
    ("method", "status", "expected"),
    [(b"GET", 200, 5), (b"HEAD", 200, NO_BODY), (b"GET", 204, NO_BODY), (b"GET", 304, NO_BODY), (b"GET", 103, NO_BODY)],
)
def test_some_answers_have_no_body_whatever_they_say(method: bytes, status: int, expected: int) -> None:
    assert framing(accepted(b"HTTP/1.1 %d X\r\nContent-Length: 5\r\n\r\n" % status), method) == expected
