# SPDX-License-Identifier: Apache-2.0
"""Learner: keeps the kernel's FQDN rows equal to what the name cache and the snapshots call for.

What an address should have is `l7dns.addressrows`' to say. Learning, expiry and new snapshots only differ in which
addresses they look at again. Writes go in the order that is never too permissive for a moment nor too late for the
client: identity row, its policy entries, ipcache; and backwards when something goes.

After a restart names can be learnt as soon as `begin` has read what the kernel holds; the names of the checkpoint are
read in slices (`proceed`) beside that, and nothing is taken from the kernel before the last one. What needs all of
them reads the rest first.

What cannot be removed yet is remembered and tried again. May not wait, nor read a clock. Failure verdict: `learn`
says what failed and takes its own addition back, and the answer is withheld; `prepare` says what failed and changes
nothing.
"""

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from l7dns.addressrows import AddressRows
from l7dns.checkpoint import Checkpoint, NameState
from l7dns.kept import KeptAddresses
from l7dns.kerneltables import KernelTables
from l7dns.listing import CacheRow, Listing
from l7dns.namecache import Change, Fact, NameCache
from l7dns.rows import IdentityRows
from l7dns.view import ConflictError, Trust, View
from l7policy.ids import IdentityId
from l7policy.model import Snapshot

MIN_HOLD: Final = 2.0
"""Seconds an address stays usable at least, or an answer with TTL 0 could never be used at all."""
SAVE_EVERY: Final = 10.0
"""Seconds between attempts to write the whole checkpoint, so that a full disk does not slow down the answers."""
KEPT_SHARE: Final = 4
"""One address may be kept for its connections for so many that names may have."""
SLICE: Final = 64
"""Names, or addresses, that `proceed` looks at: one or two milliseconds."""
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
        self._rows = IdentityRows(kernel)
        self._kept = KeptAddresses(max(max_addresses // KEPT_SHARE, 1))
        self._active: Snapshot | None = None
        self._prepared: Snapshot | None = None
        self._trust = trust or Trust()
        self._addresses = AddressRows(kernel, self._rows, self._kept, self._viewed())
        self._next_save = 0.0
        self._unread: Iterator[NameState] | None = None
        """Names of the checkpoint that are still to be read."""
        self._unsettled: list[bytes] = []
        """Addresses that are to be looked at again once all names are read."""
        self._unknown: list[IdentityId] = []
        """Identities that the kernel held at the start and that mean nothing any more."""
        self._fresh: dict[tuple[Fact, int], None] = {}
        """What was learnt while names were still to be read, and by whom: newer than all of those."""
        self.whole = True
        """Whether everything that is to be known after a restart is read again."""

    @property
    def revision(self) -> int:
        """The snapshot in force, 0 if none."""
        return 0 if self._active is None else self._active.revision

    @property
    def kernel_errors(self) -> int:
        """Times that the kernel did not take a write."""
        return self._addresses.errors

    @property
    def kernel_writes(self) -> int:
        """Addresses whose identity was changed in the kernel."""
        return self._addresses.writes

    @property
    def selectors_left_out(self) -> int:
        """Times that an address had more selectors than an identity can hold."""
        return self._addresses.selectors_left_out

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
        """`begin`, and all that is to be read, at once."""
        snapshots = self.begin()
        self._finish(now)
        return snapshots

    def begin(self) -> tuple[Snapshot, ...]:
        """Takes over what the kernel holds after a restart; returns the snapshots in force and prepared.

        Raises OSError: a process that cannot do this must not serve.
        """
        state = self._checkpoint.load()
        self._rows.identities.next = max(self._rows.identities.next, state.next_identity)
        self._active, self._prepared = (*state.snapshots[:2], None, None)[:2]
        self._addresses.view = view = self._viewed(*state.snapshots[:2])
        self._unknown = self._rows.adopt(view)
        self._addresses.adopt(self._kernel.ipcache())
        self._addresses.partial = True
        self._unread = iter(state.names)
        self.whole = False
        return view.snapshots

    def proceed(self, now: float, most: int = SLICE) -> bool:
        """Makes a slice of kernel and memory agree again after `begin`; returns whether that was the last.

        What the checkpoint knows and the kernel lost is written again; what the kernel holds and nobody knows goes.
        Raises OSError, as `begin`.
        """
        if self.whole:
            return True
        if self._unread is not None:
            records = list(itertools.islice(self._unread, most))
            for record in records:
                self._take_in(record, now)
            for fact, asker in self._fresh:
                self._cache.covers(fact, (), 0.0, asker)
            if len(records) < most:
                self._unread = None
                self._fresh.clear()
                self._addresses.partial = False
                self._unsettled = list(dict.fromkeys((*self._addresses.addresses(), *self._named())))
                self._addresses.doubt_exact()
            return False
        slice_, self._unsettled = self._unsettled[-most:], self._unsettled[:-most]
        self._addresses.settle_or_keep(slice_, now)
        if self._unsettled:
            return False
        # Addresses first, those too that an answer failed for meanwhile: while one has an identity, its rows stay.
        self._addresses.settle_or_keep(list(self._addresses.dirty), now)
        self._rows.sweep(self._unknown)
        self._unknown = []
        self.whole = True
        self._collect_or_keep(now, self._linger)
        if self._checkpoint.due:
            self._save_names()
        return True

    @property
    def reading(self) -> bool:
        """Whether there are names that are not read yet. Until then nothing is taken from an address."""
        return self._unread is not None

    def _finish(self, now: float) -> None:
        while not self.proceed(now):
            pass

    def _take_in(self, record: NameState, now: float) -> None:
        """A name of the checkpoint."""
        fact = Fact(record.name, record.server, record.port)
        for address, expiry in record.addresses:
            if expiry > now:
                self._came_and_went(self._cache.put(fact, [address], expiry, record.endpoint), now)
            elif self._addresses.held(address) is not None and self._cache.expiry(fact, address) is None:
                self._keep(fact, address, now)

    def close(self) -> None:
        """Leaves the checkpoint, which its journal makes whole, to the next process. The kernel keeps everything."""
        if self.whole and self._checkpoint.due:
            self._save_names()
        self._checkpoint.close()

    # --- snapshots -----------------------------------------------------------------------------------------------

    def prepare(self, snapshot: Snapshot, now: float) -> str:
        """Makes the kernel ready for endpoints to flip to the snapshot's policies. Returns what failed, or nothing."""
        if self._prepared is None and not self.whole and snapshot == self._active:
            return ""  # the agent tells a restarted process what that knows; `proceed` sees to the rows
        try:
            self._finish(now)
        except OSError as error:
            return f"dns: kernel tables: {error}"
        if self._prepared is not None:
            self.abort(self._prepared.revision, now)
        before = self._addresses.view
        try:
            view = self._viewed(*(found for found in (self._active, snapshot) if found is not None))
        except (ConflictError, ValueError) as error:
            return f"dns: {error}"
        try:
            self._switch(view, now)
        except OSError as error:
            self._addresses.errors += 1
            self._switch_back(before, now)
            return f"dns: kernel tables for revision {snapshot.revision}: {error}"
        self._prepared = snapshot
        self._save_rules()
        return ""

    def commit(self, revision: int, now: float) -> None:
        """The kernel has flipped: forgets the older snapshot. Of another revision than the prepared one: nothing."""
        if self._prepared is None or self._prepared.revision != revision:
            return
        self._finish(now)
        self._active, self._prepared = self._prepared, None
        self._switch_back(self._viewed(self._active), now)
        self._save_rules()

    def abort(self, revision: int, now: float) -> None:
        """Forgets the prepared snapshot. Another revision than the prepared one changes nothing."""
        if self._prepared is None or self._prepared.revision != revision:
            return
        self._finish(now)
        self._prepared = None
        self._switch_back(self._viewed(*([] if self._active is None else [self._active])), now)
        self._save_rules()

    # --- names ---------------------------------------------------------------------------------------------------

    def learn(self, fact: Fact, addresses: Sequence[bytes], ttl: float, now: float, endpoint: int = 0) -> str:
        """Takes in an answer. When this returns nothing, the kernel holds it; else, what failed."""
        # Whole seconds, upwards: an answer that only repeats one of the same second changes nothing.
        expiry = float(math.ceil(now + max(self._min_ttl, ttl) + self._grace))
        if self._cache.covers(fact, addresses, expiry, endpoint) and self._addresses.dirty.isdisjoint(addresses):
            return ""
        before = {address: self._cache.expiry(fact, address) for address in addresses}
        changes = self._cache.put(fact, addresses, expiry, endpoint)
        touched = self._came_and_went(changes, now)
        if self._addresses.dirty:
            touched.update(dict.fromkeys(self._addresses.dirty.intersection(addresses)))
        if touched:
            try:
                self._settle_or_make_room(touched, now)
            except OSError as error:
                self._addresses.errors += 1
                self._take_back([change for change in changes if change.added], now)
                for address, known in before.items():
                    if known is not None and self._cache.expiry(fact, address) is not None:
                        self._cache.restore_expiry(fact, address, known)
                return str(error)
        if self.reading:
            self._fresh[fact, endpoint] = None
        self._checkpoint.append(NameState(*fact, endpoint, [(address, expiry) for address in addresses]))
        return ""

    def expire(self, now: float) -> int:
        """Forgets what has expired, and tries again what failed before. Returns how many pairs went.

        Nothing, before the checkpoint is read: it may say that a name holds for longer.
        """
        if not self.whole:
            return 0
        changes = self._cache.expire(now)
        touched = self._came_and_went(changes, now)
        touched.update(dict.fromkeys(self._addresses.dirty))
        self._addresses.settle_or_keep(touched, now)
        self._collect_or_keep(now, self._linger)
        if self._checkpoint.due and now >= self._next_save:
            self._next_save = now + SAVE_EVERY
            self._save_names()
        return len(changes)

    def forget(self, names: Iterable[str], now: float) -> int:
        """Forgets names before their time. Returns how many pairs went."""
        self._finish(now)
        wanted = frozenset(names)
        facts = [fact for fact, _, _ in self._cache.items() if fact.name in wanted]
        changes = [change for fact in facts for change in self._cache.forget(fact)]
        self._addresses.count(changes)
        touched = dict.fromkeys(change.address for change in changes)
        for fact, address in list(self._kept.items()):
            if fact.name in wanted and self._kept.discard(fact, address):
                touched[address] = None
        self._addresses.settle_or_keep(touched, now)
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
        self._addresses.settle_or_keep(gone, when)
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
        self._finish(now)
        rows = self._addresses
        return Listing(self._cache, self._kept, rows.held, lambda: rows.view).rows(now, wall)

    # --- changes of the rules ------------------------------------------------------------------------------------

    def _switch(self, view: View, now: float) -> None:
        """Brings everything under another view. Adds before it removes. Raises OSError half way."""
        rows = self._addresses
        before, rows.view = rows.view, view
        if view.selectors != before.selectors or self._servers(view) != self._servers(before):
            rows.recount((fact, addresses) for fact, _, addresses in self._cache.items())
        self._rows.add_policies(view)
        rows.doubt_exact(before, view)
        rows.settle((*self._named(), *rows.dirty), now)
        self._rows.drop_policies(view)

    def _switch_back(self, view: View, now: float) -> None:
        """As `_switch`, where failing is not possible: what does not work is tried again by `expire`."""
        try:
            self._switch(view, now)
        except OSError:
            self._addresses.errors += 1
            self._rows.doubt()
            self._addresses.dirty.update(self._named())

    def _servers(self, view: View) -> dict[str, frozenset[str]]:
        """What a view knows of the servers that taught something, which decides whose word counts."""
        servers = {fact.server for fact, _, _ in self._cache.items() if fact.server}
        return {server: view.server_labels(server) for server in servers}

    def _viewed(self, *snapshots: Snapshot) -> View:
        return View(snapshots, self._trust)

    def _named(self) -> Iterator[bytes]:
        """All that may have a row of the ipcache by their names, some twice."""
        return itertools.chain(self._cache.addresses(), self._kept.addresses())

    def _came_and_went(self, changes: Collection[Change], now: float) -> dict[bytes, None]:
        """Counts them; what went is kept for its connections. Returns the addresses that it makes a difference to."""
        different = self._addresses.count(changes)
        for change in changes:
            if change.added:
                if self._kept.discard(change.fact, change.address):
                    different[change.address] = None
            elif change.address in different:
                self._keep(change.fact, change.address, now)
        return different

    def _keep(self, fact: Fact, address: bytes, now: float) -> None:
        known = self._kept.facts_of(address)
        matching = self._addresses.view.matching(fact)
        if not matching or self._addresses.given(address, matching):
            return
        if any(matching <= self._addresses.view.matching(other) for other in known):
            return
        self._addresses.settle_or_keep(self._kept.add(fact, address, now), now)

    # --- failures and the checkpoint -----------------------------------------------------------------------------

    def _take_back(self, added: Iterable[Change], now: float) -> None:
        """Undoes additions whose answer will not be released."""
        for change in added:
            self._addresses.count(self._cache.discard(change.fact, change.address))
        self._addresses.settle_or_keep(dict.fromkeys(change.address for change in added), now)

    def _settle_or_make_room(self, addresses: Collection[bytes], now: float) -> None:
        """As `_settle`. Names that hold come before those that are over."""
        try:
            self._addresses.settle(addresses, now)
        except OSError:
            kept = self.kept()
            if not self.release(kept, {}, now):
                raise
            self._addresses.settle(addresses, now)

    def _collect_or_keep(self, now: float, linger: float) -> None:
        try:
            self._rows.retry(self._addresses.view)
            self._rows.collect(now, linger)
        except OSError:
            self._addresses.errors += 1

    def _save_names(self) -> None:
        kept = (NameState(*fact, 0, [(address, 0.0)]) for fact, address in self._kept.items())
        names = (NameState(*fact, asker, list(found.items())) for fact, asker, found in self._cache.oldest_first())
        self._checkpoint.save_names(itertools.chain(kept, names), self._rows.identities.next)

    def _save_rules(self) -> None:
        self._checkpoint.save_rules([found for found in (self._active, self._prepared) if found is not None])
