# SPDX-License-Identifier: Apache-2.0
"""One direction of a connection, as its relay sees it: how much passed unseen, and the pump that moves it by now."""

import asyncio
from typing import Protocol

from l7proxy.pump import Pump, Stop


class Relay(Protocol):
    """Whose direction it is."""

    def moved(self, size: int) -> None:
        """Bytes went by."""
        ...

    def slow(self, stream: "Stream", slow: bool) -> None:
        """Who is to read them is slow, or has caught up."""
        ...

    def pumped(self, stream: "Stream", broken: asyncio.Transport | None) -> None:
        """There is nothing more to move, or a transport is found broken."""
        ...


class Stream:
    """One direction of a connection, and its pump while it has one."""

    __slots__ = ("_ends", "_pump", "_relay", "seen")

    def __init__(self) -> None:
        # Known while there is a pump only: what refers to each other is left to the collector when it ends.
        self._relay: Relay | None = None
        self._pump: Pump | None = None
        self._ends: tuple[asyncio.Transport, asyncio.Transport] | None = None
        self.seen = 0
        """Bytes that passed although nobody had to look at them."""

    @property
    def pumping(self) -> bool:
        """Whether the kernel moves it by itself."""
        return self._pump is not None

    def start(self, relay: Relay, source: asyncio.Transport, target: asyncio.Transport, limit: int) -> bool:
        """Whether that could be done. `relay` hears of it."""
        try:
            self._pump = Pump(_descriptor(source), _descriptor(target), limit, self)
        except OSError:  # no descriptors left: it goes on without
            return False
        self._relay, self._ends = relay, (source, target)
        return True

    def stop(self) -> int:
        """Ends the pump; how many that were."""
        if self._pump is None:
            return 0
        self._pump.stop()
        self._pump = self._relay = self._ends = None
        return 1

    # l7proxy.pump.Owner

    def moved(self, size: int) -> None:
        """See there."""
        if self._relay is not None:
            self._relay.moved(size)

    def slow(self, slow: bool) -> None:
        """See there."""
        if self._relay is not None:
            self._relay.slow(self, slow)

    def stopped(self, reason: Stop) -> None:
        """See there."""
        relay, ends = self._relay, self._ends
        if relay is None or ends is None:
            raise AssertionError("only what was started stops")
        self._pump = self._relay = self._ends = None
        source, target = ends
        broken = {Stop.DONE: None, Stop.SOURCE_BROKEN: source, Stop.TARGET_BROKEN: target}[reason]
        relay.pumped(self, broken)


def _descriptor(transport: asyncio.Transport) -> int:
    number: int = transport.get_extra_info("socket").fileno()
    return number
