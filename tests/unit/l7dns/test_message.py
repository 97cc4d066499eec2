# SPDX-License-Identifier: Apache-2.0
"""Queries are read in one way or answered with what is wrong with them."""

import struct
from collections.abc import Callable

import dns.message
import pytest

from l7dns import message
from l7dns.message import Ede, Malformed, Question, Rcode

NAME = b"\x03WwW\x07eXample\x03com\0"
ASKED = NAME + b"\0\x01\0\x01"
OPT = b"\0\0\x29\x10\0\0\0\x80\0\0\0"


def wire(body: bytes, flags: int = 0x0100, counts: tuple[int, int, int, int] = (1, 0, 0, 0)) -> bytes:
    return struct.pack("!HHHHHH", 0xABCD, flags, *counts) + body


def test_a_plain_query_is_read_with_its_letters_case_kept() -> None:
    found = message.parse_query(wire(ASKED))
    assert found == Question(0x0100, ASKED, "www.example.com.", 1, 1, None, ASKED[:-4].lower())


@pytest.mark.parametrize(
    ("data", "problem", "rcode"),
    [
        (b"\xab\xcd\x01", "shorter than a header", None),
        (wire(ASKED, flags=0x8100), "a response", Rcode.FORMERR),
        (wire(ASKED, flags=0x8105), "a response", None),
        (wire(ASKED, flags=0x2000), "opcode", Rcode.NOTIMP),
        (wire(ASKED, flags=0x2800), "opcode", Rcode.NOTIMP),
        (wire(b"", counts=(0, 0, 0, 0)), "0 questions", Rcode.FORMERR),
        (wire(ASKED + ASKED, counts=(2, 0, 0, 0)), "2 questions", Rcode.FORMERR),
        (wire(ASKED + b"\0"), "bytes behind", Rcode.FORMERR),
        (wire(ASKED[:-1]), "cut short", Rcode.FORMERR),
        (wire(NAME[:5]), "past the end", Rcode.FORMERR),
        (wire(b"\xc0\x0c\0\x01\0\x01"), "compressed", Rcode.FORMERR),
        (wire(b"\x03www\xc0\x0c\0\x01\0\x01"), "compressed", Rcode.FORMERR),
        (wire(b"\x40" + b"a" * 64 + b"\0\0\x01\0\x01"), "compressed or extended", Rcode.FORMERR),
        (wire(ASKED, counts=(1, 0, 0, 1)), "past the end", Rcode.FORMERR),
        (wire(ASKED + OPT + OPT, counts=(1, 0, 0, 2)), "second OPT", Rcode.FORMERR),
        (wire(ASKED + OPT, counts=(1, 1, 0, 0)), "outside the additional", Rcode.FORMERR),
        (wire(ASKED + b"\x01a" + OPT, counts=(1, 0, 0, 1)), "with an owner", Rcode.FORMERR),
        (wire(ASKED + OPT[:-2] + b"\0\x09", counts=(1, 0, 0, 1)), "data cut short", Rcode.FORMERR),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_with_its_id(data: bytes, problem: str, rcode: Rcode | None) -> None:
    found = message.parse_query(data)
    assert isinstance(found, Malformed)
    assert problem in found.problem
    if rcode is None:
        assert found.reply is None
    else:
        assert found.reply is not None
        theirs = dns.message.from_wire(found.reply)
        assert (theirs.id, theirs.rcode()) == (0xABCD, rcode)


def test_our_error_never_draws_another_error_from_ourselves() -> None:
    first = message.parse_query(wire(ASKED, flags=0x8100))
    assert isinstance(first, Malformed)
    assert first.reply is not None
    second = message.parse_query(first.reply)
    assert isinstance(second, Malformed)
    assert second.reply is None


def test_edns_of_any_version_and_ixfr_authority_are_read(question: Callable[..., Question]) -> None:
    found = message.parse_query(wire(ASKED + OPT, counts=(1, 0, 0, 1)))
    assert isinstance(found, Question)
    assert found.edns is not None
    assert (found.edns.payload, found.edns.flags) == (4096, 0x8000)
    other = question(use_edns=1)
    assert other.edns is not None
    assert other.edns.version == 1


@pytest.mark.parametrize("edns", [False, True])
@pytest.mark.parametrize("rcode", [Rcode.REFUSED, Rcode.SERVFAIL])
def test_our_answer_echoes_the_question_and_speaks_edns_only_to_those_who_do(edns: bool, rcode: Rcode) -> None:
    asked = wire(ASKED + OPT, counts=(1, 0, 0, 1)) if edns else wire(ASKED)
    question = message.parse_query(asked)
    assert isinstance(question, Question)
    reply = message.reply(0xABCD, question, rcode, Ede.PROHIBITED, "No DNS rule allows the name")
    assert reply[12 : 12 + len(ASKED)] == ASKED
    theirs = dns.message.from_wire(reply)
    assert (theirs.id, theirs.rcode(), theirs.edns) == (0xABCD, rcode, 0 if edns else -1)
    if edns:
        assert "No DNS rule allows the name" in str(theirs.options[0])


@pytest.mark.parametrize(
    ("number", "name"), [(1, "A"), (28, "AAAA"), (65, "HTTPS"), (65534, "TYPE65534"), (0, "TYPE0")]
)
def test_types_have_names_or_numbers(number: int, name: str) -> None:
    assert message.type_name(number) == name
