# SPDX-License-Identifier: Apache-2.0
"""HttpServer: accepts redirected connections, holds them to the limits, and reports what happened on them.

It never touches the kernel's tables: policy comes from the `Judge`, sockets are given. The original destination of a
connection is the accepted socket's own address.

Failure verdict: a connection that is one too many, or whose ends no policy knows, is reset and recorded.
"""

import asyncio
import contextlib
import resource
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence

from l7observe import flowbytes
from l7observe.demand import Demand
from l7observe.flow import Flow
from l7observe.tally import Tally
from l7observe.tasks import Tasks
from l7policy.verdict import Protocol, Reason, Verdict
from l7proxy import flows, sockets
from l7proxy.commands import Record
from l7proxy.exchange import Exchange
from l7proxy.judge import Judge
from l7proxy.limits import Limits
from l7proxy.redaction import Redaction
from l7proxy.relay import ClientSide, Dial
from l7proxy.sockets import Address
from l7proxy.tls_exchange import TlsExchange
from l7proxy.transaction import Transaction

_TICK = 0.5
"""Seconds between two looks at the deadlines. One timer for all costs less than one for each."""

_ABORTED = 2.0
"""Seconds for connections that are broken off to be gone."""

_OTHER_FILES = 64
"""Descriptors that are not connections."""
_PUMPS_SHARE = 32
"""Of so many descriptors one pump may be had, which takes four: an eighth of all."""


class HttpServer:
    """The proxy of one process."""

    def __init__(
        self,
        judge: Judge,
        on_flow: Callable[[Flow], None],
        limits: Limits | None = None,
        *,
        on_passed: Callable[[bytes], None] | None = None,
        demand: Demand | None = None,
        redaction: Redaction | None = None,
        dial: Dial = sockets.dial,
        on_error: Callable[[str, BaseException], None] | None = None,
    ) -> None:
        """`on_flow` must neither block nor raise; it gets denials and failures, and what `demand` asks for.

        `on_passed`, likewise, gets most of what passes, as rows of `l7observe.flowbytes`; by default `on_flow` does.

        `on_error` gets bugs in the proxy's own tasks; a process that gets one should end and be started again, since
        connections may go on without deadlines and without being judged again.

        `dial` is how a server is reached, and replaced only by tests.
        """
        self.limits = Limits() if limits is None else limits
        self.dial = dial
        self.tasks = Tasks(on_error)
        self._judge = judge
        self._on_flow = on_flow
        self._on_passed = on_passed or (lambda row: on_flow(flowbytes.flow(row)))
        self._demand = demand or Demand()
        self._redaction = redaction or Redaction()
        self.pumps = 0
        self.turned_away = 0
        """Connections that were not even begun."""
        self._relays: dict[ClientSide, flows.Flows] = {}
        self._per_client: Counter[str] = Counter()
        self._servers: list[asyncio.Server] = []
        self._empty = asyncio.Event()
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.max_pumps = min(self.limits.max_pumps, files // _PUMPS_SHARE)
        left = files - _OTHER_FILES - 4 * self.max_pumps
        self._max_connections = min(self.limits.max_connections, max(1, left // 2))

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._relays)

    @property
    def tally(self) -> Tally:
        """What was judged so far."""
        return self._demand.tally

    async def start(self, listeners: Sequence[socket.socket]) -> None:
        """Accepts connections on these sockets, and owns them from here on."""
        loop = asyncio.get_running_loop()
        for sock in listeners:
            self._servers.append(await loop.create_server(lambda: ClientSide(self), sock=sock, backlog=4096))
        self.tasks.start(self._watch(), name="http deadlines")

    async def close(self, drain: float = 0.0) -> None:
        """Accepts nothing more, lets requests under way end for up to `drain` seconds, and ends everything."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        await asyncio.sleep(0)  # what is accepted already gets its relay in the loop's next round
        for relay in list(self._relays):
            relay.drain()
        if drain > 0:
            await self._emptied(drain)
        for relay in list(self._relays):
            relay.abort()
        # Transports tell their protocols that they are gone in the loop's next round. One that does not must not keep
        # the process from ending, which ends it too.
        await self._emptied(_ABORTED)
        await self.tasks.close()

    async def _emptied(self, seconds: float) -> None:
        """Waits until no connection is left, and no longer than so."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._relays:
                    self._empty.clear()
                    await self._empty.wait()

    # What a relay asks of its owner

    def admit(self, relay: ClientSide, client: Address, destination: Address) -> Exchange | TlsExchange | None:
        """See `relay.Owner.admit`."""
        address = client[0]
        if len(self._relays) >= self._max_connections:
            self._turn_away(Reason.HTTP_LIMIT, "too many connections", client, destination)
            return None
        if self._per_client.get(address, 0) >= self.limits.max_connections_per_client:
            self._turn_away(Reason.HTTP_LIMIT, "too many connections of this client", client, destination)
            return None
        policy = self._judge.flow(address, destination[0], Protocol.TCP, destination[1], client[1])
        if policy is None:
            self._turn_away(Reason.ENDPOINT_UNKNOWN, "neither end is a workload", client, destination)
            return None
        if policy.upstream_address != address:
            relay.source = (policy.upstream_address, 0)
        self._relays[relay] = flows.Flows(policy, client, destination, self._redaction)
        self._per_client[address] += 1
        now = time.monotonic()
        # One listener takes what was redirected for either: policy says here which of the two it must be.
        if policy.tls_required():
            return TlsExchange(policy, self.limits, now, self._demand)
        return Exchange(policy, self.limits, now, self._demand)

    def report(self, relay: ClientSide, record: Record) -> None:
        """See `relay.Owner.report`. What passed is counted where it ends, recorded or not."""
        if record.verdict != Verdict.FORWARDED:
            if record.layer == "http":
                self._demand.tally.request(record.verdict, record.status)
            else:
                self._demand.tally.connection(record.verdict)
        self._on_flow(self._relays[relay].flow(record, time.time()))

    def passed(self, relay: ClientSide, answered: Transaction) -> None:
        """See `relay.Owner.passed`."""
        if answered.counted(self._demand):
            self._on_passed(self._relays[relay].row(answered, time.time()))

    def gone(self, relay: ClientSide) -> None:
        """See `relay.Owner.gone`."""
        del self._relays[relay]
        address = relay.client[0]
        self._per_client[address] -= 1
        if not self._per_client[address]:
            del self._per_client[address]
        if not self._relays:
            self._empty.set()

    def _turn_away(self, reason: Reason, detail: str, client: Address, destination: Address) -> None:
        self.turned_away += 1
        self._on_flow(flows.refused(reason, detail, client, destination, time.time()))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            for relay in list(self._relays):
                relay.tick(now)
