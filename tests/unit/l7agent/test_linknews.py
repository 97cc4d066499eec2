# SPDX-License-Identifier: Apache-2.0
"""Waiting for the kernel's news of interfaces, in a network namespace of the test's own."""

import asyncio
import ctypes
import subprocess
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from l7agent.linknews import PAUSE, LinkNews

CLONE_NEWNET = 0x40000000
T = TypeVar("T")


def alone(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """In a namespace that belongs to one thread, and ends with it."""

    def run() -> T:
        assert ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) == 0, ctypes.get_errno()
        return asyncio.run(work())

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(run).result()


@pytest.mark.parametrize(
    "command", ["link add v0 type veth peer name v1", "addr add 192.0.2.1/24 dev lo", "link set lo up"]
)
def test_what_happens_to_interfaces_and_addresses_ends_the_waiting(command: str) -> None:
    async def work() -> bool:
        with LinkNews() as news:
            waiting = asyncio.create_task(news.wait(60.0))  # noqa: TID251 - no task of the daemon
            await asyncio.sleep(PAUSE / 2)
            subprocess.run(["ip", *command.split()], check=True)
            return await asyncio.wait_for(waiting, 30.0)

    assert alone(work)


def test_of_routes_only_local_ones_are_news() -> None:
    """A router's tables change all the time."""

    async def work() -> list[bool]:
        with LinkNews() as news:
            for command in ("link set lo up", "route add 203.0.113.0/24 dev lo"):
                subprocess.run(["ip", *command.split()], check=True)
            await news.wait(60.0)  # that the link came up
            told = [await news.wait(PAUSE)]
            for command in ("route del 203.0.113.0/24", "-6 route add 2001:db8:1::/64 dev lo"):
                subprocess.run(["ip", *command.split()], check=True)
            told.append(await news.wait(PAUSE))
            for command in ("route add local 198.51.100.0/24 dev lo", "route del local 198.51.100.0/24 dev lo"):
                subprocess.run(["ip", *command.split()], check=True)
                told.append(await news.wait(PAUSE))
            return told

    assert alone(work) == [False, False, True, True]


def test_without_news_it_ends_all_the_same_and_old_news_count_once() -> None:
    async def work() -> list[bool]:
        with LinkNews() as news:
            quiet = await news.wait(PAUSE)
            # More than the socket holds, and before anybody waits.
            batch = "\n".join(["link set lo mtu 1400", "link set lo mtu 1500"] * 3000)
            subprocess.run(["ip", "-batch", "-"], input=batch, text=True, check=True)
            return [quiet, await news.wait(60.0), await news.wait(PAUSE)]

    assert alone(work) == [False, True, False]
