# SPDX-License-Identifier: Apache-2.0
"""Prefixes: which identity an address has apart from its names, by longest prefix, as the kernel's ipcache finds it.

May not do I/O. Failure verdict: none, an address in no prefix is the caller's business.
"""

import ipaddress
from collections.abc import Mapping

from l7policy.ids import IdentityId

_V4 = 4


class PrefixTable:
    """An immutable longest-prefix match, one dictionary per prefix length."""

    __slots__ = ("_tables",)

    def __init__(self, prefixes: Mapping[str, IdentityId]) -> None:
        """`prefixes` are canonical: ``192.0.2.0/24``, ``2001:db8::/32``."""
        lengths: dict[int, dict[int, dict[int, IdentityId]]] = {4: {}, 16: {}}
        for prefix, identity in prefixes.items():
            network = ipaddress.ip_network(prefix)
            size = network.max_prefixlen // 8
            key = int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
            lengths[size].setdefault(network.prefixlen, {})[key] = identity
        self._tables = {
            size: tuple((size * 8 - length, lengths[size][length]) for length in sorted(lengths[size], reverse=True))
            for size in lengths
        }

    def find(self, address: bytes, within: int | None = None) -> IdentityId | None:
        """Identity of the longest prefix that holds the packed address, none longer than `within`."""
        number = int.from_bytes(address, "big")
        least = 0 if within is None else len(address) * 8 - within
        for shift, table in self._tables[len(address)]:
            if shift < least:
                continue
            identity = table.get(number >> shift)
            if identity is not None:
                return identity
        return None

    def exact(self, address: bytes) -> IdentityId | None:
        """Identity of the prefix that is this one address."""
        tables = self._tables[len(address)]
        if not tables or tables[0][0] != 0:
            return None
        return tables[0][1].get(int.from_bytes(address, "big"))


def learnable(address: bytes) -> bool:
    """Whether an address can be a server out in the world at all.

    Loopback, link-local, multicast and unspecified addresses never are: a name that leads there is a mistake, or an
    attack on the node or the cloud's metadata service (DNS rebinding). No packet carries IPv4 mapped into IPv6.
    """
    if len(address) == _V4:
        first = address[0]
        return not (first in (0, 127) or first >= 224 or address[:2] == b"\xa9\xfe")
    if address[:10] == bytes(10):  # ::, ::1, ::ffff:0:0/96, ::/96
        return False
    return not (address[0] == 0xFF or (address[0] == 0xFE and address[1] & 0xC0 == 0x80))
