# SPDX-License-Identifier: Apache-2.0
"""The short way to read a response head reads what the long one reads."""

from hypothesis import given, settings
from hypothesis import strategies as st

from l7proxy import response_head

LINES = st.lists(
    st.sampled_from(
        [
            b"Connection: close",
            b"connection:  Keep-Alive",
            b"Connection: close ",
            b"Connection: close, x",
            b"Connection: upgrade",
            b"Content-Length: 5",
            b"Content-Length: 05",
            b"Content-Length: 6",
            b"Transfer-Encoding: chunked",
            b"Transfer-Encoding: gzip",
            b"Te: y",
            b"Cookie: a\xe9",
        ]
    ),
    max_size=5,
)


@settings(max_examples=300)
@given(LINES, st.sampled_from([b"HTTP/1.0 ", b"HTTP/1.1 "]), st.sampled_from([b"200 OK", b"204 No Content", b"304"]))
def test_a_usual_head_is_read_alike_either_way(lines: list[bytes], version: bytes, status: bytes) -> None:
    head = b"\r\n".join([version + status, *lines, b"", b""])
    usual = response_head.usual(head)
    assert usual is None or usual == response_head._unusual(head, 0, response_head.MAX_RESPONSE_HEAD)


def test_a_head_that_ends_the_connection_is_usual() -> None:
    head = response_head.usual(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
    assert head is not None
    assert not head.keep_alive
