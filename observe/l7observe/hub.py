# SPDX-License-Identifier: Apache-2.0
"""Hub: every flow that the agent hears of, for whoever listens now, and the last few for whoever asks later.

One publisher, any number of subscribers, one event loop. Publishing never waits and never fails: a subscriber has a
queue of its own, and what finds it full is counted and told to that subscriber only, in its place in the order.

`demand` is what the sources should produce at all: nothing beyond denies is made for nobody (`on_demand` is called
whenever that changes).
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from l7observe.backlog import weight
from l7observe.flow import Flow, FlowType
from l7observe.flowfilter import FlowFilter

RING: Final = 4096
"""Flows that are kept; about 1 KB each."""
RING_BYTES: Final = 16 << 20
"""And what they hold at most: a path may be long."""
QUEUE: Final = 4096
"""Flows that a subscriber may be behind."""
MAX_SUBSCRIBERS: Final = 64


class Kept(NamedTuple):
    """Flows that were kept unseen: made when somebody asks for them."""

    number: int
    size: int
    """In bytes."""
    flows: Callable[[], list[Flow]]


class Lost(msgspec.Struct, frozen=True, tag="lost", tag_field="type"):
    """Flows that a subscriber will never see."""

    source: str
    """``subscriber`` (its own queue was full), ``kernel`` (ring full or rate exceeded) or ``proxy`` (its buffer)."""
    count: int


class TooManySubscribers(Exception):
    """Nobody else can listen now."""


class Subscription:
    """One listener. Ends with `close`, or with the hub."""

    def __init__(self, hub: "Hub", wanted: FlowFilter, queue: int) -> None:
        self.wanted = wanted
        self.lost = 0
        """Flows that found the queue full, ever."""
        self._hub = hub
        self._limit = queue
        self._queue: deque[Flow | Lost] = deque()
        self._missed = 0
        self._wake = asyncio.Event()

    def offer(self, flow: Flow) -> None:
        """Queues the flow if it is wanted and there is room."""
        if not self.wanted.accepts(flow):
            return
        if len(self._queue) >= self._limit:
            self._missed += 1
            self.lost += 1
            return
        self._tell_missed()
        self._queue.append(flow)
        self._wake.set()

    def tell(self, lost: Lost) -> None:
        """Says what was lost elsewhere. Adds up when the queue is full."""
        last = self._queue[-1] if self._queue else None
        if isinstance(last, Lost) and last.source == lost.source:
            self._queue[-1] = Lost(lost.source, last.count + lost.count)
        elif len(self._queue) < self._limit:
            self._queue.append(lost)
        else:
            self._missed += lost.count
        self._wake.set()

    async def batch(self) -> list[Flow | Lost]:
        """Waits for something, and takes all there is. Empty: the hub is closed."""
        while not self._queue and not self._missed and not self._hub.closed:
            self._wake.clear()
            await self._wake.wait()
        taken = list(self._queue)
        self._queue.clear()
        if self._missed:
            taken.append(Lost("subscriber", self._missed))
            self._missed = 0
        return taken

    def wake(self) -> None:
        """Lets `batch` look again."""
        self._wake.set()

    def close(self) -> None:
        """Listens no more."""
        self._hub.leave(self)

    def _tell_missed(self) -> None:
        if self._missed:
            self._queue.append(Lost("subscriber", self._missed))
            self._missed = 0


class Hub:
    """All listeners of one agent."""

    def __init__(
        self,
        on_demand: Callable[[frozenset[FlowType]], None] | None = None,
        ring: int = RING,
        ring_bytes: int = RING_BYTES,
    ) -> None:
        self._on_demand = on_demand
        self._ring: deque[Flow | Kept] = deque()
        self._limit = ring
        self._limit_bytes = ring_bytes
        self._held = 0
        self._bytes = 0
        self._subscriptions: set[Subscription] = set()
        self._demand: frozenset[FlowType] = frozenset()
        self.published = 0
        self.closed = False

    @property
    def demand(self) -> frozenset[FlowType]:
        """The types that somebody listens for now."""
        return self._demand

    @property
    def subscribers(self) -> int:
        """How many listen."""
        return len(self._subscriptions)

    @property
    def lost(self) -> int:
        """Flows that those who listen now were too slow for."""
        return sum(subscription.lost for subscription in self._subscriptions)

    def publish(self, flow: Flow) -> None:
        """Keeps the flow, and offers it to everybody."""
        self._add(flow, 1, weight(flow))
        for subscription in self._subscriptions:
            subscription.offer(flow)

    def keep(self, count: int, size: int, flows: Callable[[], list[Flow]]) -> None:
        """Keeps so many flows, of so many bytes, for whoever asks later. Not for when somebody listens now."""
        self._add(Kept(count, size, flows), count, size)

    def _add(self, one: Flow | Kept, count: int, size: int) -> None:
        self.published += count
        self._ring.append(one)
        self._held += count
        self._bytes += size
        while self._held > self._limit or self._bytes > self._limit_bytes:
            gone = self._ring.popleft()
            self._held -= gone.number if isinstance(gone, Kept) else 1
            self._bytes -= gone.size if isinstance(gone, Kept) else weight(gone)

    def tell(self, lost: Lost) -> None:
        """Says to everybody that flows were lost before they came here."""
        for subscription in self._subscriptions:
            subscription.tell(lost)

    def recent(self, wanted: FlowFilter, count: int) -> list[Flow]:
        """The last `count` kept flows that are wanted, oldest first."""
        found: list[Flow] = []
        for one in reversed(self._ring):
            if len(found) >= count:
                break
            flows = reversed(one.flows()) if isinstance(one, Kept) else (one,)
            found.extend(flow for flow in flows if wanted.accepts(flow))
        return found[:count][::-1]

    def subscribe(self, wanted: FlowFilter, queue: int = QUEUE) -> Subscription:
        """Listens from now on. Raises TooManySubscribers."""
        if len(self._subscriptions) >= MAX_SUBSCRIBERS:
            raise TooManySubscribers(f"{MAX_SUBSCRIBERS} listen already")
        subscription = Subscription(self, wanted, queue)
        self._subscriptions.add(subscription)
        self._reckon()
        return subscription

    def leave(self, subscription: Subscription) -> None:
        """Ends a subscription; a second time does nothing."""
        self._subscriptions.discard(subscription)
        self._reckon()

    def close(self) -> None:
        """Ends every subscription."""
        self.closed = True
        for subscription in list(self._subscriptions):
            subscription.wake()

    def _reckon(self) -> None:
        demand: frozenset[FlowType] = frozenset().union(*(one.wanted.wanted for one in self._subscriptions))
        if demand != self._demand:
            self._demand = demand
            if self._on_demand is not None:
                self._on_demand(demand)
