# SPDX-License-Identifier: Apache-2.0
"""What the agent steers in the DNS process: the snapshots that queries are judged by and names are learnt for; and what
the process tells of itself.

Failure verdict: a snapshot that the kernel has no room for is refused, and the one in force stays.
"""

import asyncio
from typing import Any

from l7dns import clock
from l7dns.learner import Learner
from l7dns.message import rcode_name
from l7dns.server import EXTENDED_RCODES, DnsServer
from l7policy.enforcement import Enforcement
from l7policy.http import PatternError
from l7policy.model import Snapshot
from l7policy.names import name_set
from l7policy.scalars import match_pattern


class DnsRole:
    """One for the process."""

    def __init__(self, enforcement: Enforcement, learner: Learner) -> None:
        self._enforcement = enforcement
        self._learner = learner
        self.server: DnsServer | None = None
        """Once there is one."""
        self.revision = learner.revision
        self.committed = asyncio.Event()
        if self.revision:
            self.committed.set()

    def prepare(self, snapshot: Snapshot) -> str:
        """Writes the rows that the kernel needs before endpoints move to the snapshot's policies."""
        error = self._learner.prepare(snapshot, clock.boottime())
        if error:
            return error
        try:
            self._enforcement.prepare(snapshot)
        except PatternError as bad:
            self._learner.abort(snapshot.revision, clock.boottime())
            return str(bad)
        return ""

    def commit(self, revision: int) -> None:
        """Drops the rows of policies that are gone."""
        self._enforcement.commit(revision)
        self._learner.commit(revision, clock.boottime())
        self.revision = revision
        self.committed.set()

    def abort(self, revision: int) -> None:
        """Takes the prepared rows back."""
        self._enforcement.abort(revision)
        self._learner.abort(revision, clock.boottime())

    def answer(self, question: str) -> Any:
        """``cache``: what is learnt. ``status``: counters. ``clean PATTERN``: forgets names, and tells how many."""
        verb, _, argument = question.partition(" ")
        if verb == "cache":
            return self._learner.dump(clock.boottime(), clock.wall())
        if verb == "status":
            return self._status()
        if verb == "clean":
            wanted = name_set((match_pattern(argument),))
            names = {name for name in self._learner.names() if wanted.matches(name)}
            self._learner.forget(names, clock.boottime())
            return len(names)
        return None

    def _status(self) -> dict[str, Any]:
        learner, server = self._learner, self.server
        names, addresses = learner.evicted
        found: dict[str, Any] = {
            "names": len(set(learner.names())),
            "addresses": len(learner),
            "identities": learner.identities,
            "evicted_names": names,
            "evicted_addresses": addresses,
            "kept_addresses": len(learner.kept()),
            "kept_evicted": learner.kept_evicted,
            "kernel_errors": learner.kernel_errors,
            "selectors_left_out": learner.selectors_left_out,
            "checkpoint_error": learner.checkpoint_error,
        }
        if server is not None:
            counters = server.counters
            found |= {
                name: getattr(counters, name)
                for name in ("queries", "forwarded", "refused", "failed", "malformed", "limited", "inflight")
            }
            found |= {"connections": counters.connections}
            found["answers"] = [
                [outcome, "EXTENDED" if rcode == EXTENDED_RCODES else rcode_name(rcode), count]
                for (outcome, rcode), count in counters.answers.items()
            ]
            for name, histogram in (("answer", server.answer_seconds), ("learn", server.learn_seconds)):
                found |= {
                    f"{name}_seconds": [list(row) for row in histogram.cumulative()],
                    f"{name}_seconds_sum": histogram.total,
                    f"{name}_p50_ms": histogram.quantile(0.5) * 1000,
                    f"{name}_p99_ms": histogram.quantile(0.99) * 1000,
                }
        return found
