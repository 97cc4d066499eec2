# SPDX-License-Identifier: Apache-2.0
"""Hints of SVCB and HTTPS records, as dnspython writes and reads them."""

import dns.message
import dns.rrset
import pytest

from l7dns import answer, message
from l7dns.answer import Answer, Invalid
from l7dns.message import Question
from l7dns.names import WireError
from l7dns.svcb import Hints, strip
from l7dns.transaction import Answered, Learn, Transaction

NAME = "www.example.com."
HINTED = f'{NAME} 300 HTTPS 1 . alpn="h2,h3" ipv4hint="192.0.2.1,192.0.2.2" port="8443" ipv6hint="2001:db8::1"'
ALIAS = f"{NAME} 60 CNAME edge.example.net."
FAR = 'edge.example.net. 20 HTTPS 1 svc.example.net. ipv4hint="192.0.2.9"'


def response(*records: str, qtype: str = "HTTPS", additional: tuple[str, ...] = ()) -> bytes:
    made = dns.message.make_response(dns.message.make_query(NAME, qtype, id=7))
    for section, texts in ((made.answer, records), (made.additional, additional)):
        for text in texts:
            owner, ttl, kind, data = text.split(maxsplit=3)
            section.append(dns.rrset.from_text(owner, int(ttl), "IN", kind, data))
    return made.to_wire()


def question(qtype: str = "HTTPS") -> Question:
    found = message.parse_query(dns.message.make_query(NAME, qtype, id=7).to_wire())
    assert isinstance(found, Question)
    return found


@pytest.mark.parametrize(
    ("records", "addresses", "ttl"),
    [
        ((HINTED,), 3, 300),
        ((ALIAS, FAR), 1, 20),
        ((FAR,), 0, 0),  # of another owner than the one that was asked for
        ((f"{NAME} 300 HTTPS 0 edge.example.net.",), 0, 0),
        ((f'{NAME} 300 HTTPS 1 . alpn="h2"',), 0, 0),
    ],
)
def test_hints_are_addresses_of_the_asked_name_if_wanted(records: tuple[str, ...], addresses: int, ttl: int) -> None:
    found = answer.read(response(*records), question(), 7, hints=True)
    assert isinstance(found, Answer)
    assert (len(found.addresses), found.ttl) == (addresses, ttl)
    kept = answer.read(response(*records), question(), 7)
    assert isinstance(kept, Answer)
    assert kept.addresses == ()


def test_stripped_answers_read_as_before_but_for_the_hints() -> None:
    more = ("edge.example.net. 20 A 192.0.2.9", "mail.example.net. 20 MX 10 mx.example.net.")
    wire = response(ALIAS, FAR, HINTED, additional=more)
    before, after = dns.message.from_wire(wire), dns.message.from_wire(strip(wire))
    assert len(strip(wire)) < len(wire)
    assert "hint" not in after.to_text()
    assert 'alpn="h2,h3"' in after.to_text()
    assert [rrset.to_text() for rrset in after.additional] == [rrset.to_text() for rrset in before.additional]
    assert [(rrset.name, rrset.rdtype, rrset.ttl) for rrset in after.answer] == [
        (rrset.name, rrset.rdtype, rrset.ttl) for rrset in before.answer
    ]
    assert strip(strip(wire)) == strip(wire)
    plain = response(f"{NAME} 60 A 192.0.2.1", qtype="A")
    assert strip(plain) is plain


@pytest.mark.parametrize("cut", [1, 3, 5, 17])
def test_a_hint_that_is_cut_short_is_invalid_and_never_half_read(cut: int) -> None:
    whole = response(f'{NAME} 300 HTTPS 1 . ipv6hint="2001:db8::1"')
    at = whole.index(b"\0\6\0\x10")
    damaged = bytearray(whole)
    damaged[at + 3] = 0x10 - cut if cut < 16 else 0x11
    assert isinstance(answer.read(bytes(damaged), question(), 7, hints=True), Invalid)
    with pytest.raises(WireError):
        strip(bytes(damaged) if cut != 16 else whole)


@pytest.mark.parametrize(
    ("hints", "learnt", "hinted"), [(Hints.LEARN, True, True), (Hints.KEEP, False, True), (Hints.STRIP, False, False)]
)
def test_a_transaction_learns_keeps_or_strips(hints: Hints, learnt: bool, hinted: bool) -> None:
    class Judge:
        def dns(self, name: str) -> object:
            return type("Decision", (), {"allowed": True, "audited": False})()

    transaction = Transaction(hints)
    transaction.begin(dns.message.make_query(NAME, "HTTPS", id=9).to_wire(), Judge())
    transaction.forward(7)
    step = transaction.received(response(HINTED))
    assert isinstance(step, Learn) == learnt
    answered = transaction.learnt() if isinstance(step, Learn) else step
    assert isinstance(answered, Answered)
    assert answered.wire is not None
    assert ("ipv4hint" in dns.message.from_wire(answered.wire).to_text()) == hinted
