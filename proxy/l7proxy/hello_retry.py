# SPDX-License-Identifier: Apache-2.0
"""Follows a TLS handshake from its ClientHello to the server's first message, because a second ClientHello may come.

A server that cannot use what was offered asks for another hello (HelloRetryRequest, RFC 8446 §4.1.4), and that one is
as plain as the first and names a server again. A client could name an allowed server in the first, and offer it what it
must refuse; or send the second without being asked. So between the two, whatever the client sends as a handshake record
must be a ClientHello that names the same server, as the RFC demands anyway. Everything else of the client (0-RTT data,
the dummy change_cipher_spec) passes. Once the server has answered with another message the handshake is beyond this:
the client's plain handshake messages of TLS 1.2 and earlier name no server.

Sans-IO. Failure verdict: `Malformed`, and the connection is broken off.
"""

from typing import Final

from l7proxy.client_hello import HANDSHAKE, ClientHello, HelloReader
from l7proxy.head import Malformed

_RECORD_HEADER: Final = 5
_PASSED: Final = frozenset({20, 21, 23})
"""change_cipher_spec, alert, application_data."""
_MAX_RECORD: Final = (1 << 14) + 256
_SERVER_HELLO: Final = 2
_RANDOM: Final = slice(11, 43)
"""In the server's first record: behind its header, the message's header and the version."""
_ALERT: Final = 21
_ALERT_SIZE: Final = _RECORD_HEADER + 2
_RETRY: Final = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
"""The random of a HelloRetryRequest: SHA-256 of those words."""


class HelloRetry:
    """See the module. `done`: nothing is to be followed any more."""

    __slots__ = ("_fed", "_first", "_held", "_left", "_reader", "_retry", "_second", "_server", "done")

    def __init__(self, first: ClientHello) -> None:
        self._first = first
        self._held = bytearray()
        """Of the client's bytes: a record's header, or what there is of a second hello."""
        self._left = 0
        """Bytes of the record that passes."""
        self._reader: HelloReader | None = None
        self._fed = 0
        """How much of what is held the reader has seen."""
        self._second = False
        self._server = bytearray()
        self._retry = False
        self.done = False

    def client(self, data: bytes) -> bytes | Malformed:
        """What of the client's bytes may be sent to the server now."""
        held = self._held
        held += data
        passed = 0
        while passed < len(held) and not self.done:
            if self._left:
                size = min(self._left, len(held) - passed)
                self._left -= size
                passed += size
            elif held[passed] == HANDSHAKE:
                found = self._hello(passed)
                if isinstance(found, Malformed):
                    return found
                if not found:
                    break
                passed += found
            elif len(held) - passed < _RECORD_HEADER:
                break
            else:
                size = int.from_bytes(held[passed + 3 : passed + 5], "big")
                if held[passed] not in _PASSED or held[passed + 1] != 3 or size > _MAX_RECORD:
                    return Malformed("not TLS behind the ClientHello")
                self._left = _RECORD_HEADER + size
        if self.done:
            passed = len(held)
        out = bytes(held[:passed])
        del held[:passed]
        return out

    def server(self, data: bytes) -> bytes:
        """Bytes came from the server; they pass. Returns what of the client was held for them."""
        if self._retry or self.done:
            return b""
        begun = self._server
        begun += data
        while begun[:1] == bytes([_ALERT]) and len(begun) >= _ALERT_SIZE:
            # A warning, such as unrecognized_name: the handshake goes on.
            del begun[:_ALERT_SIZE]
        if not begun or (begun[0] in (HANDSHAKE, _ALERT) and len(begun) < _RANDOM.stop):
            return b""
        # A record that holds less than the random is no server's that we know; it is taken for what must be followed.
        short = int.from_bytes(begun[3:5], "big") < _RANDOM.stop - _RECORD_HEADER
        self._retry = begun[0] == HANDSHAKE and (short or begun[_RANDOM] == _RETRY)
        self.done = not self._retry or self._second
        self._server = bytearray()
        return self.release() if self.done else b""

    def release(self) -> bytes:
        """All that is held, because nothing is to be followed any more."""
        self.done = True
        out = bytes(self._held)
        self._held.clear()
        return out

    def _hello(self, at: int) -> int | Malformed:
        """Bytes of the second hello, which begins at `at` of what is held; 0 if it is not complete."""
        if self._second:
            return Malformed("a third TLS ClientHello")
        if self._reader is None:
            self._reader, self._fed = HelloReader(), 0
            fresh = self._held[at:]
        else:
            fresh = self._held[self._fed :]  # what is held begins with the hello
        found = self._reader.feed(bytes(fresh))
        self._fed = len(self._held) - at
        if isinstance(found, Malformed):
            return found
        if not isinstance(found, ClientHello):
            return 0
        if found.sent != self._first.sent:
            return Malformed("another server name in the second TLS ClientHello")
        self._second = True
        self.done = self._retry
        return self._reader.size
