# SPDX-License-Identifier: Apache-2.0
"""Name cache: which addresses each name has and until when, and which names an address has.

An index that reports every change of a (name, address) pair, so that whoever follows the reports knows what a rebuild
would find. Caps: names and pairs in total (of the workload that holds most, the least recently learnt name goes, so
that none can push out what others need), addresses per name (the earliest to expire goes).

May not do I/O nor read a clock. Failure verdict: none; it forgets rather than grows.
"""

import heapq
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Change:
    """A pair that came or went. A later expiry of a known pair is no change."""

    added: bool
    name: str
    address: bytes


@dataclass(slots=True)
class _Record:
    addresses: dict[bytes, float] = field(default_factory=dict)
    """Packed address to expiry."""
    endpoint: int = 0
    """The workload that asked last."""


class NameCache:
    """Name → {address: expiry}, and address → names."""

    def __init__(
        self, max_names: int = 100_000, max_addresses_per_name: int = 1000, max_addresses: int = 32_768
    ) -> None:
        """Empty."""
        self._max_names = max_names
        self._max_addresses = max_addresses_per_name
        self._max_pairs = max_addresses
        self._records: dict[str, _Record] = {}
        self._held: dict[int, OrderedDict[str, None]] = {}
        """Of each workload, the names it asked for last, the least recently learnt first."""
        self._pairs_of: Counter[int] = Counter()
        self._names: dict[bytes, set[str]] = {}
        self._due: list[tuple[float, str, bytes]] = []
        self._pairs = 0
        self.evicted_names = 0
        self.evicted_addresses = 0

    def __len__(self) -> int:
        """How many pairs."""
        return self._pairs

    @property
    def names(self) -> int:
        """How many names."""
        return len(self._records)

    def covers(self, name: str, addresses: Iterable[bytes], expiry: float, endpoint: int = 0) -> bool:
        """Whether `put` would change nothing but how recently the name was learnt, which this then does."""
        record = self._records.get(name)
        if record is None or (endpoint and record.endpoint != endpoint):
            return False
        known = record.addresses
        for address in addresses:
            if known.get(address, 0.0) < expiry:
                return False
        self._held[record.endpoint].move_to_end(name)
        return True

    def put(self, name: str, addresses: Iterable[bytes], expiry: float, endpoint: int = 0) -> list[Change]:
        """Adds pairs, or keeps the later expiry of those that are known."""
        changes: list[Change] = []
        record = self._records.get(name)
        if record is None:
            if len(self._records) >= self._max_names:
                changes += self._evict(but="")
            record = self._records[name] = _Record(endpoint=endpoint)
        self._hold(name, record, endpoint or record.endpoint)
        for address in addresses:
            known = record.addresses.get(address)
            if known is not None:
                if expiry > known:
                    record.addresses[address] = expiry
                continue
            record.addresses[address] = expiry
            self._names.setdefault(address, set()).add(name)
            self._pairs += 1
            self._pairs_of[record.endpoint] += 1
            heapq.heappush(self._due, (expiry, name, address))
            changes.append(Change(True, name, address))
        surplus = len(record.addresses) - self._max_addresses
        if surplus > 0:
            self.evicted_addresses += surplus
            by_expiry = heapq.nsmallest(surplus, record.addresses.items(), key=lambda item: (item[1], item[0]))
            changes += [self._remove(name, record, address) for address, _ in by_expiry]
        if not record.addresses:
            self._drop(name)
        while self._pairs > self._max_pairs and (evicted := self._evict(but=name)):
            changes += evicted
        self._compact()
        return changes

    def discard(self, name: str, address: bytes) -> list[Change]:
        """Forgets one pair."""
        record = self._records.get(name)
        if record is None or address not in record.addresses:
            return []
        change = self._remove(name, record, address)
        if not record.addresses:
            self._drop(name)
        return [change]

    def forget(self, name: str) -> list[Change]:
        """Forgets a name."""
        record = self._records.get(name)
        if record is None:
            return []
        changes = [self._remove(name, record, address) for address in list(record.addresses)]
        self._drop(name)
        return changes

    def expire(self, now: float) -> list[Change]:
        """Forgets every pair whose time has come."""
        changes: list[Change] = []
        while self._due and self._due[0][0] <= now:
            _, name, address = heapq.heappop(self._due)
            record = self._records.get(name)
            expiry = None if record is None else record.addresses.get(address)
            if record is None or expiry is None:
                continue  # went before its time
            if expiry > now:
                heapq.heappush(self._due, (expiry, name, address))
                continue
            changes.append(self._remove(name, record, address))
            if not record.addresses:
                self._drop(name)
        return changes

    def next_expiry(self) -> float | None:
        """No pair expires before this."""
        return self._due[0][0] if self._due else None

    def expiry(self, name: str, address: bytes) -> float | None:
        """When the pair goes, None if it is not known."""
        record = self._records.get(name)
        return None if record is None else record.addresses.get(address)

    def names_of(self, address: bytes) -> frozenset[str]:
        """Every name the address has."""
        return frozenset(self._names.get(address, ()))

    def addresses(self) -> Iterator[bytes]:
        """Every address."""
        return iter(self._names)

    def items(self) -> Iterator[tuple[str, int, dict[bytes, float]]]:
        """Each name with the endpoint that asked last and its addresses; of one endpoint, the oldest first."""
        for names in self._held.values():
            for name in names:
                record = self._records[name]
                yield name, record.endpoint, record.addresses

    def _hold(self, name: str, record: _Record, endpoint: int) -> None:
        """Puts the name behind all others of the endpoint, which holds it from now on."""
        if record.endpoint != endpoint:
            self._unhold(name, record)
            record.endpoint = endpoint
            self._pairs_of[endpoint] += len(record.addresses)
        names = self._held.get(endpoint)
        if names is None:
            names = self._held[endpoint] = OrderedDict()
        names[name] = None
        names.move_to_end(name)

    def _drop(self, name: str) -> None:
        """Forgets a name without addresses."""
        self._unhold(name, self._records.pop(name))

    def _unhold(self, name: str, record: _Record) -> None:
        self._pairs_of[record.endpoint] -= len(record.addresses)
        names = self._held[record.endpoint]
        del names[name]
        if not names:
            del self._held[record.endpoint]
            del self._pairs_of[record.endpoint]

    def _evict(self, but: str) -> list[Change]:
        """Forgets the least recently learnt name of the endpoint that holds the most pairs; never the name `but`."""
        for endpoint in sorted(self._held, key=self._pairs_of.__getitem__, reverse=True):
            for name in self._held[endpoint]:
                if name != but:
                    self.evicted_names += 1
                    return self.forget(name)
        return []

    def _remove(self, name: str, record: _Record, address: bytes) -> Change:
        record.addresses.pop(address)
        names = self._names[address]
        names.discard(name)
        if not names:
            del self._names[address]
        self._pairs -= 1
        self._pairs_of[record.endpoint] -= 1
        return Change(False, name, address)

    def _compact(self) -> None:
        """Pairs that went early leave their mark in the queue; without this, churn could grow it without bound."""
        if len(self._due) > 2 * self._pairs + 1024:
            self._due = [
                (expiry, name, address)
                for name, record in self._records.items()
                for address, expiry in record.addresses.items()
            ]
            heapq.heapify(self._due)
