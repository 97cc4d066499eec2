# SPDX-License-Identifier: Apache-2.0
"""One request that was allowed, and its answer: what an exchange knows of the one it has under way.

Sans-IO. It makes the records of the request; `exchange` decides what happens.
"""

import math

from l7observe.demand import Demand
from l7policy.verdict import Reason, Verdict
from l7proxy import framing
from l7proxy.answer import Answer
from l7proxy.commands import Record
from l7proxy.head import NO_BODY, RequestHead
from l7proxy.judge import Decision, FlowPolicy


class Transaction(Answer):
    """The answer as it arrives, and the request that it belongs to."""

    __slots__ = ("began", "body", "decision", "first_byte", "request_bytes", "unsent")

    def __init__(self, request: RequestHead, decision: Decision, head: bytes, now: float) -> None:
        """`head` is what is sent of `request`: the same bytes, unless a rule changed a header."""
        super().__init__(request)
        self.decision = decision
        self.unsent = head
        self.body = None if request.framing == NO_BODY else framing.body(request.framing)
        """The request's body, as far as it is followed."""
        self.request_bytes = 0
        """Of the body, that were sent on."""
        self.began = now
        self.first_byte = math.inf
        """When the final head of the answer was there."""

    @property
    def may_be_followed_by_another(self) -> bool:
        """Whether both sides keep the connection."""
        return self.request.keep_alive and self.head is not None and self.head.keep_alive and not self.rest

    def counted(self, demand: Demand) -> bool:
        """Counts it. Whether a record that it passed is wanted by somebody, or by a rule."""
        head, decision, tally = self.head, self.decision, demand.tally
        if head is not None:
            tally.seconds.observe(self.first_byte - self.began)
        if not decision.audited:  # counted when it was judged
            tally.passed(0 if head is None else head.status)
        return demand.forwarded or bool(decision.missing or decision.rejected)

    def passed(self, demand: Demand, detail: str = "") -> tuple[Record, ...]:
        """Counts it. The record that it passed, if there is to be one."""
        if not self.counted(demand):
            return ()
        return (self.record(Verdict.FORWARDED, Reason.NONE, 0 if self.head is None else self.head.status, detail),)

    def outdated(self, policy: FlowPolicy) -> bool:
        """Whether policy says something else of it by now, so that what was to be sent must not be."""
        request, before = self.request, self.decision
        now = policy.http(request.method, request.path, request.host, request.fields)
        return (now.allowed, now.audited, now.edits) != (before.allowed, before.audited, before.edits)

    def judged_again(self, policy: FlowPolicy) -> Record | None:
        """What is to be recorded of a tunnel now: that policy closes it (DROPPED), or lets it go on only by AUDIT."""
        request = self.request
        decision = policy.http(request.method, request.path, request.host, request.fields)
        was_audited, self.decision = self.decision.audited, decision
        if not decision.allowed:
            return self.record(Verdict.DROPPED, Reason.POLICY_CHANGED, 0, "tunnel closed")
        if decision.audited and not was_audited:
            return self.record(Verdict.AUDIT, decision.reason, 0, "tunnel goes on")
        return None

    def cut_short(self) -> Record:
        """The record that the server did not answer to the end."""
        if self.head is None:
            detail = "server closed the connection before answering"
            return self.record(Verdict.ERROR, Reason.UPSTREAM_UNREACHABLE, 0, detail)
        return self.record(Verdict.ERROR, Reason.UPSTREAM_UNREACHABLE, self.head.status, "answer cut short")

    def record(self, verdict: Verdict, reason: Reason, status: int, detail: str = "") -> Record:
        """What is to be recorded of it. Its head is printable ASCII in all that is shown."""
        request = self.request
        return Record(
            verdict,
            reason,
            detail,
            request.method.decode("ascii"),
            request.host.decode("ascii"),
            request.path.decode("ascii"),
            status,
            self.decision,
            request.minor,
            0.0 if self.head is None else self.first_byte - self.began,
            self.request_bytes,
            self.size,
        )
