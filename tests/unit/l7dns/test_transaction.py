# SPDX-License-Identifier: Apache-2.0
"""Every query ends in exactly one answer, and an answer never leaves before what it teaches is learnt."""

from collections.abc import Callable
from dataclasses import dataclass, field

import dns.message
import dns.rcode
import pytest

from l7dns.message import Question, Rcode
from l7dns.transaction import Answered, Learn, Transaction
from l7policy.flowpolicy import L7Decision
from l7policy.verdict import Direction, Reason

WWW = "www.example.com."


@dataclass
class Judge:
    """Allows some names."""

    allowed: tuple[str, ...] = (WWW,)
    asked: list[str] = field(default_factory=list)

    def dns(self, name: str) -> L7Decision:
        self.asked.append(name)
        passed = name in self.allowed
        reason = Reason.NONE if passed else Reason.DNS_DENIED
        return L7Decision(passed, reason, "shop/dns egress[0]", ("shop/dns",), Direction.EGRESS, 7)


def query(name: str = WWW, qtype: str = "A", qclass: str = "IN") -> bytes:
    return dns.message.make_query(name, qtype, qclass, id=0x1234, use_edns=0).to_wire()


def rcode(answered: Answered) -> int:
    assert answered.wire is not None
    found = dns.message.from_wire(answered.wire)
    assert found.id == 0x1234
    assert found.rcode() == answered.rcode
    return answered.rcode


@pytest.mark.parametrize(
    ("wire", "judge", "reason", "code"),
    [
        (query("other.example.com."), Judge(), Reason.DNS_DENIED, Rcode.REFUSED),
        (query(WWW), None, Reason.ENDPOINT_UNKNOWN, Rcode.REFUSED),
        (query(WWW, qclass="CH"), Judge(), Reason.DNS_DENIED, Rcode.REFUSED),
        (query(WWW, "AXFR"), Judge(), Reason.DNS_DENIED, Rcode.REFUSED),
        (query()[:-3], Judge(), Reason.DNS_MALFORMED, Rcode.FORMERR),
    ],
)
def test_what_may_not_be_asked_is_answered_at_once(
    wire: bytes, judge: Judge | None, reason: Reason, code: Rcode
) -> None:
    answered = Transaction().begin(wire, judge)
    assert isinstance(answered, Answered)
    assert (answered.reason, rcode(answered)) == (reason, code)


def test_a_name_is_judged_without_case_and_forwarded_with_it() -> None:
    transaction, judge = Transaction(), Judge()
    assert isinstance(transaction.begin(query("wWw.Example.COM."), judge), Question)
    assert judge.asked == [WWW]
    sent = transaction.forward(0x0777)
    assert sent == b"\x07\x77" + query("wWw.Example.COM.")[2:]


def forwarded(name: str = WWW) -> Transaction:
    transaction = Transaction()
    transaction.begin(query(name), Judge())
    transaction.forward(7)
    return transaction


def test_an_answer_waits_for_what_it_teaches(response: Callable[..., bytes]) -> None:
    transaction = forwarded()
    wire = response(WWW, "A", f"{WWW} 30 A 192.0.2.1")
    learn = transaction.received(wire)
    assert learn == Learn(WWW, (bytes([192, 0, 2, 1]),), 30)
    answered = transaction.learnt()
    assert answered == Answered(b"\x12\x34" + wire[2:], addresses=(bytes([192, 0, 2, 1]),), ttl=30)


def test_an_answer_that_could_not_be_learnt_is_withheld(response: Callable[..., bytes]) -> None:
    transaction = forwarded()
    transaction.received(response(WWW, "A", f"{WWW} 30 A 192.0.2.1"))
    answered = transaction.learnt("the kernel table ipcache is full")
    assert (answered.reason, rcode(answered)) == (Reason.DNS_LEARN_FAILED, Rcode.SERVFAIL)
    assert answered.addresses == ()


@pytest.mark.parametrize("code", [0, 3])
def test_an_answer_that_teaches_nothing_is_released_at_once(response: Callable[..., bytes], code: int) -> None:
    answered = forwarded().received(response(WWW, "A", rcode=code))
    assert isinstance(answered, Answered)
    assert (answered.reason, rcode(answered)) == (Reason.NONE, code)


def test_foreign_messages_are_waited_out_and_named_when_nothing_better_comes(response: Callable[..., bytes]) -> None:
    transaction = forwarded()
    assert transaction.received(response("other.example.com.", "A")) is None
    answered = transaction.timeout()
    assert (answered.reason, answered.detail) == (Reason.DNS_UPSTREAM_INVALID, "another question")
    assert rcode(answered) == Rcode.SERVFAIL


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (lambda transaction: transaction.timeout(), Reason.DNS_UPSTREAM_TIMEOUT),
        (lambda transaction: transaction.unreachable("refused"), Reason.UPSTREAM_UNREACHABLE),
        (lambda transaction: transaction.overloaded("many"), Reason.DNS_LIMIT),
        (lambda transaction: transaction.received(bytes.fromhex("000781800001")), None),
    ],
)
def test_every_failure_is_a_servfail_with_its_reason(
    end: Callable[[Transaction], Answered | None], reason: Reason | None
) -> None:
    answered = end(forwarded())
    if reason is None:
        assert answered is None
        return
    assert answered is not None
    assert (answered.reason, rcode(answered)) == (reason, Rcode.SERVFAIL)


@pytest.mark.parametrize(
    "misuse",
    [
        lambda transaction: transaction.begin(query(), Judge()),
        lambda transaction: transaction.learnt(),
        lambda transaction: (transaction.timeout(), transaction.timeout()),
        lambda transaction: (transaction.timeout(), transaction.received(b"")),
    ],
)
def test_calls_out_of_order_are_bugs(misuse: Callable[[Transaction], object]) -> None:
    with pytest.raises(AssertionError):
        misuse(forwarded())


def test_a_query_may_be_sent_again_under_another_id(response: Callable[..., bytes]) -> None:
    transaction = forwarded()
    assert transaction.forward(9)[:2] == b"\0\x09"
    assert transaction.received(response(WWW, "A")) is None  # that was for the first


def test_the_aliases_on_the_way_are_told(response: Callable[..., bytes]) -> None:
    transaction = forwarded()
    learn = transaction.received(
        response(WWW, "A", f"{WWW} 300 CNAME Edge.example.net.", "edge.example.net. 30 A 192.0.2.1")
    )
    assert learn == Learn(WWW, (bytes([192, 0, 2, 1]),), 30, (b"\x04edge\x07example\x03net\0",))
