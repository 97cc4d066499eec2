# SPDX-License-Identifier: Apache-2.0
import pytest

from l7proxy.framing import MAX_CHUNK_LINE, MAX_TRAILER, Body, body
from l7proxy.head import CHUNKED, NO_BODY, UNTIL_CLOSE


def fed(tracker: Body, data: bytes) -> tuple[bytes, bool, str]:
    end = tracker.feed(data, 0)
    return data[:end], tracker.done, tracker.fault


def test_a_length_ends_where_it_says() -> None:
    tracker = body(5)
    assert fed(tracker, b"abc") == (b"abc", False, "")
    assert fed(tracker, b"defg") == (b"de", True, "")


def test_no_body_is_done_at_once() -> None:
    tracker = body(NO_BODY)
    assert tracker.done
    assert fed(tracker, b"GET /") == (b"", True, "")


def test_an_endless_body_takes_everything() -> None:
    assert fed(body(UNTIL_CLOSE), b"abc") == (b"abc", False, "")


@pytest.mark.parametrize(
    "message",
    [
        b"0\r\n\r\n",
        b"5\r\nhello\r\n0\r\n\r\n",
        b'A;name=value;q="a\\"b"\r\n0123456789\r\n00\r\n\r\n',
        b"00000000000000f\r\n0123456789abcde\r\n0;x\r\nX-Sum: 1\r\nY:\r\n\r\n",
        b"1\r\n\r\r\n1\r\n\n\r\n0\r\n\r\n",
    ],
)
def test_chunks_are_followed_to_their_end(message: bytes) -> None:
    assert fed(body(CHUNKED), message + b"GET /next") == (message, True, "")


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        (b"\r\n", "malformed chunk size"),
        (b"x\r\n", "malformed chunk size"),
        (b"-1\r\n", "malformed chunk size"),
        (b"+1\r\n", "malformed chunk size"),
        (b"0x5\r\nhello\r\n", "malformed chunk size"),
        (b" 5\r\nhello\r\n", "malformed chunk size"),
        (b"5 \r\nhello\r\n", "malformed chunk size"),
        (b"5 ;x\r\nhello\r\n", "malformed chunk size"),
        (b"5\nhello\r\n", "malformed chunk size"),
        (b"5\rhello\r\n", "malformed chunk size"),
        (b"5;a\nhello\r\n", "malformed chunk size"),
        (b"5;a\rb\r\nhello\r\n", "malformed chunk size"),
        (b"5;\0\r\nhello\r\n", "malformed chunk size"),
        (b"5_0\r\n", "malformed chunk size"),
        (b"1" * 16 + b"\r\n", "malformed chunk size"),
        (b"5;" + b"a" * MAX_CHUNK_LINE, "malformed chunk size"),
        (b"5\r\nhelloX\r\n", "chunk does not end where its size says"),
        (b"5\r\nhello\n", "chunk does not end where its size says"),
        (b"5\r\nhello\rX", "chunk does not end where its size says"),
        (b"0\r\nX: a\nY: b\r\n\r\n", "malformed trailer"),
        (b"0\r\n folded\r\n\r\n", "malformed trailer"),
        (b"0\r\nX : a\r\n\r\n", "malformed trailer"),
        (b"0\r\nno colon\r\n\r\n", "malformed trailer"),
        (b"0\r\nContent-Length: 5\r\n\r\n", "trailer that frames a message"),
        (b"0\r\nHOST: x\r\n\r\n", "trailer that frames a message"),
        (b"0\r\nX: " + b"a" * MAX_TRAILER, "malformed trailer"),
        (b"0\r\n" + b"X: aaaaaaaaaaaaaaaa\r\n" * 1000, "malformed trailer"),
    ],
)
def test_a_chunk_that_servers_could_read_differently_is_a_fault(message: bytes, fault: str) -> None:
    relayed, done, found = fed(body(CHUNKED), message)
    assert (done, found) == (False, fault)
    assert message.startswith(relayed)


def test_a_control_line_is_not_given_out_before_it_is_whole() -> None:
    tracker = body(CHUNKED)
    assert fed(tracker, b"5\r\nhello\r\n1") == (b"5\r\nhello\r\n", False, "")
    assert fed(tracker, b"1;ext\r") == (b"", False, "")
    assert fed(tracker, b"11;ext\r\n0") == (b"11;ext\r\n0", False, "")


def test_blanks_after_a_size_pass_in_answers_only() -> None:
    assert fed(body(CHUNKED, padded=True), b"5  \r\nhello\r\n0 \t\r\n\r\n")[1:] == (True, "")
    assert fed(body(CHUNKED, padded=True), b"5  ")[1:] == (False, "")
