# SPDX-License-Identifier: Apache-2.0
"""What an answer teaches is what an independent implementation finds by walking the chain."""

import ipaddress
import unittest.mock

import dns.flags
import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from hypothesis import given, settings
from hypothesis import strategies as st

from l7dns import answer, message
from l7dns.answer import Answer, Foreign, Invalid
from l7dns.message import Question

NAMES = st.sampled_from([f"{label}.example.com." for label in "abcdef"])
A, AAAA = dns.rdatatype.A, dns.rdatatype.AAAA
V4 = st.integers(1, 254).map(lambda last: f"192.0.2.{last}")
V6 = st.integers(1, 254).map(lambda last: f"2001:db8::{last:x}")
TTLS = st.integers(0, 100_000)
ALIAS = st.tuples(st.just("CNAME"), NAMES, NAMES, TTLS)
RECORDS = st.lists(
    st.one_of(
        ALIAS,
        ALIAS,
        st.tuples(st.just("A"), NAMES, V4, TTLS),
        st.tuples(st.just("AAAA"), NAMES, V6, TTLS),
        st.tuples(st.just("TXT"), NAMES, st.just('"text"'), TTLS),
    ),
    max_size=8,
)


def question(name: str, qtype: int) -> tuple[dns.message.QueryMessage, Question]:
    made = dns.message.make_query(name, qtype)
    read = message.parse_query(made.to_wire())
    assert isinstance(read, Question)
    return made, read


def expected(asked: str, qtype: int, records: list[tuple[str, str, str, int]]) -> tuple[set[bytes], int]:
    """The chain, walked over plain tuples."""
    wanted = {A: {"A"}, AAAA: {"AAAA"}}.get(qtype, {"A", "AAAA"})
    aliases = {kind_owner[1]: kind_owner for kind_owner in records if kind_owner[0] == "CNAME"}
    for owner in aliases:
        if len({target for kind, name, target, _ in records if (kind, name) == ("CNAME", owner)}) > 1:
            return set(), 0
    owner, ttl = asked, answer.MAX_TTL
    for _ in range(20):
        found = [(value, seconds) for kind, name, value, seconds in records if kind in wanted and name == owner]
        if found and owner in aliases:
            return set(), 0
        if found:
            return (
                {ipaddress.ip_address(value).packed for value, _ in found},
                min(ttl, *(seconds for _, seconds in found)),
            )
        if owner not in aliases:
            return set(), 0
        ttl = min(ttl, next(seconds for kind, name, _, seconds in records if (kind, name) == ("CNAME", owner)))
        owner = aliases[owner][2]
    return set(), 0


@given(NAMES, st.sampled_from([A, AAAA, dns.rdatatype.ANY]), RECORDS)
@settings(max_examples=200)
def test_addresses_are_those_at_the_end_of_the_chain(
    name: str, qtype: int, records: list[tuple[str, str, str, int]]
) -> None:
    asked, read = question(name, qtype)
    response = dns.message.make_response(asked)
    for kind, owner, value, ttl in records:
        response.answer.append(dns.rrset.from_text(owner, ttl, "IN", kind, value))
    found = answer.read(response.to_wire(), read, asked.id)
    assert isinstance(found, Answer)
    addresses, ttl = expected(name, qtype, records)
    assert set(found.addresses) == addresses
    if addresses:
        assert found.ttl == ttl


@given(st.binary(max_size=300))
@settings(max_examples=200)
def test_random_bytes_never_crash_the_reader_nor_teach_anything(noise: bytes) -> None:
    asked, read = question("a.example.com.", A)
    for wire in (noise, asked.to_wire()[:2] + b"\x81\x80" + asked.to_wire()[4:] + noise):
        found = answer.read(wire, read, asked.id)
        assert isinstance(found, Answer | Foreign | Invalid)
        assert not (isinstance(found, Answer) and found.addresses)


@given(RECORDS, st.data())
@settings(max_examples=200)
def test_a_damaged_answer_is_read_or_refused_but_never_crashes(
    records: list[tuple[str, str, str, int]], data: st.DataObject
) -> None:
    asked, read = question("a.example.com.", A)
    response = dns.message.make_response(asked)
    for kind, owner, value, ttl in records:
        response.answer.append(dns.rrset.from_text(owner, ttl, "IN", kind, value))
    wire = bytearray(response.to_wire())
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    found = answer.read(bytes(wire[: data.draw(st.integers(0, len(wire)))]), read, asked.id)
    assert isinstance(found, Answer | Foreign | Invalid)


@given(
    st.sampled_from([A, AAAA, dns.rdatatype.ANY]),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 0xFFFFFFFF)), max_size=12),
    st.sampled_from([-1, 0, 1]),
    st.booleans(),
    st.data(),
)
@settings(max_examples=300)
def test_the_usual_answer_is_read_the_short_way_as_it_is_the_long_way(
    qtype: int, records: list[tuple[int, int]], edns: int, damaged: bool, data: st.DataObject
) -> None:
    asked, read = question("a.example.com.", qtype)
    size = {A: 4, AAAA: 16}.get(qtype, 4)
    body = b"".join(
        b"\xc0\x0c"
        + qtype.to_bytes(2, "big")
        + b"\0\1"
        + ttl.to_bytes(4, "big")
        + bytes((0, size))
        + bytes(size - 1)
        + bytes([last])
        for last, ttl in records
    )
    opt = b"" if edns < 0 else b"\0\0\x29\x04\xd0" + bytes((edns, 0, 0, 0, 0, 0))
    head = asked.to_wire()[:2] + b"\x81\x80\0\x01" + len(records).to_bytes(2, "big") + bytes((0, 0, 0, bool(opt)))
    wire = bytearray(head + read.section + body + opt)
    if damaged:
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    short = answer.read(bytes(wire), read, asked.id)
    with unittest.mock.patch.object(answer, "_plain", return_value=None):
        assert answer.read(bytes(wire), read, asked.id) == short
