# SPDX-License-Identifier: Apache-2.0
"""One publisher, many subscribers: nobody waits, and whoever is slow is told how much was lost, and where."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from l7observe import hub as module
from l7observe.backlog import PLAIN
from l7observe.flow import Flow, FlowPeer, FlowType
from l7observe.flowfilter import FlowFilter
from l7observe.hub import Hub, Lost, TooManySubscribers
from l7policy.verdict import Direction, Reason, Verdict

DROPS = FlowFilter(frozenset({FlowType.DROP}))


def flow(number: int, kind: FlowType = FlowType.DROP) -> Flow:
    """One that can be told from others by its time."""
    peer = FlowPeer("192.0.2.1")
    return Flow(number, "packet", Verdict.DROPPED, Reason.POLICY_DENIED, Direction.EGRESS, 6, peer, peer, type=kind)


def times(flows: list[Flow | Lost]) -> list[float | Lost]:
    return [one.time if isinstance(one, Flow) else one for one in flows]


@pytest.fixture
def run() -> Callable[[Coroutine[Any, Any, None]], None]:
    return asyncio.run


def test_a_subscriber_gets_what_it_wants_in_order(run: Callable[..., None]) -> None:
    async def scene() -> None:
        hub = Hub()
        hub.publish(flow(0))
        subscription = hub.subscribe(DROPS)
        for number in (1, 2, 3):
            hub.publish(flow(number, FlowType.L7 if number == 2 else FlowType.DROP))
        assert times(await subscription.batch()) == [1, 3]

    run(scene())


def test_flows_that_are_kept_unseen_come_in_their_place_and_count_for_the_ring() -> None:
    hub = Hub(ring=6)
    hub.publish(flow(0))
    hub.keep(3, 300, lambda: [flow(1), flow(2, FlowType.L7), flow(3)])
    hub.publish(flow(4))
    assert times([*hub.recent(DROPS, 9)]) == [0, 1, 3, 4]
    assert times([*hub.recent(DROPS, 2)]) == [3, 4]
    hub.keep(3, 300, lambda: [flow(5), flow(6), flow(7)])
    assert times([*hub.recent(DROPS, 9)]) == [4, 5, 6, 7]
    assert hub.published == 8


def test_long_ones_push_older_ones_out_before_their_number_does() -> None:
    hub = Hub(ring=100, ring_bytes=10 * PLAIN)
    for number in range(8):
        hub.publish(flow(number))
    hub.keep(1, 5 * PLAIN, lambda: [flow(8)])
    assert times([*hub.recent(DROPS, 99)]) == [3, 4, 5, 6, 7, 8]
    hub.publish(flow(9))
    assert times([*hub.recent(DROPS, 99)]) == [4, 5, 6, 7, 8, 9]


def test_a_slow_subscriber_is_told_what_it_lost_in_its_place_and_others_lose_nothing(run: Callable[..., None]) -> None:
    async def scene() -> None:
        hub = Hub()
        slow, quick = hub.subscribe(DROPS, queue=2), hub.subscribe(DROPS)
        for number in range(5):
            hub.publish(flow(number))
        assert times(await slow.batch()) == [0, 1, Lost("subscriber", 3)]
        hub.publish(flow(5))
        assert times(await slow.batch()) == [5]
        assert times(await quick.batch()) == [0, 1, 2, 3, 4, 5]
        assert slow.lost == hub.lost == 3

    run(scene())


def test_losses_elsewhere_add_up_until_they_are_heard(run: Callable[..., None]) -> None:
    async def scene() -> None:
        hub = Hub()
        subscription = hub.subscribe(DROPS)
        hub.tell(Lost("kernel", 3))
        hub.tell(Lost("kernel", 4))
        hub.tell(Lost("proxy", 1))
        assert times(await subscription.batch()) == [Lost("kernel", 7), Lost("proxy", 1)]

    run(scene())


def test_a_subscriber_that_waits_is_woken_by_a_flow_and_by_the_end(run: Callable[..., None]) -> None:
    async def scene() -> None:
        hub = Hub()
        subscription = hub.subscribe(DROPS)
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            first = group.create_task(subscription.batch())
            await asyncio.sleep(0)
            hub.publish(flow(1))
        assert times(first.result()) == [1]
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            last = group.create_task(subscription.batch())
            await asyncio.sleep(0)
            hub.close()
        assert last.result() == []

    run(scene())


def test_demand_is_the_union_of_what_is_listened_for_and_ends_with_it(run: Callable[..., None]) -> None:
    async def scene() -> None:
        told: list[frozenset[FlowType]] = []
        hub = Hub(told.append)
        drops = hub.subscribe(DROPS)
        everything = hub.subscribe(FlowFilter())
        again = hub.subscribe(DROPS)
        everything.close()
        drops.close()
        drops.close()
        again.close()
        assert told == [{FlowType.DROP}, frozenset(FlowType), {FlowType.DROP}, frozenset()]
        assert hub.demand == frozenset()

    run(scene())


def test_the_last_flows_are_kept_for_whoever_asks_later() -> None:
    hub = Hub(ring=4)
    for number in range(8):
        hub.publish(flow(number, FlowType.L7 if number % 2 else FlowType.DROP))
    assert [one.time for one in hub.recent(FlowFilter(), 10)] == [4, 5, 6, 7]
    assert [one.time for one in hub.recent(FlowFilter(), 2)] == [6, 7]
    assert [one.time for one in hub.recent(DROPS, 10)] == [4, 6]
    assert hub.recent(FlowFilter(), 0) == []
    assert hub.published == 8


def test_only_so_many_can_listen(run: Callable[..., None]) -> None:
    async def scene() -> None:
        hub = Hub()
        for _ in range(module.MAX_SUBSCRIBERS):
            hub.subscribe(DROPS)
        with pytest.raises(TooManySubscribers):
            hub.subscribe(DROPS)

    run(scene())
