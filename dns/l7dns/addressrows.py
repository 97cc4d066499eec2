# SPDX-License-Identifier: Apache-2.0
"""Address rows: what the ipcache holds of each learnt address, and what it should hold.

Everything follows from one rule, `_wanted`: an address has the identity (base by longest static prefix, selectors
that match any of its names), or none if there is no such selector or the address is not out in the world. Flows that
have begun already go by names that are over as well (`l7dns.kept`), for as long as the kernel knows of such flows.

After a restart the kernel knows more than the process does. Until all names are read again (`partial`) an address
keeps what it has, and can only gain.

May not know how names come and go, nor read a clock. Failure verdict: OSError, with the addresses that do not have
what they should remembered in `dirty`.
"""

from collections.abc import Iterable, Mapping

from l7dns.identities import Held, Key, capped
from l7dns.kept import KeptAddresses
from l7dns.kerneltables import KernelTables
from l7dns.namecache import Change, Fact
from l7dns.rows import IdentityRows
from l7dns.view import View
from l7policy.ids import IdentityId, is_fqdn_identity

_NOTHING = frozenset[str]()


class AddressRows:
    """The rows of the ipcache that names are the reason for."""

    def __init__(self, kernel: KernelTables, identities: IdentityRows, kept: KeptAddresses, view: View) -> None:
        """None known yet."""
        self._kernel = kernel
        self._identities = identities
        self._kept = kept
        self._sets: dict[bytes, dict[frozenset[str], int]] = {}
        """Of each address, how many of its names match which set of selectors."""
        self._held: dict[bytes, Held] = {}
        self.view = view
        self.partial = False
        """Whether there are names that are not read yet."""
        self.dirty: set[bytes] = set()
        """Addresses whose last write failed, or whose row may be somebody else's."""
        self.errors = 0
        """Times that the kernel did not take a write."""
        self.writes = 0
        """Addresses whose identity was changed in the kernel."""
        self.selectors_left_out = 0
        """Times that an address had more selectors than an identity can hold."""

    def held(self, address: bytes) -> Held | None:
        """What the kernel holds of an address."""
        return self._held.get(address)

    def addresses(self) -> list[bytes]:
        """Those that have a row, and those whose row is in doubt."""
        return [*self._held, *self.dirty]

    def adopt(self, present: Mapping[bytes, tuple[IdentityId, int]]) -> None:
        """Takes over what the kernel holds already. What has no meaning any more is dirty."""
        known: dict[tuple[IdentityId, int], Held | None] = {}
        for address, numbers in present.items():
            if numbers not in known:
                known[numbers] = self._meaning(numbers)
            held = known[numbers]
            if held is None:
                self.dirty.add(address)
            else:
                self._hold(address, held)

    def count(self, changes: Iterable[Change]) -> dict[bytes, None]:
        """Names came or went. Nothing is written yet; returns the addresses to which that makes a difference."""
        different: dict[bytes, None] = {}
        for change in changes:
            matching = self.view.matching(change.fact)
            sets = self._sets.setdefault(change.address, {})
            before = sets.get(matching, 0)
            left = before + (1 if change.added else -1)
            if left and before:
                sets[matching] = left
                continue
            different[change.address] = None
            if left:
                sets[matching] = left
            else:
                del sets[matching]
                if not sets:
                    del self._sets[change.address]
        return different

    def given(self, address: bytes, matching: frozenset[str]) -> bool:
        """Whether a name that holds gives an address just these selectors."""
        return matching in self._sets.get(address, ())

    def recount(self, pairs: Iterable[tuple[Fact, Iterable[bytes]]]) -> None:
        """The view has other selectors: every name is matched again."""
        self._sets.clear()
        for fact, addresses in pairs:
            matching = self.view.matching(fact)
            for address in addresses:
                sets = self._sets.setdefault(address, {})
                sets[matching] = sets.get(matching, 0) + 1

    def doubt_exact(self, *views: View) -> None:
        """The agent writes exact prefixes itself, and may have written over what was learnt for them."""
        looked = views or (self.view,)
        self.dirty.update(found for found in self._held if any(view.static(found) is not None for view in looked))

    def settle(self, addresses: Iterable[bytes], now: float) -> None:
        """Gives each address what it should have, or raises OSError and remembers those that do not have it yet."""
        waiting = list(addresses)
        while waiting:
            try:
                self._settle_one(waiting[-1], now)
            except OSError:
                self.dirty.update(waiting)
                raise
            self.dirty.discard(waiting.pop())

    def settle_or_keep(self, addresses: Iterable[bytes], now: float) -> None:
        """As `settle`, each address for itself, and what fails is counted."""
        for address in addresses:
            try:
                self.settle((address,), now)
            except OSError:
                self.errors += 1

    def _wanted(self, address: bytes) -> tuple[IdentityId, Key | None, Key | None] | None:
        """Base identity, what new flows go by, and what those that have begun go by. None: as if it had no name."""
        sets = self._sets.get(address)
        kept = self._kept.facts_of(address)
        held = self._held.get(address) if self.partial else None
        if not sets and not kept and held is None:
            return None
        base = self.view.base(address)
        if base is None:
            return None
        selectors = _NOTHING
        if sets:
            selectors = next(iter(sets)) if len(sets) == 1 else selectors.union(*sets)
        longer = selectors
        if kept:
            longer = selectors.union(*(self.view.matching(fact) for fact in kept))
        if held is not None:
            opened, established = (_NOTHING if one is None else one.selectors for one in held)
            selectors, longer = selectors | opened, longer | opened | established
        key = self._key(base, selectors)
        if longer is selectors:
            return None if key is None else (base, key, key)
        other = self._key(base, longer)
        return None if other is None else (base, key, other)

    def _key(self, base: IdentityId, selectors: frozenset[str]) -> Key | None:
        if not selectors:
            return None
        kept = capped(selectors)
        if kept is not selectors:
            self.selectors_left_out += 1
        return base, kept

    def _settle_one(self, address: bytes, now: float) -> None:
        held = self._held.get(address)
        wanted = self._wanted(address)
        if wanted is None:
            if held is None and address not in self.dirty:
                return
            self.writes += 1
            static = self.view.static(address)
            if static is None:
                self._kernel.delete_ipcache(address)
            else:
                self._kernel.write_ipcache(address, static)
            self._held.pop(address, None)
        else:
            base, key, longer = wanted
            ready = self._identities.ready
            opened = None if key is None else ready(key, self.view, now)
            established = None if longer is None or longer == key else ready(longer, self.view, now)
            same = held is not None and held[0] is opened and held[1] is established
            if same and address not in self.dirty:
                return
            self.writes += 1
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

    def _meaning(self, numbers: tuple[IdentityId, int]) -> Held | None:
        """Of an address's row; None if a number in it means nothing any more."""
        held = Held(*(self._identities.identities.get(number) for number in numbers))
        lost = any(one is None and is_fqdn_identity(number) for one, number in zip(held, numbers, strict=True))
        return None if lost else held
