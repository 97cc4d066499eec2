# SPDX-License-Identifier: Apache-2.0
"""Answer: whether a name server's response fits the question, and which addresses it gives to the asked name.

Only the owner chain counts: the asked name, and what CNAME records lead to from there, in whatever order they stand.
Addresses go to the *asked* name alone, with the lowest TTL on the way. A record whose owner is not on the chain, in
whatever section, is relayed but never learnt; nothing is learnt from anything but NOERROR.

May not do I/O. Failure verdict: `Foreign` (keep waiting for the true answer) or `Invalid` (the answer is withheld).
"""

import struct
from dataclasses import dataclass
from typing import Final

import msgspec

from l7dns import names, svcb
from l7dns.message import HEADER, IN, OPCODE, QR, RCODE, Question, Rcode, Type, find_edns
from l7dns.names import WireError

_FIXED: Final = struct.Struct("!HHIH")
_TO_QUESTION: Final = b"\xc0\x0c"
_TRUNCATED: Final = 0x0200
_PLAIN: Final = {
    int(Type.A): (struct.Struct("!6sIH4s"), b"\xc0\x0c\0\x01\0\x01", 4),
    int(Type.AAAA): (struct.Struct("!6sIH16s"), b"\xc0\x0c\0\x1c\0\x01", 16),
}
"""Of the usual answer: the shape of its records, how each begins, and the length of an address."""
_PLAIN_OPT: Final = 11
_SIZES: Final = {int(Type.A): 4, int(Type.AAAA): 16}
_WANTED: Final[dict[int, tuple[int, ...]]] = {
    int(Type.A): (Type.A,),
    int(Type.AAAA): (Type.AAAA,),
    int(Type.ANY): (Type.A, Type.AAAA),
}
_HINTING: Final[dict[int, tuple[int, ...]]] = {
    **_WANTED,
    svcb.SVCB: (svcb.SVCB,),
    svcb.HTTPS: (svcb.HTTPS,),
    int(Type.ANY): (Type.A, Type.AAAA, svcb.SVCB, svcb.HTTPS),
}

_NOTHING: Final[tuple[tuple[bytes, ...], int, tuple[bytes, ...]]] = ((), 0, ())

MAX_CHAIN: Final = 16
"""CNAMEs followed. Resolvers stop at 8 to 16; a longer chain teaches nothing."""
MAX_TTL: Final = 604_800
"""A week: RFC 8767 §4."""


class Answer(msgspec.Struct, frozen=True):
    """A response that may be released, and what it teaches."""

    rcode: int
    addresses: tuple[bytes, ...] = ()
    """Packed, 4 or 16 bytes, without duplicates."""
    ttl: int = 0
    """The lowest on the chain; meaningless without addresses."""
    aliases: tuple[bytes, ...] = ()
    """Targets of the CNAMEs on the way, in wire form."""
    truncated: bool = False


class Foreign(msgspec.Struct, frozen=True):
    """Not the response to this question: forged, late or mixed up. The true one may still come."""

    problem: str


class Invalid(msgspec.Struct, frozen=True):
    """The response to this question, but unreadable."""

    problem: str


def read(wire: bytes, question: Question, expected_id: int, *, hints: bool = False) -> Answer | Foreign | Invalid:
    """Judges a response to `question`, sent with `expected_id`. With `hints` those of SVCB records count, too."""
    if len(wire) < HEADER.size:
        return Foreign("shorter than a header")
    ident, flags, questions, answers, authorities, additionals = HEADER.unpack_from(wire)
    if ident != expected_id:
        return Foreign("another ID")
    if not flags & QR or (flags ^ question.flags) & OPCODE:
        return Foreign("not a response to a query")
    rcode = flags & RCODE
    truncated = bool(flags & _TRUNCATED)
    if questions != 1:
        # Servers that give up early (FORMERR to EDNS, say) return the bare header.
        if questions == 0 and rcode != Rcode.NOERROR and not (answers or authorities or additionals):
            return Answer(rcode, truncated=truncated)
        return Foreign("not exactly one question")
    start = HEADER.size + len(question.section)
    if wire[HEADER.size : start] != question.section:
        return Foreign("another question")
    if answers and not (rcode or truncated or authorities):
        plain = _plain(wire, start, answers, additionals, question.qtype)
        if plain is not None:
            return plain
    try:
        records, position = _answer_section(wire, start, answers, question, hints)
        position, misplaced = find_edns(wire, position, authorities)
        position, edns = find_edns(wire, position, additionals)
        if misplaced is not None:
            return Invalid("OPT record outside the additional section")
    except WireError as error:
        # Some servers cut a message at the byte and keep its counters: good enough to send the client to TCP.
        return Answer(rcode, truncated=True) if truncated else Invalid(str(error))
    if position != len(wire):
        return Invalid("bytes behind the last record")
    if edns is not None:
        rcode |= edns.extended_rcode << 4
    return Answer(rcode, *_learn(records, question, rcode), truncated=truncated)


def _plain(wire: bytes, start: int, answers: int, additionals: int, qtype: int) -> Answer | None:
    """The usual answer, read in one step: addresses of the asked name, then at most an OPT record without options.

    None if it is anything else. What it returns is what the long way returns, which a property test holds.
    """
    shape = _PLAIN.get(qtype)
    if shape is None:
        return None
    layout, beginning, size = shape
    end = start + answers * layout.size
    if additionals:
        # Owner ".", type OPT, whatever payload size, no extended rcode, any version and flags, no data.
        opt = wire[end:]
        if additionals != 1 or len(opt) != _PLAIN_OPT or opt[:3] != b"\0\0\x29" or opt[5] or opt[9:] != b"\0\0":
            return None
    elif end != len(wire):
        return None
    least = MAX_TTL
    addresses: dict[bytes, None] = {}
    for begins, ttl, length, address in layout.iter_unpack(wire[start:end]):
        if begins != beginning or length != size:
            return None
        if ttl < least:
            least = ttl
        elif ttl > 0x7FFFFFFF:  # RFC 2181 §8
            least = 0
        addresses[address] = None
    return Answer(0, tuple(addresses), least)


@dataclass(slots=True)
class _Records:
    """The answer section's records that matter, by owner."""

    aliases: dict[bytes, tuple[bytes, int]]
    addresses: dict[bytes, list[tuple[bytes, int]]]
    ambiguous: bool = False
    """Two different CNAMEs of one owner: which one a client follows cannot be known."""


def _answer_section(wire: bytes, position: int, count: int, question: Question, hints: bool) -> tuple[_Records, int]:
    asked = question.wire_name
    wanted = (_HINTING if hints else _WANTED).get(question.qtype, ())
    records = _Records({}, {})
    for _ in range(count):
        start = position
        position = names.end_of(wire, position)
        if position + _FIXED.size > len(wire):
            raise WireError("record cut short")
        rtype, rclass, ttl, length = _FIXED.unpack_from(wire, position)
        data = position + _FIXED.size
        position = data + length
        if position > len(wire):
            raise WireError("record data cut short")
        if rtype == Type.OPT:
            raise WireError("OPT record outside the additional section")
        if rclass != IN or not wanted or not (rtype in wanted or rtype == Type.CNAME):
            continue
        if ttl > 0x7FFFFFFF:  # RFC 2181 §8
            ttl = 0
        owner = asked if wire[start : start + 2] == _TO_QUESTION else names.expand(wire, start)
        if rtype == Type.CNAME:
            if names.end_of(wire, data) != position:
                raise WireError("CNAME of another length than its name")
            target = names.expand(wire, data)
            known = records.aliases.setdefault(owner, (target, ttl))
            if known[0] != target:
                records.ambiguous = True
        elif rtype in (svcb.SVCB, svcb.HTTPS):
            for address in svcb.hints(wire, data, position):
                records.addresses.setdefault(owner, []).append((address, ttl))
        else:
            if length != _SIZES[rtype]:
                raise WireError("address of another length than its type's")
            records.addresses.setdefault(owner, []).append((wire[data:position], ttl))
    return records, position


def _learn(records: _Records, question: Question, rcode: int) -> tuple[tuple[bytes, ...], int, tuple[bytes, ...]]:
    if rcode != Rcode.NOERROR or records.ambiguous:
        return _NOTHING
    owner = question.wire_name
    aliases: list[bytes] = []
    ttl = MAX_TTL
    for _ in range(MAX_CHAIN):
        found = records.addresses.get(owner)
        alias = records.aliases.get(owner)
        if found and alias:  # a CNAME stands alone (RFC 1034 §3.6.2): which one a client takes cannot be known
            return _NOTHING
        if found:
            ttl = min(ttl, *(seconds for _, seconds in found))
            return tuple(dict.fromkeys(address for address, _ in found)), ttl, tuple(aliases)
        if alias is None:
            return _NOTHING
        owner = alias[0]
        aliases.append(owner)
        ttl = min(ttl, alias[1])
    return _NOTHING
