# SPDX-License-Identifier: Apache-2.0
"""The answer to one request as it arrives: interim heads, the final head, the body, and where it all ends.

Sans-IO: fed with the server's bytes, it gives out those that may be relayed to the client and says what they were. It
knows the request only as far as the framing of the answer depends on it.

Failure verdict: `fault` is set; the caller answers 502, or breaks off if the final head was relayed.
"""

from typing import Final

from l7proxy import framing, response_head
from l7proxy.head import ANY, Malformed, NeedMore, RequestHead, ResponseHead

_MAX_INTERIM: Final = 64
"""1xx answers to one request."""


class Answer:
    """One answer."""

    __slots__ = ("_body", "_held", "_interim", "_seen", "done", "fault", "head", "request", "rest", "size", "tunnel")

    def __init__(self, request: RequestHead) -> None:
        self.request = request
        self._held = b""
        self._seen = 0
        self._interim = 0
        self._body: framing.Body | None = None
        self.head: ResponseHead | None = None
        """The final head, once it is known."""
        self.done = False
        """The answer is complete."""
        self.tunnel = False
        """The server switched to what the client asked for: from here on bytes are opaque."""
        self.rest = b""
        """What came after the end of a complete answer. A server has no reason to send any."""
        self.fault = ""
        self.size = 0
        """Bytes of the body so far, as they were relayed."""

    @property
    def endless(self) -> bool:
        """Whether the end of the connection is the end of the answer."""
        return self.head is not None and isinstance(self._body, framing.EndlessBody)

    @property
    def unseen(self) -> int:
        """How many of the server's next bytes are body whatever they are, and not its last."""
        body = self._body
        if self.done or self.fault or self._held:
            return 0
        if isinstance(body, framing.LengthBody):
            return body.left - 1
        return ANY if isinstance(body, framing.EndlessBody) else 0

    def went_by(self, size: int) -> None:
        """So many bytes of the body went by unseen."""
        self.size += size
        if isinstance(self._body, framing.LengthBody):
            self._body.left -= size

    @property
    def may_be_followed(self) -> bool:
        """Whether the rest of the request's body is worth relaying although the answer is complete.

        A client that waited for 100 may now send the body or not: nobody can tell its next request from it, so there
        must not be one.
        """
        stays = self.request.keep_alive and not self.request.expect
        return stays and self.head is not None and self.head.keep_alive

    def whole(self, data: bytes) -> bool:
        """Whether `data`, the first that came, is the whole answer in its usual form, and another request may follow.

        If it is not, nothing has changed, and it is to be fed.
        """
        request = self.request
        if self.head is not None or self._held or self._interim or not request.keep_alive:
            return False
        head = response_head.usual(data)
        if head is None or not head.keep_alive or request.method == b"CONNECT":
            return False
        size = response_head.framing(head, request.method)
        if size < 0 or head.size + size != len(data):
            return False
        self.head, self.size, self.done = head, size, True
        return True

    def feed(self, data: bytes) -> bytes:
        """Bytes came from the server. Returns those that go to the client now."""
        if self._held:
            data = self._held + data
            self._held = b""
        body = self._body
        if body is not None:
            return self._relay(body, data, 0)
        relayed = b""
        while True:
            head = response_head.parse(data, self._seen)
            if isinstance(head, NeedMore):
                self._held, self._seen = data, len(data)
                return relayed
            self._seen = 0
            if isinstance(head, Malformed):
                self.fault = head.detail
                return relayed
            if self._switches(head):
                self.head = head
                self.tunnel = True
                return relayed + head.raw + data[head.size :]
            if head.status >= 200:
                break
            self._interim += 1
            if head.status == 101 or self._interim > _MAX_INTERIM:
                self.fault = "server switched protocols unasked" if head.status == 101 else "too many interim answers"
                return relayed
            if self.request.minor == 1:
                relayed += head.raw
            data = data[head.size :]
        self.head = head
        kind = response_head.framing(head, self.request.method)
        if kind >= 0 and head.size + kind == len(data) and not relayed and data.startswith(head.raw):
            # The usual case: a short answer, in one piece.
            self.done = True
            self.size = kind
            return data
        self._body = body = framing.body(kind, padded=True)
        if len(head.raw) == head.size and data.startswith(head.raw):
            # Head and body go on in one piece, and mostly without a copy.
            whole = self._relay(body, data, head.size)
            return relayed + whole if relayed else whole
        return relayed + head.raw + self._relay(body, data[head.size :], 0)

    def _switches(self, head: ResponseHead) -> bool:
        if head.status == 101:
            return bool(self.request.upgrade)
        return self.request.method == b"CONNECT" and 200 <= head.status < 300

    def _relay(self, body: framing.Body, data: bytes, start: int) -> bytes:
        end = body.feed(data, start)
        self.fault = body.fault
        self.done = body.done
        self.size += end - start
        if end == len(data):
            return data
        if body.done:
            self.rest = data[end:]
        else:
            self._held = data[end:]
        return data[:end]
