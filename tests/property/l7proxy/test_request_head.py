# SPDX-License-Identifier: Apache-2.0
"""What the proxy accepts, h11 reads in the same way; and no bytes whatsoever make the proxy fail."""

import itertools

import h11
from hypothesis import example, given, settings
from hypothesis import strategies as st

from l7proxy import rewritten_head
from l7proxy.framing import body
from l7proxy.head import NEED_MORE, Malformed, RequestHead
from l7proxy.request_head import parse

ENDS = st.sampled_from([b"\r\n"] * 30 + [b"\n", b"\r", b"\r\r\n", b"\r\n ", b"\0\r\n"])
METHODS = st.sampled_from(
    [b"GET", b"HEAD", b"POST", b"PUT", b"OPTIONS", b"CONNECT", b"M-SEARCH", b"get", b"PRI", b"G_T"]
)
TARGETS = st.sampled_from(
    [
        b"/",
        b"/a/b?c=d",
        b"/%20",
        b"/..",
        b"*",
        b"a:443",
        b"http://a/x",
        b"http://b",
        b"/a b",
        b"/\xff",
        b"x",
        b"//",
        b"/#",
    ]
)
VERSIONS = st.sampled_from([b"HTTP/1.1"] * 8 + [b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 "])
NAMES = st.sampled_from(
    [
        b"Host", b"host", b"Content-Length", b"content-length",
        b"Transfer-Encoding", b"Connection", b"Upgrade", b"Expect",
        b"HTTP2-Settings", b"X-Token", b"Host ", b" Host", b"Content_Length", b"", b"X\x0b", b"Accept", b"Cookie",
    ]
)  # fmt: skip
VALUES = st.sampled_from(
    [
        b"a", b"a", b"a", b"b", b"a:80", b"5", b"5", b"05", b"0", b"5, 5", b"+5", b"chunked", b"Chunked",
        b"gzip, chunked",        b"keep-alive", b"close", b"upgrade", b"Upgrade, HTTP2-Settings",
        b"websocket", b"h2c", b"100-continue", b"",
        b"a:", b"a:x", b"a:123456", b"[::1]:", b"\xe4",        b"x\x0b", b"a,b", b"Host", b"content-length",
    ]
)  # fmt: skip
SEPARATORS = st.sampled_from([b": ", b": ", b":", b":\t", b" :", b": \t "])
FIELDS = st.tuples(NAMES, SEPARATORS, VALUES, st.sampled_from([b"", b" ", b"\t"]), ENDS).map(b"".join)
SENSIBLE = st.tuples(
    st.just(b"Host: a\r\n"),
    st.lists(
        st.tuples(
            st.sampled_from([b"X-A", b"Accept", b"Connection", b"Upgrade"]),
            st.just(b": "),
            st.sampled_from([b"a", b"close", b"upgrade", b"h2c", b"websocket", b"\xe4"]),
            st.just(b"\r\n"),
        ).map(b"".join),
        max_size=3,
    ).map(b"".join),
    st.sampled_from([b"", b"Content-Length: 5\r\n", b"Content-Length: 05\r\n", b"Transfer-Encoding: chunked\r\n"]),
).map(b"".join)
CHUNKS = st.lists(
    st.sampled_from(
        [
            b"5\r\nhello\r\n",
            b"1;a=b\r\nx\r\n",
            b"0005\r\nhello\r\n",
            b"0\r\n\r\n",
            b"0\r\nX: y\r\n\r\n",
            b"5\nhello\n",
            b"5 \r\n",
        ]
    ),
    max_size=4,
).map(b"".join)
BODIES = st.one_of(st.just(b"helloGET / HTTP/1.1\r\n"), CHUNKS, CHUNKS.map(lambda chunks: chunks + b"0\r\n\r\n"))
LINES = st.tuples(METHODS, st.sampled_from([b" "] * 9 + [b"  ", b"\t"]), TARGETS, st.just(b" "), VERSIONS, ENDS).map(
    b"".join
)
CLEAN = st.tuples(
    st.sampled_from([b"GET", b"POST", b"M-SEARCH"]),
    st.just(b" "),
    st.sampled_from([b"/", b"/a/b?c=//d", b"http://a/x", b"http://a"]),
    st.sampled_from([b" HTTP/1.1\r\n", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n"]),
    SENSIBLE,
    st.just(b"\r\n"),
).map(b"".join)
HEADS = st.tuples(LINES, st.one_of(SENSIBLE, st.lists(FIELDS, max_size=5).map(b"".join)), ENDS).map(b"".join)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in pieces."""
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges) if end > start]


@given(st.one_of(st.binary(max_size=200), HEADS, st.tuples(HEADS, st.binary(max_size=20)).map(b"".join)))
def test_no_bytes_make_it_fail(data: bytes) -> None:
    result = parse(data)
    if isinstance(result, RequestHead):
        assert 0 < result.size <= len(data)
        assert data[: result.size].endswith(b"\r\n\r\n")
        assert b"\n" not in result.raw.replace(b"\r\n", b"")
    else:
        assert result is NEED_MORE or isinstance(result, Malformed)


@settings(max_examples=200)
@given(HEADS, st.binary(max_size=30), st.lists(st.integers(0, 400), max_size=6))
@example(b"\x16\x03\x01", b"", [1])
@example(b"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", b"", [25, 26])
def test_the_result_does_not_depend_on_how_the_bytes_were_cut(head: bytes, tail: bytes, places: list[int]) -> None:
    data = head + tail
    buffer, seen = b"", 0
    result = parse(b"")
    for piece in cut(data, places):
        buffer += piece
        result = parse(buffer, seen)
        if result is not NEED_MORE:
            break
        seen = len(buffer)
    assert result == parse(data)


@settings(max_examples=200)
@given(st.one_of(CLEAN, HEADS), BODIES)
@example(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", b"5\r\nhello\r\n0\r\nX: y\r\n\r\nGET")
def test_h11_reads_the_same_request_with_the_same_body(head: bytes, rest: bytes) -> None:
    parsed = parse(head + rest)
    if not isinstance(parsed, RequestHead):
        return
    following = (head + rest)[parsed.size :]
    tracker = body(parsed.framing)
    end = tracker.feed(following, 0)
    for sent in ((head + rest)[: parsed.size], parsed.raw):
        oracle = h11.Connection(h11.SERVER)
        oracle.receive_data(sent + following)
        request = oracle.next_event()
        assert isinstance(request, h11.Request)
        assert request.method == parsed.method
        if sent == parsed.raw:
            assert request.target in (parsed.path, b"http://a" + parsed.path, b"http://b" + parsed.path)
            assert [(name, value.lower()) for name, value in request.headers] == [
                (name, value.lower()) for name, value in parsed.fields
            ]
        else:
            assert request.target == parsed.target
        if tracker.done:
            assert read_by(oracle) == len(following) - end


@settings(max_examples=300)
@given(st.one_of(CLEAN, HEADS))
@example(b"GET / HTTP/1.1\r\nHost: a:\r\n\r\n")
@example(b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n")
@example(b"POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n")
def test_what_is_read_quickly_would_be_read_alike_thoroughly(head: bytes) -> None:
    parsed = parse(head)
    if isinstance(parsed, RequestHead):
        again = rewritten_head.read(parsed.raw, len(parsed.raw))
        assert isinstance(again, RequestHead)
        assert (again.method, again.path, again.host) == (parsed.method, parsed.path, parsed.host)
        assert (again.framing, again.keep_alive, again.minor) == (parsed.framing, parsed.keep_alive, parsed.minor)


def read_by(oracle: h11.Connection) -> int:
    """Reads to the end of the message; how many bytes are left."""
    while True:
        event = oracle.next_event()
        if isinstance(event, h11.EndOfMessage):
            return len(oracle.trailing_data[0])
        assert isinstance(event, h11.Data)
