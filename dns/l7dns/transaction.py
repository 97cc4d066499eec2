# SPDX-License-Identifier: Apache-2.0
"""Transaction: the life of one query, from the client's bytes to the one answer it always gets.

    begin ──► Answered            malformed, refused
      └─────► Question ─► forward(id) ─► received ─► Learn ─► learnt ──► Answered
                                           │  └── foreign: None, keep waiting      (released, or SERVFAIL)
                                           └── unreadable ──────────────────────► Answered (SERVFAIL)
                              timeout, unreachable, overloaded ─────────────────► Answered (SERVFAIL)

The order is the invariant: what an answer teaches leaves as `Learn`, and only `learnt` lets the answer go. May not do
I/O, nor know a clock or a random source. Failure verdict: SERVFAIL with a reason, and REFUSED unless policy says yes.
"""

from enum import Enum, auto
from typing import Final
from typing import Protocol as Interface

import msgspec

from l7dns import answer, message, svcb
from l7dns.message import Ede, Malformed, Question, Rcode
from l7dns.names import WireError
from l7dns.svcb import Hints
from l7policy.verdict import Direction, Reason


class Decision(Interface):
    """What policy says of one name (`l7policy.enforcement.L7Decision`)."""

    @property
    def allowed(self) -> bool:
        """Whether the query may be forwarded."""

    @property
    def audited(self) -> bool:
        """It is allowed only because the endpoint is audited; `reason` is why it would be refused."""

    @property
    def reason(self) -> Reason:
        """Why not."""

    @property
    def rule(self) -> str:
        """The rule that decided."""

    @property
    def policies(self) -> tuple[str, ...]:
        """The policies that selected the endpoint."""

    @property
    def direction(self) -> Direction:
        """Of the policy that decided."""

    @property
    def endpoint(self) -> int:
        """The workload whose policy decided."""


class Judge(Interface):
    """Policy for one client and one name server (`l7policy.enforcement.FlowPolicy`)."""

    def dns(self, name: str) -> Decision:
        """Judges a canonical name."""


class Answered(msgspec.Struct, frozen=True):
    """The end: what goes to the client, and what the record says of it."""

    wire: bytes | None
    """None only for what cannot or must not be answered."""
    reason: Reason = Reason.NONE
    rcode: int = 0
    detail: str = ""
    addresses: tuple[bytes, ...] = ()
    ttl: int = 0
    """Of the addresses, in seconds."""
    aliases: tuple[bytes, ...] = ()
    """Targets of the CNAMEs that led there, in wire form."""


class Learn(msgspec.Struct, frozen=True):
    """Write these to the kernel, then say so with `Transaction.learnt`."""

    name: str
    addresses: tuple[bytes, ...]
    ttl: int
    aliases: tuple[bytes, ...] = ()
    """Targets of the CNAMEs on the way, in wire form."""


_WITHOUT_HINTS: Final = (int(message.Type.A), int(message.Type.AAAA))
_TRANSFERS: Final = (int(message.Type.AXFR), int(message.Type.IXFR))


class _State(Enum):
    NEW = auto()
    JUDGED = auto()
    FORWARDED = auto()
    LEARNING = auto()
    DONE = auto()


class Transaction:
    """One query. Each method may be called only in the order of the picture above; anything else is a bug."""

    __slots__ = ("_hints", "_id", "_pending", "_problem", "_state", "_wire", "decision", "question")

    def __init__(self, hints: Hints = Hints.LEARN) -> None:
        """A query not read yet. `hints` of SVCB records are learnt, kept or taken out."""
        self._hints = hints
        self._state = _State.NEW
        self._wire = b""
        self._id = 0
        self._problem = ""
        self._pending: Answered | None = None
        self.question: Question | None = None
        self.decision: Decision | None = None

    def begin(self, wire: bytes, judge: Judge | None) -> Question | Answered:
        """Reads and judges the client's bytes. `judge` is None when no workload is known at the client's address."""
        if self._state is not _State.NEW:
            raise AssertionError(f"begun in state {self._state}")
        self._state = _State.JUDGED
        query = message.parse_query(wire)
        if isinstance(query, Malformed):
            return self._end(Answered(query.reply, Reason.DNS_MALFORMED, query.rcode, query.problem))
        self._wire = wire
        self.question = query
        if judge is None:
            return self._refuse(Reason.ENDPOINT_UNKNOWN, "")
        if query.qclass != message.IN:
            return self._refuse(Reason.DNS_DENIED, f"class {query.qclass} is not proxied")
        if query.qtype in _TRANSFERS:
            return self._refuse(Reason.DNS_DENIED, "zone transfers are not proxied")
        self.decision = decision = judge.dns(query.name)
        if not decision.allowed:
            return self._refuse(decision.reason, "")
        return query

    def forward(self, upstream_id: int) -> bytes:
        """The query as it goes to the name server: the client's own bytes under a fresh ID. Again, if sent again."""
        if self._state is not _State.JUDGED and self._state is not _State.FORWARDED:
            raise AssertionError(f"forwarded in state {self._state}")
        self._state = _State.FORWARDED
        self._id = upstream_id
        return upstream_id.to_bytes(2, "big") + self._wire[2:]

    def received(self, wire: bytes) -> Learn | Answered | None:
        """Judges what came from the name server. None: not the answer, keep waiting."""
        question = self.question
        if self._state is not _State.FORWARDED or question is None:
            raise AssertionError(f"response in state {self._state}")
        found = answer.read(wire, question, self._id, hints=self._hints is Hints.LEARN)
        if isinstance(found, answer.Foreign):
            self._problem = found.problem
            return None
        if isinstance(found, answer.Invalid):
            return self._fail(Reason.DNS_UPSTREAM_INVALID, found.problem, Ede.INVALID_DATA)
        if self._hints is Hints.STRIP and question.qtype not in _WITHOUT_HINTS:
            try:
                wire = svcb.strip(wire)
            except WireError as error:
                return self._fail(Reason.DNS_UPSTREAM_INVALID, str(error), Ede.INVALID_DATA)
        result = Answered(
            self._wire[:2] + wire[2:], Reason.NONE, found.rcode, "", found.addresses, found.ttl, found.aliases
        )
        # A name that only an audit lets through is none that policy allows, and teaches nothing.
        if not found.addresses or (self.decision is not None and self.decision.audited):
            return self._end(result)
        self._state = _State.LEARNING
        self._pending = result
        return Learn(question.name, found.addresses, found.ttl, found.aliases)

    def learnt(self, problem: str = "") -> Answered:
        """The kernel holds the addresses (or does not: `problem`), so the answer may go."""
        if self._state is not _State.LEARNING or self._pending is None:
            raise AssertionError(f"learnt in state {self._state}")
        if problem:
            return self._fail(Reason.DNS_LEARN_FAILED, problem, Ede.OTHER)
        return self._end(self._pending)

    def timeout(self) -> Answered:
        """No fitting answer came in time."""
        if self._problem:
            return self._fail(Reason.DNS_UPSTREAM_INVALID, self._problem, Ede.INVALID_DATA)
        return self._fail(Reason.DNS_UPSTREAM_TIMEOUT, "", Ede.NO_REACHABLE_AUTHORITY)

    def unreachable(self, problem: str) -> Answered:
        """The name server could not be asked."""
        return self._fail(Reason.UPSTREAM_UNREACHABLE, problem, Ede.NO_REACHABLE_AUTHORITY)

    def overloaded(self, problem: str) -> Answered:
        """A limit was reached."""
        return self._fail(Reason.DNS_LIMIT, problem, Ede.OTHER)

    def _refuse(self, reason: Reason, detail: str) -> Answered:
        wire = message.reply(self._ident(), self._known(), Rcode.REFUSED, Ede.PROHIBITED, reason.text)
        return self._end(Answered(wire, reason, Rcode.REFUSED, detail))

    def _fail(self, reason: Reason, detail: str, error: Ede) -> Answered:
        wire = message.reply(self._ident(), self._known(), Rcode.SERVFAIL, error, reason.text)
        return self._end(Answered(wire, reason, Rcode.SERVFAIL, detail))

    def _end(self, answered: Answered) -> Answered:
        if self._state is _State.DONE:
            raise AssertionError("a second answer to one query")
        self._state = _State.DONE
        return answered

    def _ident(self) -> int:
        """The client's."""
        return int.from_bytes(self._wire[:2], "big")

    def _known(self) -> Question:
        if self.question is None:
            raise AssertionError("no question was read")
        return self.question
