# SPDX-License-Identifier: Apache-2.0
"""Listing: the name cache as people see it, a row at a time.

Whoever reads the rows may do other things in between, such as answering queries: names that came meanwhile are not in
the list, names that went are left out. May not do I/O nor read a clock. Failure verdict: none.
"""

from collections.abc import Callable, Iterator

import msgspec

from l7dns.addresses import address_text
from l7dns.identities import Held
from l7dns.kept import KeptAddresses
from l7dns.namecache import Fact, NameCache
from l7dns.view import View
from l7policy.trust import unscoped

_NOTHING = Held(None, None)


class CacheRow(msgspec.Struct, frozen=True):
    """One line of ``fqdn cache list``."""

    name: str
    address: str
    ttl: float
    """Seconds left."""
    expires: float
    """Seconds since the epoch."""
    identity: int
    """0 if no selector matches the name, or the address may not be learnt."""
    selectors: tuple[str, ...]
    endpoints: tuple[int, ...]
    """The workloads that asked."""
    server: str
    """The name server that said so; empty: the operator."""
    port: int
    policies: tuple[int, ...]
    """The policies that the address is open for because of it."""
    kept: bool = False
    """The name's time is over: only connections that were open by then go on."""
    clients: tuple[str, ...] = ()
    """Addresses of the workloads whose connections it is kept for, as of the last look."""


class Listing:
    """What the rows are made from. All of it goes on changing."""

    def __init__(
        self, cache: NameCache, kept: KeptAddresses, held: Callable[[bytes], Held | None], view: Callable[[], View]
    ) -> None:
        """`held` tells what the kernel holds of an address, `view` the rules in force."""
        self._cache = cache
        self._kept = kept
        self._held = held
        self._view = view

    def rows(self, now: float, wall: float) -> Iterator[CacheRow]:
        """Every row, in no order. `wall` is the same moment in seconds since the epoch."""
        served: dict[frozenset[str], tuple[int, ...]] = {}
        for fact in self._cache.facts():
            view = self._view()
            matching = view.matching(fact)
            selectors = _labels(matching)
            policies = served.get(matching)
            if policies is None:
                policies = served[matching] = tuple(sorted(view.served_by(matching)))
            askers, addresses = self._cache.record(fact)
            for address, expiry in addresses.items():
                opened = (self._held(address) or _NOTHING).opened
                left = max(0.0, expiry - now)
                yield CacheRow(
                    fact.name.rstrip("."),
                    address_text(address),
                    left,
                    wall + left,
                    0 if opened is None else opened.id,
                    selectors,
                    tuple(sorted(askers)),
                    fact.server,
                    fact.port,
                    policies,
                )
        for fact, address in list(self._kept.items()):
            yield self._kept_row(fact, address, wall)

    def _kept_row(self, fact: Fact, address: bytes, wall: float) -> CacheRow:
        opened, established = self._held(address) or _NOTHING
        identity = established or opened
        return CacheRow(
            fact.name.rstrip("."),
            address_text(address),
            0.0,
            wall,
            0 if identity is None else identity.id,
            _labels(self._view().matching(fact)),
            (),
            fact.server,
            fact.port,
            (),
            kept=True,
            clients=self._kept.clients_of(address),
        )


def _labels(matching: frozenset[str]) -> tuple[str, ...]:
    return tuple(sorted({unscoped(found) for found in matching}))
