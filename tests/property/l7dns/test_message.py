# SPDX-License-Identifier: Apache-2.0
"""The query parser never crashes, and reads what an independent implementation reads."""

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
from hypothesis import given, settings
from hypothesis import strategies as st

from l7dns import message, names
from l7dns.message import Malformed, Question, Rcode

LABELS = st.lists(st.binary(min_size=1, max_size=63), max_size=5).filter(
    lambda labels: sum(len(label) + 1 for label in labels) < 255
)
QUERIES = st.builds(
    dict,
    labels=LABELS,
    qtype=st.integers(1, 65535).filter(lambda number: number not in {41, 249, 250}),
    qclass=st.sampled_from([1, 3, 4, 255]),
    edns=st.one_of(st.none(), st.tuples(st.integers(512, 4096), st.booleans(), st.binary(max_size=8))),
    recursion=st.booleans(),
    ident=st.integers(0, 65535),
)


def built(query: dict) -> dns.message.QueryMessage:
    made = dns.message.QueryMessage(id=query["ident"])
    made.flags = dns.flags.RD if query["recursion"] else 0
    name = dns.name.Name([*query["labels"], b""])
    made.find_rrset(made.question, name, query["qclass"], query["qtype"], create=True, force_unique=True)
    if query["edns"] is not None:
        payload, wants_dnssec, option = query["edns"]
        flags = dns.flags.DO if wants_dnssec else 0
        made.use_edns(0, flags, payload, options=[dns.edns.GenericOption(65001, option)])
    return made


@given(st.binary(max_size=600))
@settings(max_examples=200)
def test_random_bytes_are_a_question_or_malformed_and_never_an_exception(wire: bytes) -> None:
    found = message.parse_query(wire)
    assert isinstance(found, Question | Malformed)
    if isinstance(found, Malformed) and found.reply is not None:
        assert found.reply[:2] == wire[:2]


@given(QUERIES, st.data())
@settings(max_examples=200)
def test_damaged_queries_are_read_strictly_or_not_at_all(query: dict, data: st.DataObject) -> None:
    wire = bytearray(built(query).to_wire())
    for _ in range(data.draw(st.integers(1, 3))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    found = message.parse_query(bytes(wire[: data.draw(st.integers(0, len(wire)))]))
    if isinstance(found, Question):
        # Nothing in what is forwarded is outside of what was read.
        assert found.section == bytes(wire[12 : 12 + len(found.section)])


@given(QUERIES)
@settings(max_examples=200)
def test_a_question_is_read_as_dnspython_reads_it(query: dict) -> None:
    wire = built(query).to_wire()
    found = message.parse_query(wire)
    assert isinstance(found, Question)
    theirs = dns.message.from_wire(wire)
    asked = theirs.question[0]
    assert (found.qtype, found.qclass) == (asked.rdtype, asked.rdclass)
    assert found.section[:-4] == asked.name.to_wire()
    assert found.name == names.text(asked.name.canonicalize().to_wire())
    assert (found.edns is not None) == (theirs.edns >= 0)
    if found.edns is not None:
        assert (found.edns.payload, found.edns.version) == (theirs.payload, theirs.edns)


@given(QUERIES, st.sampled_from([Rcode.REFUSED, Rcode.SERVFAIL, Rcode.NXDOMAIN]))
@settings(max_examples=200)
def test_our_own_answers_are_what_dnspython_takes_for_an_answer(query: dict, rcode: Rcode) -> None:
    asked = built(query)
    question = message.parse_query(asked.to_wire())
    assert isinstance(question, Question)
    answer = dns.message.from_wire(message.reply(asked.id, question, rcode, message.Ede.PROHIBITED, "no"))
    assert asked.is_response(answer)
    assert answer.rcode() == rcode
    assert answer.question[0].name.to_wire() == asked.question[0].name.to_wire()  # letters' case included
    assert (answer.edns >= 0) == (query["edns"] is not None)
    assert bool(answer.flags & dns.flags.RD) == query["recursion"]
