# SPDX-License-Identifier: Apache-2.0
"""Numbers of policies in the kernel's tables, the same after a restart.

The next agent finds its rows instead of writing them a second time, for which there may be no room.

A number is remembered with the digest of what it stands for, before any endpoint is moved to it. What the file says of
a number that no endpoint of the kernel refers to is not believed. Failure verdict: without the file every policy is
written anew beside the old rows, as for a reload that changes them all.
"""

import logging
from collections.abc import Iterable
from pathlib import Path

from l7agent import statefile
from l7policy.ids import PolicyId
from l7policy.resolver import Digest

_log = logging.getLogger(__name__)


class PolicyIds:
    """Digest of a policy → its number."""

    def __init__(self, path: Path, in_use: set[int], taken: set[int]) -> None:
        """`in_use`: what endpoints refer to. `taken`: every number that some row has."""
        self._path = path
        self._next = max(taken | in_use, default=0) + 1
        self._ids: dict[Digest, PolicyId] = {}
        try:
            saved = statefile.load(path, dict[str, int]) or {}
            self._ids = {bytes.fromhex(digest): PolicyId(n) for digest, n in saved.items() if n in in_use}
        except (statefile.StateError, ValueError) as error:
            _log.error("policies are numbered anew: %s", error)
        self._in_force = dict(self._ids)

    def __getitem__(self, digest: Digest) -> PolicyId:
        """Of a policy that has a number."""
        return self._ids[digest]

    def number(self, digest: Digest) -> PolicyId:
        """The policy's number, a new one if it has none."""
        known = self._ids.get(digest)
        if known is None:
            known = self._ids[digest] = PolicyId(self._next)
            self._next += 1
        return known

    def retain(self, digests: Iterable[Digest]) -> None:
        """These are in force, all others forgotten. Their numbers are not given again by this agent."""
        self._ids = {digest: self._ids[digest] for digest in digests}
        self._in_force = dict(self._ids)

    def withdraw(self) -> None:
        """What was numbered since does not come into force. No other gets those numbers."""
        self._ids = dict(self._in_force)

    def save(self) -> None:
        """Writes them down. A disk that refuses is no reason to refuse a policy."""
        try:
            statefile.save(self._path, {digest.hex(): number for digest, number in self._ids.items()})
        except OSError as error:
            _log.error("%s: cannot be written, the next agent writes every policy anew: %s", self._path, error.strerror)
