# SPDX-License-Identifier: Apache-2.0
"""Server: the DNS proxy. Joins listeners, policy, name servers and the learner; every query gets exactly one answer.

Each query is an `Exchange` around one sans-IO `Transaction`. The answer leaves only after `Learner.learn` has
returned, so a name's address is in the kernel before the client holds it. May not decide anything itself. Failure
verdict: SERVFAIL over a limit or without a usable upstream, REFUSED for what policy does not allow.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final
from typing import Protocol as Interface

from l7dns import clock, names, record
from l7dns.exchange import Exchange, Query
from l7dns.learner import Learner
from l7dns.listener import TcpSession, UdpListener
from l7dns.namecache import Fact
from l7dns.reply import Replies
from l7dns.sockets import Address
from l7dns.svcb import Hints
from l7dns.transaction import Answered, Learn
from l7dns.upstream import TcpUpstream, UdpUpstream
from l7observe.demand import Demand
from l7observe.flow import Flow
from l7observe.histogram import Histogram
from l7observe.ratelimit import RateLimit
from l7observe.tasks import Tasks
from l7policy.enforcement import FlowPolicy
from l7policy.verdict import Protocol, Reason

_SWEEP: Final = 0.1
"""Seconds between looks for what has expired; a name server that is silent is given up that much late at most."""
_POLICY_AGE: Final = 1.0
"""Seconds a flow's policy is kept. It follows reloads by itself; this bounds what else may change about an address."""
_POLICIES: Final = 8192
_LOOK: Final = 5.0
"""Seconds between looks for connections to addresses whose names are over."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps on what clients can make the proxy hold."""

    upstream_timeout: float = 5.0
    max_inflight: int = 4096
    max_inflight_per_client: int = 1024
    queries_per_second: int = 0
    """Of one client, a burst of one second's worth included; 0 for no limit."""
    max_connections: int = 1024
    max_connections_per_client: int = 128
    max_pipelined: int = 64
    idle_timeout: float = 30.0


EXTENDED_RCODES: Final = 16
"""What needs EDNS to be said is counted as one: servers choose among 4096."""


class Policies(Interface):
    """Where the policy of a flow is found (`l7policy.enforcement.Enforcement`)."""

    def flow(self, client: str, destination: str, protocol: int, port: int, client_port: int = 0) -> FlowPolicy | None:
        """The policy between two addresses, None if neither is a workload of this node."""


@dataclass(slots=True)
class Counters:
    """What happened since the start."""

    queries: int = 0
    forwarded: int = 0
    refused: int = 0
    audited: int = 0
    failed: int = 0
    malformed: int = 0
    limited: int = 0
    """Queries over the limit of their client."""
    inflight: int = 0
    connections: int = 0
    answers: dict[tuple[str, int], int] = field(default_factory=dict)
    """By what came of the query, and by the answer's code; codes from 16 on (EDNS) count as 16."""


class DnsServer:
    """The proxy of one process."""

    def __init__(
        self,
        enforcement: Policies,
        learner: Learner,
        on_flow: Callable[[Flow], None],
        limits: Limits | None = None,
        *,
        hints: Hints = Hints.LEARN,
        bind_aliases: bool = False,
        demand: Demand | None = None,
        on_error: Callable[[str, BaseException], None] | None = None,
    ) -> None:
        """Not listening yet. `on_flow` gets each denial and failure, and each query if `demand` asks for it.

        With `bind_aliases` the targets of CNAMEs that led to an address count as if they had been asked for.

        `on_error` gets bugs in the proxy's own tasks; a process that gets one should end and be started again.
        """
        self.limits = limits or Limits()
        self.counters = Counters()
        self.answer_seconds = Histogram()
        """From a query to its answer, of those that were forwarded."""
        self.learn_seconds = Histogram()
        """What the kernel's tables took of that, of the answers that changed them."""
        self._rate = RateLimit(self.limits.queries_per_second)
        self._enforcement = enforcement
        self._learner = learner
        self._on_flow = on_flow
        self._hints = hints
        self._bind_aliases = bind_aliases
        self._demand = demand or Demand()
        self._tasks = Tasks(on_error)
        self._inflight: dict[str, int] = {}
        self._exchanges: dict[Exchange, None] = {}
        """The oldest first, which is the first to time out."""
        self._sessions: dict[TcpSession, TcpUpstream | None] = {}
        self._connections: dict[str, int] = {}
        self._policies: dict[tuple[str, str, int, Protocol], tuple[float, FlowPolicy]] = {}
        self._listeners: list[UdpListener] = []
        self._servers: list[asyncio.Server] = []
        self._stopping = False
        self._quiet = asyncio.Event()
        self._disconnected = asyncio.Event()
        self.loop: asyncio.AbstractEventLoop
        self._udp: UdpUpstream
        self._replies: Replies

    async def start(self, listeners: Iterable[socket.socket]) -> None:
        """Serves on sockets made by `l7dns.sockets`, UDP and TCP."""
        self.loop = loop = asyncio.get_running_loop()
        self._udp = UdpUpstream(loop)
        self._replies = Replies(loop, self._datagram)
        for listener in listeners:
            if listener.type == socket.SOCK_DGRAM:
                self._listeners.append(UdpListener(loop, listener, self._datagram))
            else:
                self._servers.append(await loop.create_server(self._session, sock=listener))
        self._tasks.start(self._sweep(), name="dns expiry")
        self._tasks.start(self._look(), name="dns connections")

    async def close(self, drain: float = 0.0) -> None:
        """Takes no more queries, waits `drain` seconds for answers under way, and ends. The rest get SERVFAIL."""
        if self._stopping:
            return
        for listener in self._listeners:
            listener.close()
        self._stopping = True
        for server in self._servers:
            server.close()
        if self._exchanges and drain > 0:
            self._quiet.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(drain):
                    await self._quiet.wait()
        for exchange in list(self._exchanges):
            if not exchange.done:
                exchange.failed("the proxy is stopping")
        for session in list(self._sessions):
            session.abort()
        self._udp.close()
        self._replies.close()
        if self._sessions:
            await self._disconnected.wait()
        await self._tasks.close()

    # --- queries -------------------------------------------------------------------------------------------------

    def _datagram(self, message: bytes, client: Address, server: Address) -> None:
        now = clock.boottime()
        policy = self._policy(client, server, Protocol.UDP, now)
        exchange = self._begin(
            message, Query(client, server, Protocol.UDP, policy, self._replies.send, self._hints), now
        )
        if exchange is not None:
            exchange.waits_for(self._udp.ask(_source(policy, client), server, exchange, now))

    def stream_query(self, session: TcpSession, message: bytes) -> None:
        """See `StreamServer`."""
        now = clock.boottime()
        client, server = session.client, session.destination
        policy = self._policy(client, server, Protocol.TCP, now)
        exchange = self._begin(message, Query(client, server, Protocol.TCP, policy, session.reply, self._hints), now)
        if exchange is None:
            return
        upstream = self._sessions[session]
        if upstream is None:
            source = _source(policy, client)
            upstream = TcpUpstream(self.loop, self._tasks, source, server, self.limits.upstream_timeout)
            self._sessions[session] = upstream
        exchange.waits_for(upstream.ask(exchange))

    def _begin(self, message: bytes, query: Query, now: float) -> Exchange | None:
        self.counters.queries += 1
        transaction = query.transaction
        step = transaction.begin(message, query.policy)
        if not isinstance(step, Answered):
            decision = transaction.decision
            if decision is not None and decision.audited:
                self.counters.audited += 1
                self._on_flow(record.audited(clock.wall(), query, decision.reason))
            client = query.client[0]
            problem = self._over_limit(client, now)
            if not problem:
                exchange = Exchange(self, query, now)
                self._exchanges[exchange] = None
                self._inflight[client] = self._inflight.get(client, 0) + 1
                return exchange
            step = transaction.overloaded(problem)
        self.report(query, step)
        query.respond(query.server, query.client, step.wire)
        return None

    def learn(self, step: Learn, query: Query) -> str:
        """See `Owner`."""
        endpoint = 0 if query.policy is None else query.policy.source.endpoint
        learner, now = self._learner, clock.boottime()
        written = learner.kernel_writes
        problem = learner.learn(Fact(step.name, *query.server), step.addresses, step.ttl, now, endpoint)
        if self._bind_aliases:
            for alias in step.aliases:
                fact = Fact(names.text(alias), *query.server)
                problem = problem or learner.learn(fact, step.addresses, step.ttl, now, endpoint)
        if learner.kernel_writes != written:
            self.learn_seconds.observe(clock.boottime() - now)
        return problem

    def left(self, exchange: Exchange) -> None:
        """See `Owner`."""
        del self._exchanges[exchange]
        if not self._exchanges:
            self._quiet.set()
        client = exchange.query_of.client[0]
        left = self._inflight[client] - 1
        if left:
            self._inflight[client] = left
        else:
            del self._inflight[client]

    def report(self, query: Query, answered: Answered, begun: float = 0.0) -> None:
        """See `Owner`."""
        counters = self.counters
        decision = query.transaction.decision
        seconds = clock.boottime() - begun if begun else 0.0
        if answered.reason == Reason.NONE:
            counters.forwarded += 1
            outcome = "forwarded"
            self.answer_seconds.observe(seconds)
        elif answered.reason == Reason.DNS_MALFORMED:
            counters.malformed += 1
            outcome = "malformed"
        elif decision is None or not decision.allowed:
            counters.refused += 1
            outcome = "refused"
        else:
            counters.failed += 1
            outcome = "failed"
        key = (outcome, min(answered.rcode, EXTENDED_RCODES))
        counters.answers[key] = counters.answers.get(key, 0) + 1
        if answered.reason == Reason.NONE and not self._demand.forwarded:
            return
        self._on_flow(record.flow(clock.wall(), query, answered, seconds))

    def _over_limit(self, client: str, now: float) -> str:
        if not self._rate.allows(client, now):
            self.counters.limited += 1
            return f"more than {self.limits.queries_per_second} queries per second of this client"
        if self._stopping:
            return "the proxy is stopping"
        if len(self._exchanges) >= self.limits.max_inflight:
            return f"{self.limits.max_inflight} queries in flight"
        if self._inflight.get(client, 0) >= self.limits.max_inflight_per_client:
            return f"{self.limits.max_inflight_per_client} queries of this client in flight"
        return ""

    def _policy(self, client: Address, server: Address, protocol: Protocol, now: float) -> FlowPolicy | None:
        key = (client[0], *server, protocol)
        known = self._policies.get(key)
        if known is not None and known[0] > now:
            return known[1]
        policy = self._enforcement.flow(client[0], server[0], protocol, server[1], client[1])
        if policy is None or policy.shared:  # a workload that is not known yet may be in the next moment
            self._policies.pop(key, None)
            return policy
        if len(self._policies) >= _POLICIES:
            self._policies.clear()
        self._policies[key] = (now + _POLICY_AGE, policy)
        return policy

    # --- TCP sessions --------------------------------------------------------------------------------------------

    def _session(self) -> TcpSession:
        return TcpSession(self.loop, self, self.limits.idle_timeout, self.limits.max_pipelined)

    def opened(self, session: TcpSession) -> bool:
        """See `StreamServer`."""
        client = session.client[0]
        of_client = self._connections.get(client, 0)
        if (
            self._stopping
            or len(self._sessions) >= self.limits.max_connections
            or of_client >= self.limits.max_connections_per_client
        ):
            server = session.destination
            policy = self._policy(session.client, server, Protocol.TCP, clock.boottime())
            query = Query(session.client, server, Protocol.TCP, policy, session.reply)
            self.report(query, Answered(None, Reason.DNS_LIMIT, detail="too many connections"))
            return False
        self._sessions[session] = None
        self._connections[client] = of_client + 1
        return True

    def gone(self, session: TcpSession) -> None:
        """See `StreamServer`."""
        upstream = self._sessions.pop(session)
        if upstream is not None:
            upstream.close()
        if self._stopping and not self._sessions:
            self._disconnected.set()
        client = session.client[0]
        left = self._connections[client] - 1
        if left:
            self._connections[client] = left
        else:
            del self._connections[client]

    # --- housekeeping --------------------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP)
            now = clock.boottime()
            self._give_up(now - self.limits.upstream_timeout)
            self._learner.expire(now)
            self._udp.sweep(now)
            self._rate.sweep(now)
            self.counters.inflight = len(self._exchanges)
            self.counters.connections = len(self._sessions)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            if asked := self._learner.kept():
                now = clock.boottime()
                self._learner.release(asked, await asyncio.to_thread(self._learner.clients, asked), now)

    def _give_up(self, begun: float) -> None:
        """Ends what began before then and has no answer yet."""
        while self._exchanges:
            oldest = next(iter(self._exchanges))
            if oldest.begun > begun:
                return
            oldest.timeout()


def _source(policy: FlowPolicy | None, client: Address) -> str:
    return client[0] if policy is None else policy.upstream_address
