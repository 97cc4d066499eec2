# SPDX-License-Identifier: Apache-2.0
"""How full the kernel's tables are. Counting reads them whole, so it goes on beside the loop and seldom.

May not be used to decide anything: the answer may be seconds old, and says how old. Failure verdict: OSError, told to
whoever asked.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

FRESH_SECONDS: Final = 5.0
"""A count that is not older answers the next question too."""

Fill = tuple[str, int, int]
"""Name, entries and capacity of a table."""


@dataclass(frozen=True, slots=True)
class Count:
    """What was counted, and when."""

    tables: tuple[Fill, ...]
    at: float
    """`time.monotonic`"""


class Fills:
    """The last count. Many may ask at once: one counts, the others wait for it."""

    def __init__(self, count: Callable[[], list[Fill]], clock: Callable[[], float] = time.monotonic) -> None:
        """`count` blocks, and is called in a thread."""
        self._count = count
        self._clock = clock
        self._last: Count | None = None
        self._counting = asyncio.Lock()

    async def get(self) -> Count:
        """A count of at most `FRESH_SECONDS` ago."""
        async with self._counting:
            last = self._last
            if last is None or self._clock() - last.at > FRESH_SECONDS:
                at = self._clock()
                last = self._last = Count(tuple(await asyncio.to_thread(self._count)), at)
            return last

    def age(self, count: Count) -> float:
        """Seconds since it was begun."""
        return self._clock() - count.at
