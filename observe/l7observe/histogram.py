# SPDX-License-Identifier: Apache-2.0
"""Histogram: how long something took, in buckets that double, so that it costs nothing to keep and nothing to add up.

May not read a clock. Failure verdict: none; what is over the last bucket counts in it.
"""

from typing import Final

FIRST: Final = 25e-6
"""Upper bound of the first bucket, in seconds. Each next one is twice as wide."""
BUCKETS: Final = 20
"""The last one ends at 13 s."""
_SCALE: Final = 1 / FIRST


class Histogram:
    """Counts by bucket."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        """Empty."""
        self.counts = [0] * BUCKETS
        self.total = 0.0
        """Seconds, of all together."""

    def observe(self, seconds: float) -> None:
        """Counts one."""
        self.total += seconds
        bucket = int(seconds * _SCALE).bit_length()
        self.counts[bucket if bucket < BUCKETS else BUCKETS - 1] += 1

    def quantile(self, share: float) -> float:
        """The upper bound of the bucket in which this share of all ends; 0 if nothing was counted."""
        wanted = share * sum(self.counts)
        if not wanted:
            return 0.0
        seen = 0
        for bucket, count in enumerate(self.counts):
            seen += count
            if seen >= wanted:
                return FIRST * (1 << bucket)
        return FIRST * (1 << BUCKETS)

    def cumulative(self) -> list[tuple[float, int]]:
        """Upper bound of each bucket, and how many took no longer: what Prometheus calls ``le``."""
        seen = 0
        rows = []
        for bucket, count in enumerate(self.counts):
            seen += count
            rows.append((FIRST * (1 << bucket), seen))
        return rows
