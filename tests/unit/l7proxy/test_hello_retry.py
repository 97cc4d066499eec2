# SPDX-License-Identifier: Apache-2.0
import hashlib

import pytest

from l7proxy.client_hello import ClientHello, HelloReader
from l7proxy.head import Malformed
from l7proxy.hello_retry import HelloRetry

RETRY = hashlib.sha256(b"HelloRetryRequest").digest()


def record(kind: int, data: bytes) -> bytes:
    return bytes([kind]) + b"\x03\x03" + len(data).to_bytes(2, "big") + data


def hello(name: bytes) -> bytes:
    entry = b"\0" + len(name).to_bytes(2, "big") + name
    names = len(entry).to_bytes(2, "big") + entry
    extension = b"\0\0" + len(names).to_bytes(2, "big") + names
    body = (
        b"\x03\x03" + bytes(32) + b"\0" + b"\0\x02\x13\x01" + b"\x01\0" + len(extension).to_bytes(2, "big") + extension
    )
    return record(22, b"\x01" + len(body).to_bytes(3, "big") + body)


def server_hello(random: bytes) -> bytes:
    body = b"\x03\x03" + random + b"\0\x13\x01\0"
    return record(22, b"\x02" + len(body).to_bytes(3, "big") + body)


def following(name: bytes = b"a.example") -> HelloRetry:
    first = HelloReader().feed(hello(name))
    assert isinstance(first, ClientHello)
    return HelloRetry(first)


AGAIN = hello(b"a.example")
DUMMY = record(20, b"\x01")
EARLY = record(23, bytes(300))
KEYS = record(22, b"\x10\0\0\x03abc")


def test_nothing_is_followed_once_the_server_has_answered_otherwise() -> None:
    retry = following()
    assert retry.server(server_hello(bytes(32))) == b""
    assert retry.done
    assert retry.client(KEYS) == KEYS


def test_the_second_hello_passes_if_it_names_the_same_server() -> None:
    retry = following()
    retry.server(server_hello(RETRY))
    assert not retry.done
    assert retry.client(DUMMY + AGAIN + b"the rest") == DUMMY + AGAIN + b"the rest"
    assert retry.done


@pytest.mark.parametrize("asked", [True, False], ids=["asked for", "sent at once"])
def test_a_second_hello_with_another_name_is_refused_and_nothing_of_it_passes(asked: bool) -> None:
    retry = following()
    if asked:
        retry.server(server_hello(RETRY))
    evil = hello(b"b.example")
    passed = b""
    for at in range(len(evil) - 1):
        part = retry.client(evil[at : at + 1])
        assert not isinstance(part, Malformed)
        passed += part
    assert passed == b""
    refused = retry.client(evil[-1:])
    assert isinstance(refused, Malformed)
    assert refused.detail == "another server name in the second TLS ClientHello"
    assert retry.release() == evil


def test_early_data_passes_while_the_server_is_silent_cut_anywhere() -> None:
    retry = following()
    data = DUMMY + EARLY + EARLY
    assert b"".join(bytes(retry.client(data[at : at + 7])) for at in range(0, len(data), 7)) == data  # type: ignore[arg-type]
    retry.server(server_hello(RETRY)[:20])
    retry.server(server_hello(RETRY)[20:])
    assert retry.client(EARLY + AGAIN) == EARLY + AGAIN
    assert retry.done


def test_a_second_hello_sent_before_the_answer_is_judged_and_counts() -> None:
    retry = following()
    assert retry.client(AGAIN) == AGAIN
    assert not retry.done
    refused = retry.client(AGAIN)
    assert isinstance(refused, Malformed)
    assert refused.detail == "a third TLS ClientHello"
    retry = following()
    assert retry.client(AGAIN) == AGAIN
    retry.server(server_hello(RETRY))
    assert retry.done


def test_what_is_held_goes_on_when_the_server_answers() -> None:
    retry = following()
    assert retry.client(KEYS[:4]) == b""
    assert retry.server(server_hello(bytes(32))) == KEYS[:4]


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (KEYS, "TLS handshake message 16 where a ClientHello must be"),
        (b"GET / HTTP/1.1\r\n", "not TLS behind the ClientHello"),
        (record(24, b"heart"), "not TLS behind the ClientHello"),
        (b"\x17\x03\x03\x50\x00", "not TLS behind the ClientHello"),
    ],
)
def test_before_the_server_answers_nothing_else_passes(data: bytes, detail: str) -> None:
    refused = following().client(data)
    assert isinstance(refused, Malformed)
    assert refused.detail == detail


@pytest.mark.parametrize(
    ("answer", "done"),
    [
        (record(21, b"\x02\x28"), False),
        (record(21, b"\x01\x70") + server_hello(RETRY), False),
        (record(21, b"\x01\x70") + server_hello(bytes(32)), True),
        (record(22, b"\x02\0\0\x40\x03\x03") + record(22, RETRY + bytes(10)), False),
        (b"220 mail.example ESMTP\r\n", True),
    ],
    ids=["an alert", "a warning and a retry", "a warning and an answer", "cut into tiny records", "another protocol"],
)
def test_what_the_server_may_say_first(answer: bytes, done: bool) -> None:
    retry = following()
    for at in range(len(answer)):
        retry.server(answer[at : at + 1])
    assert retry.done == done
    if not done:
        refused = retry.client(hello(b"b.example"))
        assert isinstance(refused, Malformed)
