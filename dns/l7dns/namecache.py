# SPDX-License-Identifier: Apache-2.0
"""Name cache: which addresses each name has and until when, which facts give an address, and which workload asked.

An index that reports every change of a (fact, address) pair, so that whoever follows the reports knows what a rebuild
would find. Caps: names as each workload knows them, pairs in total, addresses per name. Over a cap the workload that
holds most forgets the name it learnt least recently; what another one asked for too stays for that one, so that none
can push out what others need. Of a name with too many addresses the earliest to expire goes.

May not do I/O nor read a clock. Failure verdict: none; it forgets rather than grows.
"""

import heapq
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple


class Fact(NamedTuple):
    """A name as one name server tells it. Servers are kept apart, because not everybody trusts each of them."""

    name: str
    server: str = ""
    """Its address as text. Empty: the operator says so, which everybody trusts."""
    port: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """A pair that came or went. A later expiry of a known pair is no change."""

    added: bool
    fact: Fact
    address: bytes


_NOBODY: Final[frozenset[int]] = frozenset()


@dataclass(slots=True)
class _Record:
    addresses: dict[bytes, float] = field(default_factory=dict)
    """Packed address to expiry."""
    askers: frozenset[int] = _NOBODY
    """The workloads that asked; records with the same ones share them."""


class NameCache:
    """Fact → {address: expiry}, and address → facts."""

    def __init__(
        self, max_names: int = 100_000, max_addresses_per_name: int = 1000, max_addresses: int = 32_768
    ) -> None:
        """Empty."""
        self._max_names = max_names
        self._max_addresses = max_addresses_per_name
        self._max_pairs = max_addresses
        self._records: dict[Fact, _Record] = {}
        self._held: dict[int, OrderedDict[Fact, None]] = {}
        """Of each workload, the names it asked for, the least recently learnt first."""
        self._askers: dict[frozenset[int], frozenset[int]] = {}
        self._holds = 0
        self._pairs_of: Counter[int] = Counter()
        self._facts: dict[bytes, set[Fact]] = {}
        self._due: list[tuple[float, Fact, bytes]] = []
        self._pairs = 0
        self.evicted_names = 0
        self.evicted_addresses = 0

    def __len__(self) -> int:
        """How many pairs."""
        return self._pairs

    @property
    def names(self) -> int:
        """How many facts."""
        return len(self._records)

    def covers(self, fact: Fact, addresses: Iterable[bytes], expiry: float, endpoint: int = 0) -> bool:
        """Whether `put` would change nothing but how recently the name was learnt, which this then does."""
        record = self._records.get(fact)
        if record is None or endpoint not in record.askers:
            return False
        known = record.addresses
        for address in addresses:
            if known.get(address, 0.0) < expiry:
                return False
        self._held[endpoint].move_to_end(fact)
        return True

    def put(self, fact: Fact, addresses: Iterable[bytes], expiry: float, endpoint: int = 0) -> list[Change]:
        """Adds pairs, or keeps the later expiry of those that are known."""
        changes: list[Change] = []
        record = self._records.get(fact)
        if record is None:
            record = self._records[fact] = _Record()
        self._hold(fact, record, endpoint)
        for address in addresses:
            known = record.addresses.get(address)
            if known is not None:
                if expiry > known:
                    record.addresses[address] = expiry
                continue
            record.addresses[address] = expiry
            self._facts.setdefault(address, set()).add(fact)
            self._count(record, 1)
            heapq.heappush(self._due, (expiry, fact, address))
            changes.append(Change(True, fact, address))
        surplus = len(record.addresses) - self._max_addresses
        if surplus > 0:
            self.evicted_addresses += surplus
            by_expiry = heapq.nsmallest(surplus, record.addresses.items(), key=lambda item: (item[1], item[0]))
            changes += [self._remove(fact, record, address) for address, _ in by_expiry]
        if not record.addresses:
            self._drop(fact)
        while (self._pairs > self._max_pairs or self._holds > self._max_names) and self._evict(fact, endpoint, changes):
            pass
        self._compact()
        return changes

    def restore_expiry(self, fact: Fact, address: bytes, expiry: float) -> None:
        """Takes back that a pair was put again: it goes when it would have gone before."""
        self._records[fact].addresses[address] = expiry

    def discard(self, fact: Fact, address: bytes) -> list[Change]:
        """Forgets one pair."""
        record = self._records.get(fact)
        if record is None or address not in record.addresses:
            return []
        change = self._remove(fact, record, address)
        if not record.addresses:
            self._drop(fact)
        return [change]

    def forget(self, fact: Fact) -> list[Change]:
        """Forgets a fact."""
        record = self._records.get(fact)
        if record is None:
            return []
        changes = [self._remove(fact, record, address) for address in list(record.addresses)]
        self._drop(fact)
        return changes

    def expire(self, now: float) -> list[Change]:
        """Forgets every pair whose time has come."""
        changes: list[Change] = []
        while self._due and self._due[0][0] <= now:
            _, fact, address = heapq.heappop(self._due)
            record = self._records.get(fact)
            expiry = None if record is None else record.addresses.get(address)
            if record is None or expiry is None:
                continue  # went before its time
            if expiry > now:
                heapq.heappush(self._due, (expiry, fact, address))
                continue
            changes.append(self._remove(fact, record, address))
            if not record.addresses:
                self._drop(fact)
        return changes

    def next_expiry(self) -> float | None:
        """No pair expires before this."""
        return self._due[0][0] if self._due else None

    def expiry(self, fact: Fact, address: bytes) -> float | None:
        """When the pair goes, None if it is not known."""
        record = self._records.get(fact)
        return None if record is None else record.addresses.get(address)

    def facts(self) -> Iterator[Fact]:
        """Every fact that there is now and when its turn comes."""
        return (fact for fact in list(self._records) if fact in self._records)

    def record(self, fact: Fact) -> tuple[frozenset[int], dict[bytes, float]]:
        """The workloads that asked, and a copy of the addresses."""
        record = self._records[fact]
        return record.askers, dict(record.addresses)

    def facts_of(self, address: bytes) -> frozenset[Fact]:
        """Every fact that gives the address."""
        return frozenset(self._facts.get(address, ()))

    def addresses(self) -> Iterator[bytes]:
        """Every address."""
        return iter(self._facts)

    def items(self) -> Iterator[tuple[Fact, frozenset[int], dict[bytes, float]]]:
        """Each fact with the workloads that asked and its addresses, the first known first."""
        for fact, record in self._records.items():
            yield fact, record.askers, record.addresses

    def oldest_first(self) -> Iterator[tuple[Fact, int, dict[bytes, float]]]:
        """What each workload asked for, in the order in which it would be evicted."""
        for endpoint, facts in self._held.items():
            for fact in facts:
                yield fact, endpoint, self._records[fact].addresses

    def _hold(self, fact: Fact, record: _Record, endpoint: int) -> None:
        """Puts the fact behind all others of the endpoint."""
        held = self._held.get(endpoint)
        if held is None:
            held = self._held[endpoint] = OrderedDict()
        if endpoint in record.askers:
            held.move_to_end(fact)
            return
        held[fact] = None
        record.askers = self._shared(record.askers | {endpoint})
        self._holds += 1
        self._pairs_of[endpoint] += len(record.addresses)

    def _unhold(self, fact: Fact, record: _Record, endpoint: int) -> None:
        record.askers = self._shared(record.askers - {endpoint})
        self._holds -= 1
        self._pairs_of[endpoint] -= len(record.addresses)
        held = self._held[endpoint]
        del held[fact]
        if not held:
            del self._held[endpoint]
            del self._pairs_of[endpoint]
            self._askers = {known: known for known in self._askers if endpoint not in known}

    def _shared(self, askers: frozenset[int]) -> frozenset[int]:
        return self._askers.setdefault(askers, askers) if len(askers) == 1 else askers

    def _drop(self, fact: Fact) -> None:
        """Forgets a fact without addresses."""
        record = self._records.pop(fact)
        for endpoint in record.askers:
            self._unhold(fact, record, endpoint)

    def _evict(self, learnt: Fact, asker: int, changes: list[Change]) -> bool:
        """Makes the endpoint with the most pairs forget what it learnt least recently; not what `asker` just learnt."""
        for endpoint in sorted(self._held, key=lambda one: (self._pairs_of[one], len(self._held[one])), reverse=True):
            for fact in self._held[endpoint]:
                if fact == learnt and endpoint == asker:
                    continue
                record = self._records[fact]
                if len(record.askers) > 1:
                    self._unhold(fact, record, endpoint)
                else:
                    self.evicted_names += 1
                    changes += self.forget(fact)
                return True
        return False

    def _remove(self, fact: Fact, record: _Record, address: bytes) -> Change:
        self._count(record, -1)
        record.addresses.pop(address)
        facts = self._facts[address]
        facts.discard(fact)
        if not facts:
            del self._facts[address]
        return Change(False, fact, address)

    def _count(self, record: _Record, step: int) -> None:
        self._pairs += step
        for endpoint in record.askers:
            self._pairs_of[endpoint] += step

    def _compact(self) -> None:
        """Pairs that went early leave their mark in the queue; without this, churn could grow it without bound."""
        if len(self._due) > 2 * self._pairs + 1024:
            self._due = [
                (expiry, fact, address)
                for fact, record in self._records.items()
                for address, expiry in record.addresses.items()
            ]
            heapq.heapify(self._due)
