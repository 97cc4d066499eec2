# SPDX-License-Identifier: Apache-2.0
"""SVCB and HTTPS records (RFC 9460): the address hints in them, to be learnt or to be taken out.

A client may connect to a hint without ever asking for the addresses. Learnt hints therefore count like addresses of the
asked name; without that, or with hints taken out, it falls back to the A and AAAA records.

To take hints out shortens a message, so every compression pointer that leads behind them is moved. Pointers stand in
owners and in the data of the types of RFC 1035 alone (RFC 3597 §4).

A signature over such a record does not hold any more; who validates asks with hints kept or learnt.

May not do I/O. Failure verdict: `WireError`, for what cannot be read in exactly one way.
"""

import struct
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

from l7dns import names
from l7dns.message import HEADER
from l7dns.names import WireError


class Hints(StrEnum):
    """What becomes of them."""

    LEARN = "learn"
    """They are learnt for the asked name, and relayed."""
    KEEP = "keep"
    """They are relayed, and open nothing."""
    STRIP = "strip"
    """They are taken out of the answer."""


SVCB: Final = 64
HTTPS: Final = 65
_HINTS: Final = {4: 4, 6: 16}
"""ipv4hint, ipv6hint, and how long an address of each is."""
_FIXED: Final = struct.Struct("!HHIH")
_PARAMETER: Final = struct.Struct("!HH")
_NAMES_IN_DATA: Final = {2: (0, 1), 5: (0, 1), 6: (0, 2), 12: (0, 1), 15: (2, 1)}
"""NS, CNAME, SOA, PTR, MX: where in the data names begin, and how many there are."""


def parameters(wire: bytes, start: int, end: int) -> tuple[int, Iterator[tuple[int, int, int]]]:
    """Priority of a record with this data, and of each parameter its key, start and end. Raises WireError."""
    if end - start < 3:
        raise WireError("SVCB record cut short")
    target = names.end_of_plain(wire, start + 2)
    if target > end:
        raise WireError("SVCB target longer than its record")
    return int.from_bytes(wire[start : start + 2], "big"), _parameters(wire, target, end)


def _parameters(wire: bytes, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    before = -1
    while position < end:
        if position + _PARAMETER.size > end:
            raise WireError("SVCB parameter cut short")
        key, length = _PARAMETER.unpack_from(wire, position)
        following = position + _PARAMETER.size + length
        if following > end or key <= before:
            raise WireError("SVCB parameter cut short, or out of order")
        yield key, position, following
        before, position = key, following


def hints(wire: bytes, start: int, end: int) -> list[bytes]:
    """Packed addresses that a record hints at. Raises WireError."""
    found: list[bytes] = []
    for key, begin, after in parameters(wire, start, end)[1]:
        size = _HINTS.get(key)
        if size is None:
            continue
        data = wire[begin + _PARAMETER.size : after]
        if not data or len(data) % size:
            raise WireError("SVCB address hint of a wrong length")
        found.extend(data[at : at + size] for at in range(0, len(data), size))
    return found


def strip(wire: bytes) -> bytes:
    """The message without any hint; the same bytes if there is none. Raises WireError."""
    cuts: list[tuple[int, int]] = []
    lengths: dict[int, int] = {}
    pointers: list[int] = []
    counts = HEADER.unpack_from(wire)
    position = HEADER.size
    for _ in range(counts[2]):
        position = _name(wire, position, pointers) + 4
    for _ in range(counts[3] + counts[4] + counts[5]):
        position = _name(wire, position, pointers)
        if position + _FIXED.size > len(wire):
            raise WireError("record cut short")
        rtype, _, _, length = _FIXED.unpack_from(wire, position)
        data = position + _FIXED.size
        end = data + length
        if end > len(wire):
            raise WireError("record data cut short")
        if rtype in (SVCB, HTTPS):
            gone = [(begin, after) for key, begin, after in parameters(wire, data, end)[1] if key in _HINTS]
            if gone:
                lengths[data - 2] = length - sum(after - begin for begin, after in gone)
                cuts += gone
        elif rtype in _NAMES_IN_DATA:
            offset, count = _NAMES_IN_DATA[rtype]
            within = data + offset
            for _ in range(count):
                within = _name(wire, within, pointers)
        position = end
    return _without(wire, cuts, lengths, pointers) if cuts else wire


def _name(wire: bytes, position: int, pointers: list[int]) -> int:
    """Where a name ends; the place of the pointer that it ends with, if it does, is added to `pointers`."""
    end = names.end_of(wire, position)
    while length := wire[position]:
        if length > names.MAX_LABEL:
            pointers.append(position)
            break
        position += length + 1
    return end


def _without(wire: bytes, cuts: list[tuple[int, int]], lengths: dict[int, int], pointers: list[int]) -> bytes:
    changed = bytearray(wire)
    for place, length in lengths.items():
        changed[place : place + 2] = length.to_bytes(2, "big")
    for place in pointers:
        target = int.from_bytes(wire[place : place + 2], "big") & 0x3FFF
        if any(begin <= target < after for begin, after in cuts):
            raise WireError("a pointer into an address hint")
        moved = target - sum(after - begin for begin, after in cuts if after <= target)
        changed[place : place + 2] = (0xC000 | moved).to_bytes(2, "big")
    for begin, after in reversed(cuts):
        del changed[begin:after]
    return bytes(changed)
