# SPDX-License-Identifier: Apache-2.0
"""Rate limit: how much of something a client may have in a second, so that one workload cannot take it from others.

A bucket for each client that holds one second's worth. May not read a clock. Failure verdict: refuse; a client that is
not known yet has a full bucket, and the buckets of those that wanted nothing for a second are forgotten.
"""


class RateLimit:
    """Buckets by client."""

    __slots__ = ("_buckets", "_per_second")

    def __init__(self, per_second: int) -> None:
        """`per_second` of 0 allows everything."""
        self._per_second = per_second
        self._buckets: dict[str, tuple[float, float]] = {}
        """What was left, and when."""

    def __len__(self) -> int:
        """Clients remembered."""
        return len(self._buckets)

    def allows(self, client: str, now: float) -> bool:
        """Takes one out of the client's bucket, if it holds one."""
        full = self._per_second
        if not full:
            return True
        left, since = self._buckets.get(client, (full, now))
        left = min(full, left + (now - since) * full)
        if left < 1:
            return False
        self._buckets[client] = (left - 1, now)
        return True

    def sweep(self, now: float) -> None:
        """Forgets buckets that are full again."""
        for client in [client for client, (_, since) in self._buckets.items() if now - since >= 1]:
            del self._buckets[client]
