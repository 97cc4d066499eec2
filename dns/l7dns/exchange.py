# SPDX-License-Identifier: Apache-2.0
"""Exchange: one query that may be forwarded, around its `Transaction`: who asks whom, until when, and who is asked.

May not touch sockets, nor read a clock. Failure verdict: the transaction's; an exchange ends exactly once, with an
answer or because the client has gone.
"""

from collections.abc import Callable
from typing import Protocol as Interface

from l7dns.sockets import Address
from l7dns.svcb import Hints
from l7dns.transaction import Answered, Learn, Transaction
from l7dns.upstream import Asked
from l7policy.enforcement import FlowPolicy
from l7policy.verdict import Protocol

Respond = Callable[[Address, Address, bytes | None], None]
"""Gives the client its answer, from the name server it asked. None: there is nothing to send."""


class Query:
    """Who asks whom, and how the answer gets there."""

    __slots__ = ("client", "policy", "protocol", "respond", "server", "transaction")

    def __init__(
        self,
        client: Address,
        server: Address,
        protocol: Protocol,
        policy: FlowPolicy | None,
        respond: Respond,
        hints: Hints = Hints.LEARN,
    ) -> None:
        """`server` is the name server that the client asked."""
        self.client = client
        self.server = server
        self.protocol = protocol
        self.policy = policy
        self.respond = respond
        self.transaction = Transaction(hints)


class Owner(Interface):
    """What an exchange asks of the server."""

    def learn(self, step: Learn, query: Query) -> str:
        """Writes what an answer teaches to the kernel. Returns what failed, or nothing."""

    def left(self, exchange: "Exchange") -> None:
        """An exchange has ended."""

    def report(self, query: Query, answered: Answered, begun: float = 0.0) -> None:
        """Counts and records how a query ended; `begun` is when it was asked, if it was forwarded."""


class Exchange:
    """A query that waits for an answer. A `l7dns.upstream.Waiter`."""

    __slots__ = ("_owner", "_transaction", "asked", "begun", "done", "query_of")

    def __init__(self, owner: Owner, query: Query, now: float) -> None:
        """Begun `now`, in seconds since boot; whoever owns it calls `timeout` when the time is over."""
        self._owner = owner
        self._transaction = query.transaction
        self.query_of = query
        self.begun = now
        self.asked: Asked | None = None
        self.done = False

    def query(self, ident: int) -> bytes:
        """See `Waiter`."""
        return self._transaction.forward(ident)

    def received(self, message: bytes) -> bool:
        """See `Waiter`. The kernel first, the answer second."""
        step = self._transaction.received(message)
        if step is None:
            return False
        if isinstance(step, Learn):
            step = self._transaction.learnt(self._owner.learn(step, self.query_of))
        self._end(step)
        return True

    def failed(self, problem: str) -> None:
        """See `Waiter`."""
        self._end(self._transaction.unreachable(problem))

    def abandoned(self) -> None:
        """See `Waiter`."""
        if not self.done:
            self._leave()

    def waits_for(self, asked: Asked | None) -> None:
        """Where the query stands at the name server; None if asking failed at once."""
        if asked is None:
            return
        if self.done:
            asked.forget()
        else:
            self.asked = asked

    def timeout(self) -> None:
        """No answer came in time."""
        self._end(self._transaction.timeout())

    def _end(self, answered: Answered) -> None:
        if self.done:
            raise AssertionError("a second end of one exchange")
        self._leave()
        query = self.query_of
        self._owner.report(query, answered, self.begun)
        query.respond(query.server, query.client, answered.wire)

    def _leave(self) -> None:
        self.done = True
        if self.asked is not None:
            self.asked.forget()
        self._owner.left(self)
