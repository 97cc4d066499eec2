# SPDX-License-Identifier: Apache-2.0
"""Learner: keeps the kernel's FQDN rows equal to what the name cache and the snapshots call for.

Everything follows from one rule, `_wanted`: an address has the identity (base by longest static prefix, selectors
that match any of its names), or none if there is no such selector or the address is not out in the world. Flows that
have begun already go by names that are over as well (`l7dns.kept`), for as long as the kernel knows of such flows.
Learning, expiry and new snapshots only differ in which addresses they look at again. Writes go in the order that is
never too permissive for a moment nor too late for the client: identity row, its policy entries, ipcache; and backwards
when something goes.

What cannot be removed yet is remembered and tried again. May not wait, nor read a clock. Failure verdict: `learn`
says what failed and takes its own addition back, and the answer is withheld; `prepare` says what failed and changes
nothing.
"""

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from l7dns.checkpoint import Checkpoint, NameState
from l7dns.identities import Held, Key, capped
from l7dns.kept import KeptAddresses
from l7dns.kerneltables import KernelTables
from l7dns.listing import CacheRow, Listing
from l7dns.namecache import Change, Fact, NameCache
from l7dns.rows import IdentityRows
from l7dns.view import ConflictError, Trust, View
from l7policy.ids import IdentityId, is_fqdn_identity
from l7policy.model import Snapshot

MIN_HOLD: Final = 2.0
"""Seconds an address stays usable at least, or an answer with TTL 0 could never be used at all."""
SAVE_EVERY: Final = 10.0
"""Seconds between attempts to write the whole checkpoint, so that a full disk does not slow down the answers."""
KEPT_SHARE: Final = 4
"""One address may be kept for its connections for so many that names may have."""
LINGER: Final = 60.0
"""Seconds an identity outlives its last address, so that rotating addresses do not rewrite policy entries each time."""


class Learner:
    """The one writer of FQDN identities, of their policy entries, and of learnt addresses in the ipcache."""

    def __init__(
        self,
        kernel: KernelTables,
        state: Path,
        *,
        min_ttl: float = 0.0,
        grace: float = 0.0,
        max_names: int = 100_000,
        max_addresses_per_name: int = 1000,
        max_addresses: int = 32_768,
        linger: float = LINGER,
        trust: Trust | None = None,
    ) -> None:
        """`state` is the folder of the checkpoint. Nothing is read or written before `restore`.

        A name holds for its TTL, at least `min_ttl`, and `grace` seconds more.
        """
        self._kernel = kernel
        self._checkpoint = Checkpoint(state)
        self._min_ttl = max(min_ttl, MIN_HOLD)
        self._grace = grace
        self._linger = linger
        self._cache = NameCache(max_names, max_addresses_per_name, max_addresses)
        self._sets: dict[bytes, dict[frozenset[str], int]] = {}
        """Of each address, how many of its names match which set of selectors."""
        self._rows = IdentityRows(kernel)
        self._kept = KeptAddresses(max(max_addresses // KEPT_SHARE, 1))
        self._held: dict[bytes, Held] = {}
        self._dirty: set[bytes] = set()
        """Addresses whose last write failed."""
        self._active: Snapshot | None = None
        self._prepared: Snapshot | None = None
        self._trust = trust or Trust()
        self._view = self._viewed()
        self._next_save = 0.0
        self.kernel_errors = 0
        self.kernel_writes = 0
        """Addresses whose identity was changed in the kernel."""
        self.selectors_left_out = 0
        """Times that an address had more selectors than an identity can hold."""

    @property
    def revision(self) -> int:
        """The snapshot in force, 0 if none."""
        return 0 if self._active is None else self._active.revision

    @property
    def evicted(self) -> tuple[int, int]:
        """Names and addresses that went because a cap was reached."""
        return self._cache.evicted_names, self._cache.evicted_addresses

    @property
    def checkpoint_error(self) -> str:
        """Why the last checkpoint could not be written, empty if it could."""
        return self._checkpoint.error

    def __len__(self) -> int:
        """Pairs of name and address in the cache."""
        return len(self._cache)

    # --- start and end -------------------------------------------------------------------------------------------

    def restore(self, now: float) -> tuple[Snapshot, ...]:
        """Makes kernel and memory agree again after a restart; returns the snapshots in force and prepared.

        What the checkpoint knows and the kernel lost is written again; what the kernel holds and nobody knows goes.
        Raises OSError: a process that cannot do this must not serve.
        """
        state = self._checkpoint.load()
        self._rows.identities.next = max(self._rows.identities.next, state.next_identity)
        self._active, self._prepared = (*state.snapshots[:2], None, None)[:2]
        self._view = self._viewed(*state.snapshots[:2])
        present = self._kernel.ipcache()
        for record in state.names:
            fact = Fact(record.name, record.server, record.port)
            for address, expiry in record.addresses:
                if expiry > now:
                    self._came_and_went(self._cache.put(fact, [address], expiry, record.endpoint), now)
                elif address in present:
                    self._keep(fact, address, now)
        self._adopt(present, now)
        self._settle([address for address in self._addresses() if address not in self._held], now)
        self._rows.collect(now, self._linger)
        if self._checkpoint.due:
            self._save_names()
        return self._view.snapshots

    def close(self) -> None:
        """Writes the checkpoint. The kernel keeps everything."""
        self._save_names()
        self._checkpoint.close()

    # --- snapshots -----------------------------------------------------------------------------------------------

    def prepare(self, snapshot: Snapshot, now: float) -> str:
        """Makes the kernel ready for endpoints to flip to the snapshot's policies. Returns what failed, or nothing."""
        if self._prepared is not None:
            self.abort(self._prepared.revision, now)
        before = self._view
        try:
            view = self._viewed(*(found for found in (self._active, snapshot) if found is not None))
        except (ConflictError, ValueError) as error:
            return f"dns: {error}"
        try:
            self._switch(view, now)
        except OSError as error:
            self._failed()
            self._switch_back(before, now)
            return f"dns: kernel tables for revision {snapshot.revision}: {error}"
        self._prepared = snapshot
        self._save_rules()
        return ""

    def commit(self, revision: int, now: float) -> None:
        """The kernel has flipped: forgets the older snapshot. Of another revision than the prepared one: nothing."""
        if self._prepared is None or self._prepared.revision != revision:
            return
        self._active, self._prepared = self._prepared, None
        self._switch_back(self._viewed(self._active), now)
        self._save_rules()

    def abort(self, revision: int, now: float) -> None:
        """Forgets the prepared snapshot. Another revision than the prepared one changes nothing."""
        if self._prepared is None or self._prepared.revision != revision:
            return
        self._prepared = None
        self._switch_back(self._viewed(*([] if self._active is None else [self._active])), now)
        self._save_rules()

    # --- names ---------------------------------------------------------------------------------------------------

    def learn(self, fact: Fact, addresses: Sequence[bytes], ttl: float, now: float, endpoint: int = 0) -> str:
        """Takes in an answer. When this returns nothing, the kernel holds it; else, what failed."""
        # Whole seconds, upwards: an answer that only repeats one of the same second changes nothing.
        expiry = float(math.ceil(now + max(self._min_ttl, ttl) + self._grace))
        if self._cache.covers(fact, addresses, expiry, endpoint) and self._dirty.isdisjoint(addresses):
            return ""
        changes = self._cache.put(fact, addresses, expiry, endpoint)
        touched = dict.fromkeys(change.address for change in changes)
        if self._dirty:
            touched.update(dict.fromkeys(self._dirty.intersection(addresses)))
        if touched:
            self._came_and_went(changes, now)
            try:
                self._settle_or_make_room(touched, now)
            except OSError as error:
                self._failed()
                self._take_back([change for change in changes if change.added], now)
                return str(error)
        self._checkpoint.append(NameState(*fact, endpoint, [(address, expiry) for address in addresses]))
        return ""

    def expire(self, now: float) -> int:
        """Forgets what has expired, and tries again what failed before. Returns how many pairs went."""
        changes = self._cache.expire(now)
        touched = dict.fromkeys(change.address for change in changes)
        touched.update(dict.fromkeys(self._dirty))
        self._came_and_went(changes, now)
        self._settle_or_keep(touched, now)
        self._collect_or_keep(now, self._linger)
        if self._checkpoint.due and now >= self._next_save:
            self._next_save = now + SAVE_EVERY
            self._save_names()
        return len(changes)

    def forget(self, names: Iterable[str], now: float) -> int:
        """Forgets names before their time. Returns how many pairs went."""
        wanted = frozenset(names)
        facts = [fact for fact, _, _ in self._cache.items() if fact.name in wanted]
        changes = [change for fact in facts for change in self._cache.forget(fact)]
        self._count(changes)
        touched = dict.fromkeys(change.address for change in changes)
        for fact, address in list(self._kept.items()):
            if fact.name in wanted and self._kept.discard(fact, address):
                touched[address] = None
        self._settle_or_keep(touched, now)
        self._save_names()
        return len(changes)

    def kept(self) -> frozenset[bytes]:
        """Addresses of names that are over, which flows may lead to."""
        return frozenset(self._kept.addresses())

    def clients(self, addresses: frozenset[bytes]) -> Mapping[bytes, Collection[str]]:
        """Which of them flows lead to, and whose. Blocking, and safe in a thread."""
        return self._kernel.clients(addresses)

    def release(self, asked: frozenset[bytes], clients: Mapping[bytes, Collection[str]], when: float) -> int:
        """Lets go the addresses that no flow led to when the kernel was `asked` about them. Returns how many."""
        gone = self._kept.release(asked, clients, when)
        self._settle_or_keep(gone, when)
        return len(gone)

    @property
    def kept_evicted(self) -> int:
        """Addresses that were let go although connections may lead there, because there were too many."""
        return self._kept.evicted

    def names(self) -> Iterable[str]:
        """Every name, once for each server that told it."""
        return (fact.name for fact, _, _ in self._cache.items())

    @property
    def identities(self) -> int:
        """FQDN identities that there are, with those that linger."""
        return len(self._rows.identities)

    def dump(self, now: float, wall: float) -> Iterator[CacheRow]:
        """The cache, row by row, in no order. `wall` is the same moment in seconds since the epoch."""
        return Listing(self._cache, self._kept, self._held.get, lambda: self._view).rows(now, wall)

    # --- the kernel ----------------------------------------------------------------------------------------------

    def _wanted(self, address: bytes) -> tuple[IdentityId, Key | None, Key | None] | None:
        """Base identity, what new flows go by, and what those that have begun go by. None: as if it had no name."""
        sets = self._sets.get(address)
        kept = self._kept.facts_of(address)
        if not sets and not kept:
            return None
        base = self._view.base(address)
        if base is None:
            return None
        selectors = frozenset[str]()
        if sets:
            selectors = next(iter(sets)) if len(sets) == 1 else selectors.union(*sets)
        opened = self._key(base, selectors)
        if not kept:
            return None if opened is None else (base, opened, opened)
        established = self._key(base, selectors.union(*(self._view.matching(fact) for fact in kept)))
        return None if established is None else (base, opened, established)

    def _key(self, base: IdentityId, selectors: frozenset[str]) -> Key | None:
        if not selectors:
            return None
        kept = capped(selectors)
        if kept is not selectors:
            self.selectors_left_out += 1
        return base, kept

    def _settle(self, addresses: Iterable[bytes], now: float, *, again: bool = False) -> None:
        """Gives each address what it should have, or raises OSError and remembers those that do not have it yet.

        `again` writes even what should be there already.
        """
        waiting = list(addresses)
        while waiting:
            try:
                self._settle_one(waiting[-1], now, again)
            except OSError:
                self._dirty.update(waiting)
                raise
            self._dirty.discard(waiting.pop())

    def _settle_one(self, address: bytes, now: float, again: bool) -> None:
        held = self._held.get(address)
        wanted = self._wanted(address)
        if wanted is None:
            if held is None and address not in self._dirty:
                return
            self.kernel_writes += 1
            static = self._view.static(address)
            if static is None:
                self._kernel.delete_ipcache(address)
            else:
                self._kernel.write_ipcache(address, static)
            self._held.pop(address, None)
        else:
            base, key, longer = wanted
            opened = None if key is None else self._rows.ready(key, self._view, now)
            established = None if longer is None or longer == key else self._rows.ready(longer, self._view, now)
            same = held is not None and held[0] is opened and held[1] is established
            if same and not again and address not in self._dirty:
                return
            self.kernel_writes += 1
            self._kernel.write_ipcache(
                address, base if opened is None else opened.id, 0 if established is None else established.id
            )
            self._hold(address, Held(opened, established))
        for identity in held or ():
            if identity is not None:
                identity.addresses -= 1
                identity.idle_since = now

    def _hold(self, address: bytes, held: Held) -> None:
        self._held[address] = held
        for identity in held:
            if identity is not None:
                identity.addresses += 1

    # --- changes of the rules ------------------------------------------------------------------------------------

    def _switch(self, view: View, now: float) -> None:
        """Brings everything under another view. Adds before it removes. Raises OSError half way."""
        before, self._view = self._view, view
        if view.selectors != before.selectors or self._servers(view) != self._servers(before):
            self._recount()
        self._rows.add_policies(view)
        # The agent writes exact prefixes itself, and may have written over what was learnt.
        exact = [found for found in self._held if before.static(found) is not None or view.static(found) is not None]
        self._settle(list(self._addresses()), now)
        self._settle(exact, now, again=True)
        self._rows.drop_policies(view)

    def _switch_back(self, view: View, now: float) -> None:
        """As `_switch`, where failing is not possible: what does not work is tried again by `expire`."""
        try:
            self._switch(view, now)
        except OSError:
            self._failed()
            self._rows.doubt()
            self._dirty.update(self._addresses())

    def _servers(self, view: View) -> dict[str, frozenset[str]]:
        """What a view knows of the servers that taught something, which decides whose word counts."""
        servers = {fact.server for fact, _, _ in self._cache.items() if fact.server}
        return {server: view.server_labels(server) for server in servers}

    def _viewed(self, *snapshots: Snapshot) -> View:
        return View(snapshots, self._trust)

    def _recount(self) -> None:
        self._sets.clear()
        for fact, _, addresses in self._cache.items():
            matching = self._view.matching(fact)
            for address in addresses:
                sets = self._sets.setdefault(address, {})
                sets[matching] = sets.get(matching, 0) + 1

    def _addresses(self) -> Iterator[bytes]:
        """All that may have a row of the ipcache by their names, some twice."""
        return itertools.chain(self._cache.addresses(), self._kept.addresses())

    def _came_and_went(self, changes: Iterable[Change], now: float) -> None:
        """As `_count`; what went is kept for its connections."""
        self._count(changes)
        for change in changes:
            if change.added:
                self._kept.discard(change.fact, change.address)
            else:
                self._keep(change.fact, change.address, now)

    def _keep(self, fact: Fact, address: bytes, now: float) -> None:
        known = self._kept.facts_of(address)
        matching = self._view.matching(fact)
        if not matching or any(matching <= self._view.matching(other) for other in known):
            return
        self._settle_or_keep(self._kept.add(fact, address, now), now)

    def _count(self, changes: Iterable[Change]) -> None:
        for change in changes:
            matching = self._view.matching(change.fact)
            sets = self._sets.setdefault(change.address, {})
            left = sets.get(matching, 0) + (1 if change.added else -1)
            if left:
                sets[matching] = left
                continue
            sets.pop(matching, None)
            if not sets:
                del self._sets[change.address]

    # --- failures and the checkpoint -----------------------------------------------------------------------------

    def _take_back(self, added: Iterable[Change], now: float) -> None:
        """Undoes additions whose answer will not be released."""
        for change in added:
            self._count(self._cache.discard(change.fact, change.address))
        self._settle_or_keep(dict.fromkeys(change.address for change in added), now)

    def _settle_or_make_room(self, addresses: Collection[bytes], now: float) -> None:
        """As `_settle`. Names that hold come before those that are over."""
        try:
            self._settle(addresses, now)
        except OSError:
            kept = self.kept()
            if not self.release(kept, {}, now):
                raise
            self._settle(addresses, now)

    def _settle_or_keep(self, addresses: Iterable[bytes], now: float) -> None:
        for address in addresses:
            try:
                self._settle((address,), now)
            except OSError:
                self._failed()

    def _collect_or_keep(self, now: float, linger: float) -> None:
        try:
            self._rows.retry(self._view)
            self._rows.collect(now, linger)
        except OSError:
            self._failed()

    def _adopt(self, present: Mapping[bytes, tuple[IdentityId, int]], now: float) -> None:
        """Takes over what the kernel holds and the rules still give a meaning to; removes the rest."""
        unknown = self._rows.adopt(self._view)
        known: dict[tuple[IdentityId, int], Held | None] = {}
        for address, numbers in present.items():
            if numbers not in known:
                known[numbers] = self._meaning(numbers)
            held = known[numbers]
            if held is None:
                self._dirty.add(address)
            else:
                self._hold(address, held)
        # Addresses first: as long as one still has an identity, that identity's rows stay.
        self._settle(dict.fromkeys((*self._held, *self._dirty)), now)
        self._rows.sweep(unknown)

    def _meaning(self, numbers: tuple[IdentityId, int]) -> Held | None:
        """Of an address's row; None if a number in it means nothing any more."""
        held = Held(*(self._rows.identities.get(number) for number in numbers))
        lost = any(one is None and is_fqdn_identity(number) for one, number in zip(held, numbers, strict=True))
        return None if lost else held

    def _save_names(self) -> None:
        kept = (NameState(*fact, 0, [(address, 0.0)]) for fact, address in self._kept.items())
        names = (NameState(*fact, asker, list(found.items())) for fact, asker, found in self._cache.oldest_first())
        self._checkpoint.save_names(itertools.chain(kept, names), self._rows.identities.next)

    def _save_rules(self) -> None:
        self._checkpoint.save_rules([found for found in (self._active, self._prepared) if found is not None])

    def _failed(self) -> None:
        self.kernel_errors += 1
