# SPDX-License-Identifier: Apache-2.0
"""Pre-cache: names that the operator says, in a file such as ``l7ctl fqdn cache list -o json`` writes.

They are read once, when the process starts, and count for every policy, like names from a server that all trust. Of
each item only ``name``, ``address`` and ``ttl`` (seconds, from then on) matter; what was listed for the sake of a
connection (``source``) is over, and passed over.

May not do I/O. Failure verdict: `PrecacheError`, with nothing read.
"""

import ipaddress
from collections.abc import Iterator

import msgspec

from l7dns.answer import MAX_TTL
from l7dns.namecache import Fact
from l7policy.names import canonical
from l7policy.scalars import match_name


class PrecacheError(Exception):
    """The file is not what it should be; says which item."""


class _Item(msgspec.Struct):
    name: str
    address: str
    ttl: float
    source: str = ""


def read(text: bytes) -> list[tuple[Fact, bytes, float]]:
    """Name, packed address and time to live of each item. Raises PrecacheError."""
    return list(_items(text))


def _items(text: bytes) -> Iterator[tuple[Fact, bytes, float]]:
    try:
        items = msgspec.json.decode(text, type=list[_Item])
    except msgspec.MsgspecError as error:
        raise PrecacheError(f"not a list of names as `l7ctl fqdn cache list -o json` writes it: {error}") from error
    for number, item in enumerate(items):
        try:
            name = canonical(match_name(item.name).match_name)
            address = ipaddress.ip_address(item.address).packed
        except ValueError as error:
            raise PrecacheError(f"item {number}: {error}") from error
        if item.source == "connection":
            continue
        yield Fact(name), address, min(max(item.ttl, 0.0), MAX_TTL)
