# SPDX-License-Identifier: Apache-2.0
"""Kept addresses: those whose names are over, kept for the connections that lead there.

A name's time is about when it may be used, not about how long what was opened by it may last. So an address that
leaves the cache stays here for a while: established flows still go by its names, new ones do not. Whoever holds this
asks the kernel now and then which of the addresses flows still lead to, and lets the others go.

May not do I/O nor read a clock. Failure verdict: over the cap the address kept longest is let go, and its connections
are judged as if no name had led there.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from l7dns.namecache import Fact

_MAX_FACTS: Final = 16
"""Of one address. A fact that adds no selector is not kept, so this is rarely reached."""


@dataclass(slots=True)
class _Kept:
    since: float
    facts: list[Fact] = field(default_factory=list)
    clients: tuple[str, ...] = ()


class KeptAddresses:
    """Address → the facts that gave it, and who is connected to it."""

    def __init__(self, limit: int) -> None:
        """Empty. Holds at most `limit` addresses."""
        self._limit = limit
        self._kept: dict[bytes, _Kept] = {}
        """Those kept longest first."""
        self.evicted = 0

    def __len__(self) -> int:
        """How many addresses."""
        return len(self._kept)

    def __contains__(self, address: bytes) -> bool:
        """Whether the address is kept."""
        return address in self._kept

    def add(self, fact: Fact, address: bytes, now: float) -> list[bytes]:
        """Keeps an address for one more fact. Returns the addresses that made room."""
        kept = self._kept.setdefault(address, _Kept(now))
        kept.since = now
        if fact not in kept.facts and len(kept.facts) < _MAX_FACTS:
            kept.facts.append(fact)
        gone: list[bytes] = []
        while len(self._kept) > self._limit:
            oldest = next(iter(self._kept))
            del self._kept[oldest]
            self.evicted += 1
            gone.append(oldest)
        return gone

    def discard(self, fact: Fact, address: bytes) -> bool:
        """The fact holds again, or is to be forgotten. Whether it was kept."""
        kept = self._kept.get(address)
        if kept is None or fact not in kept.facts:
            return False
        kept.facts.remove(fact)
        if not kept.facts:
            del self._kept[address]
        return True

    def release(self, asked: Iterable[bytes], clients: Mapping[bytes, Collection[str]], when: float) -> list[bytes]:
        """Lets go those of the `asked` addresses to which no flow led `when` the kernel was asked. Returns them."""
        gone: list[bytes] = []
        for address in asked:
            kept = self._kept.get(address)
            if kept is None or kept.since > when:
                continue
            kept.clients = tuple(sorted(clients.get(address, ())))
            if not kept.clients:
                del self._kept[address]
                gone.append(address)
        return gone

    def facts_of(self, address: bytes) -> list[Fact]:
        """The facts that an address is kept for."""
        kept = self._kept.get(address)
        return [] if kept is None else kept.facts

    def clients_of(self, address: bytes) -> tuple[str, ...]:
        """Who was connected when the kernel was asked last; nobody before it was asked at all."""
        kept = self._kept.get(address)
        return () if kept is None else kept.clients

    def addresses(self) -> Iterator[bytes]:
        """Every address, those kept longest first."""
        return iter(self._kept)

    def items(self) -> Iterator[tuple[Fact, bytes]]:
        """Every fact with its address."""
        for address, kept in self._kept.items():
            for fact in kept.facts:
                yield fact, address
