# SPDX-License-Identifier: Apache-2.0
"""The shortest way through an exchange, which nearly every request of a busy connection takes.

A request without a body, in one piece, alone, to a server that is connected; allowed as it is; and its answer in one
piece. Nothing is decided differently here: both ways use the same readers and the same policy, and what is not exactly
this is left, with nothing changed, to the subclass `exchange.Exchange`. It is there because each step of Python counts:
the general way takes twice as long.

Sans-IO like the exchange, but without commands: what it returns is all that is to be done.
"""

import math
from typing import Final

from l7observe.demand import Demand
from l7proxy import framing, request_head
from l7proxy.head import NO_BODY
from l7proxy.judge import FlowPolicy
from l7proxy.limits import Limits
from l7proxy.phase import Link, Phase
from l7proxy.transaction import Transaction

# A member of an enumeration is looked up through its class's class.
_ANSWER: Final = Phase.ANSWER
_HEAD: Final = Phase.HEAD
_OPEN: Final = Link.OPEN


class UsualExchange:
    """What an exchange knows, and its shortest way."""

    def __init__(self, policy: FlowPolicy, limits: Limits, now: float, demand: Demand | None = None) -> None:
        self._policy = policy
        self._limits = limits
        self._demand = demand or Demand()
        self.deadline = now + limits.head_timeout
        self.expires = math.inf
        self._phase = Phase.HEAD
        self._link = Link.NONE
        self._inbox = b""
        self._seen = 0
        self._paused = False
        self._goes_on = False  # asked to be told when others have had their turn
        self._client_slow = False
        self._server_slow = False
        self._client_ended = False
        self._draining = False
        self._requests = 0
        self._discarded = 0
        self._refused: framing.Body | None = None  # of a request that was refused
        self._current: Transaction | None = None  # the request under way

    def usual_request(self, data: bytes, now: float) -> bool:
        """The client sent `data`. Whether it goes to the server as it is, and that is all."""
        if self._phase is not _HEAD or self._link is not _OPEN or self._inbox or self._client_slow:
            return False
        head = request_head.usual(data, self._limits.max_head)
        if head is None or head.framing != NO_BODY:
            return False
        decision = self._policy.http(head.method, head.path, head.host, head.fields)
        if not decision.allowed or decision.audited or decision.edits:
            return False
        self._requests += 1
        self._current = Transaction(head, decision, data, now)
        self._phase = _ANSWER
        limits = self._limits
        self.deadline = now + limits.idle_timeout
        self.expires = now + limits.request_timeout
        return True

    def usual_answer(self, data: bytes, now: float) -> Transaction | None:
        """The server sent `data`. If it goes to the client as it is, and that is all: what it was the answer to."""
        current = self._current
        if (
            current is None
            or self._phase is not _ANSWER
            or self._link is not _OPEN
            or self._inbox
            or self._client_ended
            or self._draining
            or not current.whole(data)
        ):
            return None
        current.first_byte = now
        self._current, self._phase, self.expires = None, _HEAD, math.inf
        self.deadline = now + self._limits.keep_alive_timeout
        return current
