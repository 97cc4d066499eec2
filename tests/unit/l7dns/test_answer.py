# SPDX-License-Identifier: Apache-2.0
"""What of a name server's answer is believed."""

import socket
from collections.abc import Callable

import pytest

from l7dns import answer
from l7dns.answer import Answer, Foreign, Invalid
from l7dns.message import Question

WWW = "www.example.com."


@pytest.mark.parametrize(
    ("qtype", "records", "additional", "addresses", "ttl"),
    [
        pytest.param("A", (f"{WWW} 60 A 192.0.2.1",), (), ["192.0.2.1"], 60, id="one address"),
        pytest.param(
            "A", (f"{WWW} 60 A 192.0.2.1", f"{WWW} 60 A 192.0.2.2"), (), ["192.0.2.1", "192.0.2.2"], 60, id="two"
        ),
        pytest.param("AAAA", (f"{WWW} 60 AAAA 2001:db8::1",), (), ["2001:db8::1"], 60, id="IPv6"),
        pytest.param(
            "A",
            (f"{WWW} 300 CNAME a.example.net.", "a.example.net. 5 A 192.0.2.1"),
            (),
            ["192.0.2.1"],
            5,
            id="the lowest TTL of the chain, here the address's",
        ),
        pytest.param(
            "A",
            (f"{WWW} 5 CNAME a.example.net.", "a.example.net. 300 A 192.0.2.1"),
            (),
            ["192.0.2.1"],
            5,
            id="the lowest TTL of the chain, here the alias's",
        ),
        pytest.param(
            "A",
            ("b.example.net. 9 A 192.0.2.1", "a.example.net. 8 CNAME b.example.net.", f"{WWW} 7 CNAME A.example.NET."),
            (),
            ["192.0.2.1"],
            7,
            id="out of order and in other case",
        ),
        pytest.param(
            "A",
            (f"{WWW} 60 A 192.0.2.1", "other.example.com. 60 A 192.0.2.66"),
            (),
            ["192.0.2.1"],
            60,
            id="an owner outside the chain is not learnt",
        ),
        pytest.param("A", ("other.example.com. 60 A 192.0.2.66",), (), [], 0, id="only owners outside the chain"),
        pytest.param(
            "A",
            (f"{WWW} 60 CNAME a.example.net.",),
            ("a.example.net. 60 A 192.0.2.66",),
            [],
            0,
            id="additional section",
        ),
        pytest.param(
            "MX", (f"{WWW} 60 MX 1 mail.example.com.",), ("mail.example.com. 60 A 192.0.2.66",), [], 0, id="MX"
        ),
        pytest.param("A", (f"{WWW} 60 AAAA 2001:db8::1",), (), [], 0, id="another type than asked for"),
        pytest.param(
            "A",
            (f"{WWW} 9 CNAME a.example.net.", "a.example.net. 9 CNAME www.example.com."),
            (),
            [],
            0,
            id="a chain that bites its tail",
        ),
        pytest.param(
            "A",
            (f"{WWW} 9 CNAME a.example.net.", f"{WWW} 9 A 192.0.2.66"),
            (),
            [],
            0,
            id="an alias that also has an address",
        ),
        pytest.param(
            "A",
            (f"{WWW} 9 CNAME a.example.net.", f"{WWW} 9 CNAME b.example.net.", "a.example.net. 9 A 192.0.2.66"),
            (),
            [],
            0,
            id="two aliases of one name",
        ),
        pytest.param("A", (f"{WWW} 4000000 A 192.0.2.1",), (), ["192.0.2.1"], answer.MAX_TTL, id="a very long TTL"),
    ],
)
def test_addresses_are_learnt_for_the_asked_name_along_the_chain(
    question: Callable[..., Question],
    response: Callable[..., bytes],
    qtype: str,
    records: tuple[str, ...],
    additional: tuple[str, ...],
    addresses: list[str],
    ttl: int,
) -> None:
    found = answer.read(response(WWW, qtype, *records, additional=additional), question(WWW, qtype), 7)
    assert isinstance(found, Answer)
    family = socket.AF_INET6 if qtype == "AAAA" else socket.AF_INET
    assert [socket.inet_ntop(family, address) for address in found.addresses] == addresses
    assert found.ttl == ttl


@pytest.mark.parametrize("rcode", [1, 2, 3, 5])
def test_nothing_is_learnt_from_an_error(
    question: Callable[..., Question], response: Callable[..., bytes], rcode: int
) -> None:
    found = answer.read(response(WWW, "A", f"{WWW} 60 A 192.0.2.1", rcode=rcode), question(), 7)
    assert found == Answer(rcode)


def test_nothing_is_learnt_from_an_error_that_only_edns_tells(
    question: Callable[..., Question], response: Callable[..., bytes]
) -> None:
    found = answer.read(response(WWW, "A", f"{WWW} 60 A 192.0.2.1", rcode=16, edns=0), question(use_edns=0), 7)
    assert found == Answer(16)


def patched(wire: bytes, **changes: int) -> bytes:
    altered = bytearray(wire)
    for place, value in changes.items():
        altered[int(place[1:])] = value
    return bytes(altered)


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        ("b1", 8, "another ID"),
        ("b2", 0x01, "not a response"),
        ("b2", 0x91, "not a response"),
        ("b5", 0, "one question"),
        ("b5", 2, "one question"),
        ("b13", ord("x"), "another question"),
        ("b13", ord("W"), "another question"),
    ],
)
def test_what_does_not_fit_the_question_is_foreign(
    question: Callable[..., Question], response: Callable[..., bytes], place: str, value: int, problem: str
) -> None:
    found = answer.read(patched(response(WWW, "A", f"{WWW} 60 A 192.0.2.1"), **{place: value}), question(), 7)
    assert isinstance(found, Foreign)
    assert problem in found.problem


def test_an_early_error_may_leave_the_question_out(question: Callable[..., Question]) -> None:
    assert answer.read(b"\0\x07\x81\x81" + bytes(8), question(), 7) == Answer(1)
    assert isinstance(answer.read(b"\0\x07\x81\x80" + bytes(8), question(), 7), Foreign)


def test_the_right_answer_with_unreadable_records_is_invalid_unless_it_says_it_is_cut(
    question: Callable[..., Question], response: Callable[..., bytes]
) -> None:
    whole = response(WWW, "A", f"{WWW} 60 A 192.0.2.1")
    assert isinstance(answer.read(whole[:-2], question(), 7), Invalid)
    assert isinstance(answer.read(whole + b"\0", question(), 7), Invalid)
    cut = patched(whole, b2=0x83)
    assert answer.read(cut[:-2], question(), 7) == Answer(0, truncated=True)
    assert answer.read(cut, question(), 7) == Answer(0, (bytes([192, 0, 2, 1]),), 60, truncated=True)


def test_an_address_of_a_wrong_length_is_invalid(
    question: Callable[..., Question], response: Callable[..., bytes]
) -> None:
    wire = response(WWW, "A", f"{WWW} 60 A 192.0.2.1")
    wrong = wire[:-6] + b"\0\x05" + wire[-4:] + b"\0"
    assert isinstance(answer.read(wrong, question(), 7), Invalid)
