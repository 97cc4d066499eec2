# SPDX-License-Identifier: Apache-2.0
"""What it means that nothing happened for too long: who is to blame, and what the client is told.

Pure. A time-out never goes unrecorded, but for the end of a connection that was kept alive and not used.
"""

from typing import Final, NamedTuple

from l7policy.verdict import Reason
from l7proxy.limits import Limits
from l7proxy.phase import Link, Phase


class Fault(NamedTuple):
    """A time-out. Status 0: the client is told nothing."""

    status: int
    reason: Reason
    detail: str
    text: bytes = b""


_NOTHING_SENT: Final = Fault(0, Reason.HTTP_TIMEOUT, "client sent nothing")
_HEAD: Final = Fault(408, Reason.HTTP_TIMEOUT, "", b"request timeout\r\n")
_BODY: Final = Fault(408, Reason.HTTP_TIMEOUT, "request body stalled", b"request timeout\r\n")
_UNREAD: Final = Fault(0, Reason.HTTP_TIMEOUT, "client does not read the answer")
_CONNECT: Final = Fault(
    503,
    Reason.UPSTREAM_UNREACHABLE,
    "server did not accept the connection in time",
    b"upstream connect error\r\n",
)
_ANSWER: Final = Fault(
    504, Reason.UPSTREAM_UNREACHABLE, "server did not answer in time", b"upstream response timeout\r\n"
)
_STILL: Final = Fault(0, Reason.HTTP_TIMEOUT, "no byte in either direction")
_WHOLE: Final = Fault(0, Reason.HTTP_TIMEOUT, "took longer than any request may")


def prolonged(due: float, now: float, size: int, limits: Limits, *, waits: bool) -> float:
    """The deadline after `size` bytes went by. `waits`: it is not the client's turn to send or to read.

    If it is, each byte adds the time that it may take and no more, so that one now and then is too slow.
    """
    if waits:
        return now + limits.idle_timeout
    most = now + limits.stall_timeout
    return min(most, due + size / limits.min_body_rate) if limits.min_body_rate else most


def fault(
    phase: Phase, link: Link, *, used: bool, begun: bool, answered: bool, unread: bool, expired: bool
) -> Fault | None:
    """The fault of an exchange that stood still, None if it has simply come to its end.

    `used`: there were requests before. `begun`: bytes of a head are there. `answered`: the head of the answer was
    relayed. `unread`: the client does not read. `expired`: it is not that nothing happens, but that it takes so long.
    """
    if phase is Phase.HEAD:
        if begun:
            return _HEAD
        return None if used else _NOTHING_SENT
    if link is Link.CONNECTING:
        return _CONNECT
    if expired and (answered or phase is Phase.BODY):
        return _WHOLE
    if unread:
        return _UNREAD
    if answered or phase is Phase.TUNNEL:
        return _STILL
    return _BODY if phase is Phase.BODY else _ANSWER
