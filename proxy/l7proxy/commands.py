# SPDX-License-Identifier: Apache-2.0
"""What an `Exchange` asks to be done. Only `relay` does it; the order matters and nothing is left out."""

import msgspec

from l7policy.verdict import Reason, Verdict
from l7proxy.client_hello import ClientHello
from l7proxy.head import RequestHead
from l7proxy.judge import Decision


class Command(msgspec.Struct, frozen=True, gc=False):
    """Base of the commands."""


class Connect(Command, frozen=True, gc=False):
    """Connect to the server. Answered by `server_connected` or `server_failed`."""


class SendToServer(Command, frozen=True, gc=False):
    """Bytes that were judged, or that belong to a message that was."""

    data: bytes


class SendToClient(Command, frozen=True, gc=False):
    """Bytes of the server, or an answer of our own."""

    data: bytes


class PauseClient(Command, frozen=True, gc=False):
    """Do not read from the client: what it sent has to wait for its turn."""


class ResumeClient(Command, frozen=True, gc=False):
    """Read from the client again."""


class GoOn(Command, frozen=True, gc=False):
    """Call `go_on` when other connections have had their turn: there is more to judge of what the client sent."""


class HalfCloseServer(Command, frozen=True, gc=False):
    """Send FIN to the server after what was sent, and go on reading."""


class HalfCloseClient(Command, frozen=True, gc=False):
    """Send FIN to the client after what was sent, and go on reading."""


class CloseServer(Command, frozen=True, gc=False):
    """Close the connection to the server, or give up connecting. No more events of the server follow."""


class CloseClient(Command, frozen=True, gc=False):
    """Close the connection to the client after what was sent. Only `client_lost` follows."""


class ResetServer(Command, frozen=True, gc=False):
    """Break the connection to the server off, so that it cannot take a request for complete."""


class ResetClient(Command, frozen=True, gc=False):
    """Break the connection to the client off, so that it cannot take an answer for complete."""


class Record(Command, frozen=True):
    """One judged request or TLS connection, or what could be read of it, for the log.

    A request that passed is recorded when its answer ends.
    """

    verdict: Verdict
    reason: Reason
    detail: str = ""
    method: str = ""
    host: str = ""
    path: str = ""
    status: int = 0
    decision: Decision | None = None
    minor: int = -1
    """Of HTTP/1, -1 if nothing could be read."""
    latency: float = 0.0
    """Seconds from the whole request head to the whole head of the answer."""
    request_bytes: int = 0
    response_bytes: int = 0
    layer: str = "http"
    hello: ClientHello | None = None
    """Of a TLS connection, if it could be read."""

    @classmethod
    def refused(
        cls, verdict: Verdict, head: RequestHead, decision: Decision, status: int, detail: str = ""
    ) -> "Record":
        """The record of a request that was read and judged, and nothing else. All that is shown of it is ASCII."""
        method, host, path = head.method.decode("ascii"), head.host.decode("ascii"), head.path.decode("ascii")
        return cls(verdict, decision.reason, detail, method, host, path, status, decision, head.minor)
