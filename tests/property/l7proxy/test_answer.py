# SPDX-License-Identifier: Apache-2.0
from hypothesis import given, settings
from hypothesis import strategies as st

from l7proxy.answer import Answer
from l7proxy.head import RequestHead
from l7proxy.request_head import parse

REQUESTS = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
    ]
)
LINES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 204 No\r\n",
        b"HTTP/1.0 200 OK\r\n",
        b"HTTP/1.1 101 X\r\n",
        b"HTTP/1.1 200 OK\n",
        b"HTTP/1.2 ",
    ]
)
FIELDS = st.lists(
    st.sampled_from(
        [
            b"Content-Length: 5\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"X: y\r\n",
            b" z\r\n",
            b"Connection: close\r\n",
            b"bad\r\n",
        ]
    ),
    max_size=3,
).map(b"".join)
INTERIM = st.lists(
    st.sampled_from([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 X\r\nLink: a\r\n\r\n"]), max_size=2
).map(b"".join)
BODIES = st.sampled_from(
    [b"hello", b"hel", b"5\r\nhello\r\n0\r\n\r\n", b"5  \r\nhello\r\n0\r\n\r\nmore", b"zz\r\n", b""]
)
STREAMS = st.tuples(
    INTERIM, LINES, FIELDS, st.sampled_from([b"\r\n", b"\n", b""]), BODIES, st.sampled_from([b"", b"rest"])
)


def played(request: RequestHead, pieces: list[bytes]) -> tuple[bytes, bool, bool, str]:
    answer = Answer(request)
    relayed = b""
    for piece in pieces:
        relayed += piece if answer.tunnel else answer.feed(piece)
        if answer.done or answer.fault:
            break
    return relayed, answer.done, answer.tunnel, answer.fault


@settings(max_examples=200)
@given(REQUESTS, st.one_of(STREAMS.map(b"".join), st.binary(max_size=80)), st.integers(1, 40))
def test_an_answer_is_the_same_however_it_was_cut(request_head: bytes, data: bytes, size: int) -> None:
    request = parse(request_head)
    assert isinstance(request, RequestHead)
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    assert played(request, pieces) == played(request, [data])
