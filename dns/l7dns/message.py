# SPDX-License-Identifier: Apache-2.0
"""Message: reading a query from the wire, and writing the answers that the proxy itself gives.

A query is read strictly: one question, spelled out without compression, no record that its counters do not announce, no
byte behind the last record. What is forwarded is then exactly what was judged, whatever parser the name server has.

May not do I/O, nor judge names. Failure verdict: `Malformed`, which carries the reply to give (FORMERR or NOTIMP).
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final

from dnslib import QTYPE
from dnslib import RCODE as RCODES
from dnslib.bimap import Bimap

from l7dns import names
from l7dns.names import WireError

HEADER: Final = struct.Struct("!HHHHHH")
_PAIR: Final = struct.Struct("!HH")
_FIXED: Final = struct.Struct("!HHIH")
"""Type, class, TTL and data length of a record, behind its owner."""

QR: Final = 0x8000
OPCODE: Final = 0x7800
RD: Final = 0x0100
RA: Final = 0x0080
CD: Final = 0x0010
RCODE: Final = 0x000F
DO: Final = 0x8000

IN: Final = 1
EDNS_PAYLOAD: Final = 1232
"""What the proxy's own replies announce (DNS flag day 2020)."""
_KEPT_QUERIES: Final = 4096
_KEPT_BYTES: Final = 512
"""Longer queries are read anew each time: what is kept of hostile ones must not grow with them."""


class Type(IntEnum):
    """The record types the proxy has to know. All others pass as numbers."""

    A = 1
    CNAME = 5
    AAAA = 28
    OPT = 41
    IXFR = 251
    AXFR = 252
    ANY = 255


class Rcode(IntEnum):
    """What the proxy itself answers."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5


class Ede(IntEnum):
    """Extended DNS errors (RFC 8914), given to clients that speak EDNS."""

    OTHER = 0
    PROHIBITED = 18
    NO_REACHABLE_AUTHORITY = 22
    INVALID_DATA = 24


def type_name(number: int) -> str:
    """``AAAA``, or ``TYPE65534`` (RFC 3597)."""
    return _named(QTYPE, "TYPE", number)


def rcode_name(number: int) -> str:
    """``REFUSED``, or ``RCODE17``."""
    return _named(RCODES, "RCODE", number)


def _named(table: Bimap, prefix: str, number: int) -> str:
    name = str(table.get(number))
    return f"{prefix}{number}" if name.isdigit() else name


@dataclass(frozen=True, slots=True)
class Edns:
    """What an OPT record says."""

    payload: int
    version: int
    extended_rcode: int
    flags: int


@dataclass(frozen=True, slots=True)
class Question:
    """A query that can be read in one way only, apart from its ID: equal queries share one."""

    flags: int
    section: bytes
    """The question section as sent: name with its letters' case, type, class."""
    name: str
    """Canonical: see `l7dns.names`."""
    qtype: int
    qclass: int
    edns: Edns | None
    wire_name: bytes
    """The name in wire form, lower case."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """What cannot be forwarded, and what to answer instead."""

    problem: str
    reply: bytes | None
    """None: not even an ID, or a message that must not be answered lest two answerers keep each other busy."""
    rcode: Rcode = Rcode.FORMERR
    id: int = 0


def parse_query(wire: bytes) -> Question | Malformed:
    """Reads what a client sent."""
    if len(wire) < HEADER.size:
        return Malformed("shorter than a header", None)
    found = _kept(wire[2:]) if len(wire) <= _KEPT_BYTES else _read(wire)
    if not isinstance(found, _Fault):
        return found
    ident, flags = _PAIR.unpack_from(wire)
    reply = None if found.rcode is None else _bare(ident, flags, found.rcode)
    return Malformed(found.problem, reply, Rcode.FORMERR if found.rcode is None else found.rcode, ident)


@dataclass(frozen=True, slots=True)
class _Fault:
    problem: str
    rcode: Rcode | None
    """None: gets no answer."""


@lru_cache(maxsize=_KEPT_QUERIES)
def _kept(rest: bytes) -> Question | _Fault:
    """The query without its ID, which clients ask again and again."""
    return _read(b"\0\0" + rest)


def _read(wire: bytes) -> Question | _Fault:
    _, flags, questions, answers, authorities, additionals = HEADER.unpack_from(wire)
    if flags & QR:
        # An error that came as a response gets no answer, so that no two answerers can feed each other for ever.
        return _Fault("a response where a query was expected", None if flags & RCODE else Rcode.FORMERR)
    if flags & OPCODE:
        return _Fault("opcode other than QUERY", Rcode.NOTIMP)
    if questions != 1:
        return _Fault(f"{questions} questions", Rcode.FORMERR)
    try:
        end = names.end_of_plain(wire, HEADER.size)
        position = end + 4
        if position > len(wire):
            raise WireError("question cut short")  # noqa: TRY301 - one handler builds every FORMERR
        qtype, qclass = _PAIR.unpack_from(wire, end)
        edns: Edns | None = None
        if answers or authorities or additionals:
            position, edns = _records(wire, position, answers + authorities, additionals)
        if position != len(wire):
            raise WireError("bytes behind the last record")  # noqa: TRY301
    except WireError as error:
        return _Fault(str(error), Rcode.FORMERR)
    section = wire[HEADER.size : end + 4]
    name = section[:-4]
    return Question(flags, section, names.text(name), qtype, qclass, edns, name.lower())


def reply(ident: int, question: Question, rcode: Rcode, error: Ede | None = None, text: str = "") -> bytes:
    """The proxy's own answer: the question echoed byte by byte, no records, EDNS if the client spoke it."""
    flags = QR | RA | (question.flags & (OPCODE | RD | CD)) | rcode
    opt = b"" if question.edns is None else _opt(question.edns, error, text)
    return HEADER.pack(ident, flags, 1, 0, 0, 1 if opt else 0) + question.section + opt


def find_edns(wire: bytes, position: int, count: int) -> tuple[int, Edns | None]:
    """Reads `count` records; returns where they end and what the OPT record among them says. Raises WireError."""
    edns: Edns | None = None
    for _ in range(count):
        owner = position
        position = names.end_of(wire, position)
        if position + _FIXED.size > len(wire):
            raise WireError("record cut short")
        rtype, rclass, ttl, length = _FIXED.unpack_from(wire, position)
        position += _FIXED.size + length
        if position > len(wire):
            raise WireError("record data cut short")
        if rtype == Type.OPT:
            if edns is not None or wire[owner] != 0:
                raise WireError("a second OPT record, or one with an owner")
            edns = Edns(rclass, ttl >> 16 & 0xFF, ttl >> 24, ttl & 0xFFFF)
    return position, edns


def _records(wire: bytes, position: int, others: int, additionals: int) -> tuple[int, Edns | None]:
    position, misplaced = find_edns(wire, position, others)
    if misplaced is not None:
        raise WireError("OPT record outside the additional section")
    return find_edns(wire, position, additionals)


def _bare(ident: int, flags: int, rcode: Rcode) -> bytes:
    return HEADER.pack(ident, QR | RA | (flags & (OPCODE | RD | CD)) | rcode, 0, 0, 0, 0)


def _opt(asked: Edns, error: Ede | None, text: str) -> bytes:
    data = b""
    if error is not None:
        body = error.to_bytes(2, "big") + text.encode()
        data = _PAIR.pack(15, len(body)) + body
    return b"\0" + _FIXED.pack(Type.OPT, EDNS_PAYLOAD, asked.flags & DO, len(data)) + data
