# SPDX-License-Identifier: Apache-2.0
import contextlib
import itertools
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l7proxy.client_hello import MAX_HELLO, ClientHello, HelloReader
from l7proxy.head import NEED_MORE, Malformed, NeedMore


def vector(width: int, data: bytes) -> bytes:
    return len(data).to_bytes(width, "big") + data


NAMES = st.one_of(
    st.from_regex(r"[-_a-zA-Z0-9]{1,20}([.][-_a-zA-Z0-9]{1,20}){0,3}", fullmatch=True).map(str.encode),
    st.binary(min_size=1, max_size=40),
)
SERVER_NAME = NAMES.map(lambda name: b"\0\0" + vector(2, vector(2, b"\0" + vector(2, name))))
OTHER = st.tuples(st.integers(1, 0xFFFF), st.binary(max_size=40)).map(
    lambda parts: parts[0].to_bytes(2, "big") + vector(2, parts[1])
)
VERSIONS = st.just(b"\0\x2b" + vector(2, vector(1, b"\x03\x04\x03\x03")))
EXTENSIONS = st.lists(st.one_of(SERVER_NAME, OTHER, VERSIONS), max_size=5).map(b"".join)
BODIES = EXTENSIONS.map(
    lambda extensions: b"\x03\x03" + bytes(32) + vector(1, bytes(32)) + b"\0\x02\x13\x01\x01\0" + vector(2, extensions)
)


@st.composite
def hellos(draw: st.DrawFn) -> bytes:
    """A hello in records cut anywhere, now and then with a byte changed."""
    body = draw(BODIES)
    message = b"\x01" + vector(3, body)
    edges = sorted({0, len(message), *draw(st.lists(st.integers(1, len(message) - 1), max_size=4))})
    data = b"".join(b"\x16\x03\x01" + vector(2, message[start:end]) for start, end in itertools.pairwise(edges))
    if draw(st.booleans()):
        at = draw(st.integers(0, len(data) - 1))
        data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
    return data + draw(st.binary(max_size=10))


def read(data: bytes, places: list[int]) -> tuple[ClientHello | NeedMore | Malformed, int]:
    """What comes of the data in pieces, and how much of it was the hello."""
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    reader = HelloReader()
    found: ClientHello | NeedMore | Malformed = NEED_MORE
    for start, end in itertools.pairwise(edges):
        found = reader.feed(data[start:end])
        if found is not NEED_MORE:
            break
    return found, reader.size if isinstance(found, ClientHello) else 0


@given(st.one_of(st.binary(max_size=300), hellos()), st.lists(st.integers(0, 1000), max_size=8))
def test_the_result_does_not_depend_on_how_the_bytes_were_cut(data: bytes, places: list[int]) -> None:
    found, size = read(data, places)
    assert (found, size) == read(data, [])
    if isinstance(found, ClientHello):
        assert 0 < size <= min(len(data), MAX_HELLO * 6)
        assert found.name == ("" if found.fault else found.sent)
        assert found.sent.isascii()


# Python cannot hand a name that is not ASCII to the callback, and says so where nobody can catch it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@given(hellos())
def test_openssl_as_a_server_sees_no_other_name(data: bytes) -> None:
    """Whatever OpenSSL takes for a hello's name is what was judged, or the hello was refused."""
    seen: list[str | None] = []
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.sni_callback = lambda _socket, name, _context: seen.append(name)
    found, size = read(data, [])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    incoming.write(data[:size] or data)
    with contextlib.suppress(ssl.SSLError):
        server.wrap_bio(incoming, outgoing, server_side=True).do_handshake()
    if seen and seen[0]:
        assert isinstance(found, ClientHello | Malformed)
        if isinstance(found, ClientHello):
            assert found.sent.lower() == seen[0].lower()
