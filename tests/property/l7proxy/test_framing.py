# SPDX-License-Identifier: Apache-2.0
from hypothesis import given
from hypothesis import strategies as st

from l7proxy.framing import Body, body
from l7proxy.head import CHUNKED

PIECES = st.sampled_from(
    [
        b"5\r\nhello\r\n", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"a;b=c\r\n0123456789\r\n", b"5", b"\r\n", b"\n", b"\r",
        b"0", b";",        b"X: y\r\n", b"Host: a\r\n", b" ", b"\0", b"f" * 16, b"hello",
    ]
)  # fmt: skip
STREAMS = st.lists(PIECES, max_size=8).map(b"".join)
ANYTHING = st.one_of(STREAMS, st.binary(max_size=60))


def played(tracker: Body, pieces: list[bytes]) -> tuple[bytes, bool, str]:
    """Feeds pieces as a connection would: what was not taken is fed again with what follows."""
    held = relayed = b""
    for piece in pieces:
        held += piece
        end = tracker.feed(held, 0)
        relayed += held[:end]
        held = held[end:]
        if tracker.fault or tracker.done:
            break
    return relayed, tracker.done, tracker.fault


@given(ANYTHING, st.integers(1, 9), st.booleans())
def test_chunks_end_at_the_same_byte_however_they_were_cut(data: bytes, size: int, padded: bool) -> None:
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    assert played(body(CHUNKED, padded=padded), pieces) == played(body(CHUNKED, padded=padded), [data])


@given(ANYTHING)
def test_only_what_begins_the_input_is_relayed(data: bytes) -> None:
    relayed, done, fault = played(body(CHUNKED), [data])
    assert data.startswith(relayed)
    assert not (done and fault)


@given(st.binary(max_size=50), st.integers(0, 60), st.integers(1, 9))
def test_a_length_takes_that_many_bytes(data: bytes, length: int, size: int) -> None:
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    relayed, done, _ = played(body(length), pieces)
    assert relayed == data[:length]
    assert done == (length <= len(data) and (length == 0 or len(relayed) == length))
