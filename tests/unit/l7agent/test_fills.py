# SPDX-License-Identifier: Apache-2.0
"""Counting the kernel's tables: beside the loop, and not more often than need be."""

import asyncio
import threading

import pytest

from l7agent.fills import FRESH_SECONDS, Fill, Fills


class Tables:
    """Counts how often it is counted, and remembers by whom."""

    def __init__(self) -> None:
        self.now = 100.0
        self.counted = 0
        self.threads: set[int] = set()
        self.failing = False

    def count(self) -> list[Fill]:
        if self.failing:
            raise OSError("the table is gone")
        self.counted += 1
        self.threads.add(threading.get_ident())
        return [("conntrack", self.counted, 131072)]

    def fills(self) -> Fills:
        return Fills(self.count, lambda: self.now)


def test_a_count_is_made_beside_the_loop_and_answers_for_a_while() -> None:
    tables = Tables()

    async def ask() -> None:
        fills = tables.fills()
        first = await fills.get()
        assert first.tables == (("conntrack", 1, 131072),)
        tables.now += FRESH_SECONDS
        assert await fills.get() is first
        assert fills.age(first) == FRESH_SECONDS
        tables.now += 0.1
        assert (await fills.get()).tables == (("conntrack", 2, 131072),)

    asyncio.run(ask())
    assert threading.get_ident() not in tables.threads


def test_whoever_asks_at_once_shares_one_count() -> None:
    tables = Tables()

    async def ask() -> None:
        fills = tables.fills()
        found = await asyncio.gather(*(fills.get() for _ in range(20)))
        assert len(set(map(id, found))) == 1

    asyncio.run(ask())
    assert tables.counted == 1


def test_a_count_that_fails_is_told_and_tried_again() -> None:
    tables = Tables()

    async def ask() -> None:
        fills = tables.fills()
        tables.failing = True
        with pytest.raises(OSError, match="gone"):
            await fills.get()
        tables.failing = False
        assert (await fills.get()).tables == (("conntrack", 1, 131072),)

    asyncio.run(ask())
