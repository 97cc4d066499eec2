# SPDX-License-Identifier: Apache-2.0
"""Tally: how many requests a proxy judged, by what came of them, and how long the servers took.

It counts also what nobody wants a record of. Its size does not depend on what is sent: verdicts and classes of status
are closed sets. May not read a clock.
"""

from collections import Counter
from typing import Any, Final

from l7observe.histogram import Histogram
from l7policy.verdict import Verdict

_CLASSES: Final = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")


def status_class(status: int) -> str:
    """``2xx``; ``none`` for no answer, or a number that is no status."""
    group = status // 100
    return _CLASSES[group] if 0 < group < len(_CLASSES) else _CLASSES[0]


class Tally:
    """Counters of one process, since it started."""

    __slots__ = ("_counts", "_passed", "connections", "seconds")

    def __init__(self) -> None:
        self._counts: dict[tuple[Verdict, str], int] = {}
        self._passed: dict[int, int] = {}
        """By status, because that is counted at every request's end."""
        self.connections: dict[Verdict, int] = {}
        """TLS connections that were judged by their server name."""
        self.seconds = Histogram()
        """From a whole request's head to the whole head of its answer, of requests that passed."""

    def request(self, verdict: Verdict, status: int) -> None:
        """Counts an HTTP request."""
        key = (verdict, status_class(status))
        self._counts[key] = self._counts.get(key, 0) + 1

    def passed(self, status: int) -> None:
        """Counts an HTTP request that passed. `status` has three digits, or is 0."""
        self._passed[status] = self._passed.get(status, 0) + 1

    def connection(self, verdict: Verdict) -> None:
        """Counts a TLS connection."""
        self.connections[verdict] = self.connections.get(verdict, 0) + 1

    def plain(self) -> dict[str, Any]:
        """As it goes over the wire to the agent."""
        counts = Counter(self._counts)
        for status, count in self._passed.items():
            counts[Verdict.FORWARDED, status_class(status)] += count
        return {
            "requests": [[verdict.name, group, count] for (verdict, group), count in counts.items()],
            "connections": [[verdict.name, count] for verdict, count in self.connections.items()],
            "request_seconds": [list(row) for row in self.seconds.cumulative()],
            "request_seconds_sum": self.seconds.total,
        }
