# SPDX-License-Identifier: Apache-2.0
"""Identities: one number for each pair of base identity and set of matching selectors.

Learning one more address of a known name therefore costs one ipcache write, however many rules there are. A number is
not used again until the whole range has been through, so that nobody who remembers an old meaning can mix it up with
a new one.

May not do I/O. Failure verdict: `Exhausted`; selectors over the cap are left out, which can only forbid, never allow.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from l7policy.entries import Entry
from l7policy.ids import FIRST_FQDN_IDENTITY, IdentityId, PolicyId
from l7policy.names import hash64

MAX_SELECTORS: Final = 30
"""As many as a row of the kernel's `fqdn_identities` holds."""
LAST_FQDN_IDENTITY: Final = (1 << 25) - 1

Key = tuple[IdentityId, frozenset[str]]
"""Base identity, and labels of the selectors."""


class ExhaustedError(OSError):
    """Every number is taken."""


@dataclass(slots=True)
class FqdnIdentity:
    """One number."""

    id: IdentityId
    base: IdentityId
    selectors: frozenset[str]
    addresses: int = 0
    """How many addresses have it."""
    idle_since: float = 0.0
    ready: bool = False
    """Whether the kernel holds its row and all its policy entries."""
    entries: dict[PolicyId, tuple[Entry, ...]] = field(default_factory=dict)
    """What the policy map holds for it (at most: a failed write counts as done until it is undone)."""
    hashes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Selectors as the kernel names them."""
        self.hashes = tuple(sorted(hash64(label) for label in self.selectors))


class Held(NamedTuple):
    """What the ipcache holds of one address."""

    opened: FqdnIdentity | None
    """By names that hold."""
    established: FqdnIdentity | None
    """What flows that have begun already go by, if it is another."""


def capped(selectors: frozenset[str]) -> frozenset[str]:
    """The same choice in every process when there are more selectors than a row holds."""
    return selectors if len(selectors) <= MAX_SELECTORS else frozenset(sorted(selectors)[:MAX_SELECTORS])


class Identities:
    """All FQDN identities in use, or idle but not yet collected."""

    def __init__(self) -> None:
        """None yet."""
        self._by_id: dict[IdentityId, FqdnIdentity] = {}
        self._by_key: dict[Key, FqdnIdentity] = {}
        self.next = FIRST_FQDN_IDENTITY

    def __len__(self) -> int:
        """How many."""
        return len(self._by_id)

    def __iter__(self) -> Iterator[FqdnIdentity]:
        """In order of allocation."""
        return iter(list(self._by_id.values()))

    def get(self, identity: int) -> FqdnIdentity | None:
        """By number."""
        return self._by_id.get(IdentityId(identity))

    def obtain(self, key: Key) -> FqdnIdentity:
        """The identity of a base and selectors, new if need be. Raises Exhausted."""
        known = self._by_key.get(key)
        return known if known is not None else self._add(self._free_number(), key)

    def adopt(self, identity: IdentityId, key: Key) -> FqdnIdentity | None:
        """Takes over a number that the kernel holds already. None if the key has one, or the number is taken."""
        if key in self._by_key or identity in self._by_id:
            return None
        self.next = max(self.next, identity + 1)
        return self._add(identity, key)

    def drop(self, identity: FqdnIdentity) -> None:
        """Forgets one that no address has."""
        if identity.addresses:
            raise AssertionError(f"identity {identity.id} is in use")
        del self._by_id[identity.id]
        del self._by_key[identity.base, identity.selectors]

    def idle(self, before: float) -> Iterable[FqdnIdentity]:
        """Those that have had no address since `before`."""
        return [found for found in self._by_id.values() if not found.addresses and found.idle_since <= before]

    def _add(self, number: IdentityId, key: Key) -> FqdnIdentity:
        found = FqdnIdentity(number, *key)
        self._by_id[number] = self._by_key[key] = found
        return found

    def _free_number(self) -> IdentityId:
        for _ in range(len(self._by_id) + 1):
            if not FIRST_FQDN_IDENTITY <= self.next <= LAST_FQDN_IDENTITY:
                self.next = FIRST_FQDN_IDENTITY
            number = IdentityId(self.next)
            self.next += 1
            if number not in self._by_id:
                return number
        raise ExhaustedError("every FQDN identity is taken")
