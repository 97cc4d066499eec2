# SPDX-License-Identifier: Apache-2.0
"""Reads what a TLS client says in the clear, before anything is encrypted: its ClientHello. Nothing is opened.

The client names the server it wants (SNI), and policy judges that name. What follows goes to a server that reads the
same bytes with other code, so a hello that two servers could read differently must not pass. The rules, from RFC 8446
§4.1.2, §4.2 and §5.1 and RFC 6066 §3:

- It comes in records of type 22, version 3.x, none empty and none over 2^14 bytes; a handshake message may be cut over
  any number of them, and other records may not come between. It ends where its last record ends.
- Every length fits exactly what is inside of it. No kind of extension comes twice. Kinds that nobody knows, among them
  the reserved values clients send at random (GREASE, RFC 8701), are passed over.
- ``server_name`` holds one name, of type host_name: servers differ in which of several they take.
- SSLv2's hello, which some old servers accept, cannot carry a name: it is refused like anything that is not TLS.

A name that is no host name in ASCII (an address, a dot at the end, other bytes) is kept as it was sent, for the record,
and `ClientHello.name` is "" then: no policy can mean it.

With Encrypted Client Hello (RFC 9849) the name seen here is the outer one, which may be a front for another. `ech` says
that the extension is there; clients also send a dummy of it, and nobody but the server can tell.

Failure verdict: `Malformed`, and the connection is refused.
"""

import ipaddress
import re
from typing import Final

import msgspec

from l7proxy.head import NEED_MORE, Malformed, NeedMore

MAX_HELLO: Final = 64 * 1024
"""Of the handshake message. Usual ones have 200 to 2,500 bytes; tickets and pre-shared keys may add to it."""

HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_MAX_FRAGMENT: Final = 1 << 14
_RECORD_HEADER: Final = 5
_MESSAGE_HEADER: Final = 4

_SERVER_NAME: Final = 0
_ALPN: Final = 16
_SUPPORTED_VERSIONS: Final = 43
_ECH: Final = frozenset({0xFE0D, 0xFFCE})
"""RFC 9849, and the ESNI that came before it."""

_VERSIONS: Final = {0x0300: "SSL 3.0", 0x0301: "TLS 1.0", 0x0302: "TLS 1.1", 0x0303: "TLS 1.2", 0x0304: "TLS 1.3"}
_HOST_NAME: Final = re.compile(r"[-_a-zA-Z0-9]+(?:[.][-_a-zA-Z0-9]+)*")
_MAX_SHOWN: Final = 255
_MAX_PROTOCOLS: Final = 16


class ClientHello(msgspec.Struct, frozen=True):
    """What is known of the client's wish."""

    name: str
    """The server name as policy judges it; "" if there is none, or none that is a host name."""
    sent: str
    """The name as it was sent, what is not ASCII escaped; for the record."""
    fault: str
    """Why `sent` is no host name; "" if it is, or if there is none."""
    version: str
    """The highest version offered."""
    alpn: tuple[str, ...]
    """The protocols offered."""
    ech: bool
    """Encrypted Client Hello is there, in earnest or as a dummy."""


class HelloReader:
    """Takes the client's bytes as they come, until the hello is complete."""

    __slots__ = ("_at", "_begun", "_bytes", "_max", "_message")

    def __init__(self, max_hello: int = MAX_HELLO) -> None:
        self._max = max_hello
        self._bytes = bytearray()
        """Of the record that is not complete."""
        self._message = bytearray()
        self._at = 0

    @property
    def size(self) -> int:
        """Bytes of the stream that the complete hello took."""
        return self._at

    @property
    def begun(self) -> bool:
        """Whether any byte has come."""
        return bool(self._bytes or self._at)

    def feed(self, data: bytes) -> ClientHello | NeedMore | Malformed:
        """The hello, once it is complete. Bytes behind it are not looked at."""
        self._bytes += data
        at = 0
        found: ClientHello | NeedMore | Malformed = NEED_MORE
        while found is NEED_MORE:
            end = _record_end(self._bytes, at, first=not self._message)
            if isinstance(end, Malformed):
                return end
            if end > len(self._bytes):
                break
            self._message += self._bytes[at + _RECORD_HEADER : end]
            self._at += end - at
            at = end
            found = self._whole()
        del self._bytes[:at]
        return found

    def _whole(self) -> ClientHello | NeedMore | Malformed:
        message = self._message
        if message[0] != _CLIENT_HELLO:
            return Malformed(f"TLS handshake message {message[0]} where a ClientHello must be")
        if len(message) < _MESSAGE_HEADER:
            return NEED_MORE
        size = _MESSAGE_HEADER + int.from_bytes(message[1:4], "big")
        if size > self._max:
            return Malformed(f"TLS ClientHello of {size} bytes")
        if len(message) < size:
            return NEED_MORE
        if len(message) > size:
            return Malformed("bytes behind the TLS ClientHello in its record")
        return parse(bytes(message[_MESSAGE_HEADER:]))


def _record_end(data: bytearray, at: int, *, first: bool) -> int | Malformed:
    """Where the record ends, as far as that can be said: refused by its first wrong byte. May be beyond the data."""
    here = len(data) - at
    if here < 1 or (first and data[at] & 0x80 and here < 3):
        return at + _RECORD_HEADER
    if data[at] != HANDSHAKE:
        return Malformed(_not_tls(data) if first else f"TLS record of type {data[at]} inside of the ClientHello")
    if here >= 2 and data[at + 1] != 3:
        return Malformed("TLS record of an unknown version")
    if here < _RECORD_HEADER:
        return at + _RECORD_HEADER
    size = int.from_bytes(data[at + 3 : at + 5], "big")
    if not 0 < size <= _MAX_FRAGMENT:
        return Malformed(f"TLS record of {size} bytes")
    return at + _RECORD_HEADER + size


def _not_tls(data: bytearray) -> str:
    """What else it is, as far as it can be told."""
    if data[0] & 0x80 and data[2] == _CLIENT_HELLO:
        return "SSLv2 ClientHello"
    if 0x41 <= data[0] <= 0x5A:
        return "not TLS: text, perhaps HTTP"
    return "not TLS"


def parse(body: bytes) -> ClientHello | Malformed:
    """The hello in the body of its handshake message."""
    try:
        return _parse(body)
    except _Broken as broken:
        return Malformed(f"TLS ClientHello: {broken}")


class _Broken(Exception):
    """The bytes are no ClientHello."""


class _Reader:
    """Vectors out of bytes. Raises _Broken if they do not fit."""

    __slots__ = ("_at", "_data", "_end")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._end = len(data)

    @property
    def rest(self) -> int:
        return self._end - self._at

    def take(self, size: int) -> bytes:
        if size > self.rest:
            raise _Broken("a length goes beyond its end")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, width: int, least: int = 0) -> bytes:
        size = self.number(width)
        if size < least:
            raise _Broken("a list is too short")
        return self.take(size)


def _parse(body: bytes) -> ClientHello:
    reader = _Reader(body)
    legacy = reader.number(2)
    if legacy >> 8 != 3:
        raise _Broken("unknown version")
    reader.take(32)
    if len(reader.vector(1)) > 32:
        raise _Broken("session id too long")
    if len(reader.vector(2, least=2)) % 2:
        raise _Broken("half a cipher suite")
    reader.vector(1, least=1)
    found = _extensions(reader.vector(2)) if reader.rest else {}
    if reader.rest:
        raise _Broken("bytes behind the extensions")
    sent = _server_name(found[_SERVER_NAME]) if _SERVER_NAME in found else b""
    fault = _name_fault(sent) if sent else ""
    versions = _versions(found[_SUPPORTED_VERSIONS]) if _SUPPORTED_VERSIONS in found else [legacy]
    known = max((version for version in versions if version in _VERSIONS), default=0)
    return ClientHello(
        name="" if fault else sent.decode("ascii"),
        sent=_shown(sent),
        fault=fault,
        version=_VERSIONS.get(known, ""),
        alpn=_protocols(found[_ALPN]) if _ALPN in found else (),
        ech=not _ECH.isdisjoint(found),
    )


def _extensions(data: bytes) -> dict[int, bytes]:
    reader = _Reader(data)
    found: dict[int, bytes] = {}
    while reader.rest:
        kind = reader.number(2)
        if kind in found:
            raise _Broken(f"extension {kind} twice")
        found[kind] = reader.vector(2)
    return found


def _server_name(data: bytes) -> bytes:
    reader = _Reader(data)
    names = _Reader(reader.vector(2, least=1))
    if names.number(1) != 0:
        raise _Broken("a server name that is no host name")
    name = names.vector(2, least=1)
    if names.rest:
        raise _Broken("more than one server name")
    if reader.rest:
        raise _Broken("bytes behind the server name")
    return name


def _versions(data: bytes) -> list[int]:
    reader = _Reader(data)
    versions = reader.vector(1, least=2)
    if reader.rest or len(versions) % 2:
        raise _Broken("supported_versions do not fit")
    return [int.from_bytes(versions[at : at + 2], "big") for at in range(0, len(versions), 2)]


def _protocols(data: bytes) -> tuple[str, ...]:
    reader = _Reader(data)
    names = _Reader(reader.vector(2, least=2))
    if reader.rest:
        raise _Broken("bytes behind the protocols")
    found = []
    while names.rest:
        found.append(_shown(names.vector(1, least=1)))
    return tuple(found[:_MAX_PROTOCOLS])


def _name_fault(name: bytes) -> str:
    """Why no server may take it for a host name; "" if it is one. An address is none: RFC 6066 §3."""
    if not name.isascii():
        return "server name is not ASCII"
    text = name.decode("ascii")
    if len(text) > _MAX_SHOWN:
        return "server name is too long"
    if text.endswith("."):
        return "server name ends in a dot"
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return "" if _HOST_NAME.fullmatch(text) else "server name is no host name"
    return "server name is an address"


def _shown(data: bytes) -> str:
    return data[:_MAX_SHOWN].decode("ascii", "backslashreplace")
