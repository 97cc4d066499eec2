# SPDX-License-Identifier: Apache-2.0
"""A workload with HTTP rules, judged by the real engine over tables in memory; a playbook for exchanges; and the server
on loopback, under both event loops, where only how a server is reached differs from life.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import uvloop

from l7observe.demand import Demand
from l7observe.flow import Flow
from l7policy.enforcement import EndpointRow, Enforcement
from l7policy.flowpolicy import FlowPolicy
from l7policy.ids import EndpointId, IdentityId, PolicyId, Revision
from l7policy.model import EndpointPolicy, HeaderMatch, HttpRule, Origin, Port, Rule, Snapshot
from l7policy.verdict import Direction, Protocol
from l7proxy.commands import Command, Record
from l7proxy.exchange import Exchange
from l7proxy.limits import Limits
from l7proxy.server import HttpServer
from l7proxy.tls_exchange import TlsExchange

CLIENT = "192.0.2.10"
SERVER = "198.51.100.7"

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

RULES = (
    HttpRule(method="GET|HEAD", path="/public.*"),
    HttpRule(method="POST|PUT", path="/upload"),
    HttpRule(method="GET", path="/ws"),
    HttpRule(method="CONNECT", path=r"db\.example\.com:5432"),
    HttpRule(path="/token", headers=(HeaderMatch("X-Token", "s3cret"),)),
)


class World:
    """One workload at CLIENT (also at 127.0.0.1), everything else outside; its rules can be replaced."""

    rules = RULES

    def __init__(self) -> None:
        self.number = 0
        self.workloads = {CLIENT, "127.0.0.1"}
        self.enforcement = Enforcement(self)
        self.load(self.rules)

    def load(self, rules: tuple[HttpRule, ...] | None, *, audit: bool = False) -> None:
        """A new revision. None: the workload may not connect at all."""
        ports = (Port(Protocol.TCP, 1, 65535),)
        allowed = (
            () if rules is None else (Rule(Direction.EGRESS, Origin("shop/web", "egress[0]"), None, ports, http=rules),)
        )
        self._put(EndpointPolicy(rules=allowed, enforce_egress=True, selected_by=("shop/web",), audit=audit))

    def _put(self, policy: EndpointPolicy) -> None:
        revision = Revision(self.number + 1)
        identities: dict[IdentityId, tuple[str, ...]] = {
            IdentityId(1000): ("k8s:app=web",),
            IdentityId(2): ("reserved:world",),
        }
        self.enforcement.prepare(Snapshot(revision, {PolicyId(1): policy}, identities, {}, ()))
        self.enforcement.commit(revision)
        self.number = revision

    def load_names(self, names: tuple[str, ...] | None, *, audit: bool = False) -> None:
        """A new revision that limits TLS to server names. None: no limit."""
        ports = (Port(Protocol.TCP, 1, 65535),)
        rule = Rule(Direction.EGRESS, Origin("shop/web", "egress[0]"), None, ports, server_names=names)
        self._put(EndpointPolicy(rules=(rule,), enforce_egress=True, selected_by=("shop/web",), audit=audit))

    def policy(self) -> FlowPolicy:
        """The policy of a connection from the workload to the outside."""
        policy = self.enforcement.flow(CLIENT, SERVER, Protocol.TCP, 80)
        assert policy is not None
        return policy

    # l7policy.enforcement.Tables

    def revision(self) -> int:
        return self.number

    def endpoint(self, address: str) -> EndpointRow | None:
        if address not in self.workloads:
            return None
        return EndpointRow(EndpointId(7), PolicyId(1), IdentityId(1000), 1)

    def process(self, client: str, client_port: int, destination: str, port: int, protocol: int) -> None:
        return None

    def identity(self, address: str, established: bool) -> int:
        return 2

    def fqdn_labels(self, identity: int) -> None:
        return None


class Playbook:
    """Plays events to an exchange. Each returns the commands that follow, without records: those are collected."""

    def __init__(
        self, kind: type[Exchange | TlsExchange], policy: FlowPolicy, limits: Limits, *, record_forwarded: bool
    ) -> None:
        self.now = 0.0
        self.records: list[Record] = []
        self.exchange = kind(policy, limits, self.now, Demand(record_forwarded))

    def client(self, data: bytes) -> list[Command]:
        return self._played(self.exchange.client_data(data, self.now))

    def client_eof(self) -> list[Command]:
        return self._played(self.exchange.client_eof(self.now))

    def client_lost(self) -> list[Command]:
        return self._played(self.exchange.client_lost(self.now))

    def client_slow(self, slow: bool) -> list[Command]:
        return self._played(self.exchange.client_slow(slow, self.now))

    def server_slow(self, slow: bool) -> list[Command]:
        return self._played(self.exchange.server_slow(slow, self.now))

    def connected(self) -> list[Command]:
        return self._played(self.exchange.server_connected(self.now))

    def failed(self, detail: str) -> list[Command]:
        return self._played(self.exchange.server_failed(detail, self.now))

    def server(self, data: bytes) -> list[Command]:
        return self._played(self.exchange.server_data(data, self.now))

    def server_eof(self) -> list[Command]:
        return self._played(self.exchange.server_eof(self.now))

    def server_lost(self) -> list[Command]:
        return self._played(self.exchange.server_lost(self.now))

    def after(self, seconds: float) -> list[Command]:
        self.now += seconds
        return self._played(self.exchange.tick(self.now))

    def go_on(self) -> list[Command]:
        assert isinstance(self.exchange, Exchange)
        return self._played(self.exchange.go_on(self.now))

    def drain(self) -> list[Command]:
        return self._played(self.exchange.drain(self.now))

    def _played(self, commands: list[Command]) -> list[Command]:
        self.records += [command for command in commands if isinstance(command, Record)]
        return [command for command in commands if not isinstance(command, Record)]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def playbook(world: World) -> Callable[..., Playbook]:
    def begin(limits: Limits | None = None, *, record_forwarded: bool = False) -> Playbook:
        return Playbook(Exchange, world.policy(), limits or Limits(), record_forwarded=record_forwarded)

    return begin


@pytest.fixture
def tls_playbook(world: World) -> Callable[..., Playbook]:
    """A connection that must be TLS, for a.example or what stands below b.example."""
    world.load_names(("a.example", "*.b.example"))

    def begin(limits: Limits | None = None, *, record_forwarded: bool = False) -> Playbook:
        return Playbook(TlsExchange, world.policy(), limits or Limits(), record_forwarded=record_forwarded)

    return begin


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    def runner(main: Any) -> Any:
        with asyncio.Runner(loop_factory=request.param) as loop:
            return loop.run(asyncio.wait_for(main, 30))

    return runner


class Watched(HttpServer):
    """Remembers how many pumps there ever were."""

    started = 0
    _pumps = 0

    @property
    def pumps(self) -> int:  # type: ignore[override]
        return self._pumps

    @pumps.setter
    def pumps(self, number: int) -> None:
        self.started += number > self._pumps
        self._pumps = number


class Proxy:
    """A proxy before one server, and a client's view of it."""

    def __init__(self, server: Watched, port: int, flows: list[Flow]) -> None:
        self.server, self.port, self.flows = server, port, flows

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)

    async def idle(self) -> None:
        """Until no connection is left, and with it no pump may be."""
        while self.server.connections:
            await asyncio.sleep(0.01)
        assert self.server.pumps == 0


@pytest.fixture
def proxied(world: World) -> Callable[..., AbstractAsyncContextManager[Proxy]]:
    """Begins a proxy before a server that does as the handler says; or before what listens at `upstream`."""

    @asynccontextmanager
    async def begin(
        handler: Handler | None, limits: Limits | None = None, upstream: tuple[str, int] | None = None, **options: Any
    ) -> AsyncIterator[Proxy]:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                assert handler is not None
                await handler(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        serving = None
        if upstream is None:
            serving = await asyncio.start_server(handle, "127.0.0.1", 0, limit=1 << 20)
            upstream = serving.sockets[0].getsockname()

        async def dial(client: tuple[str, int], asked: tuple[str, int]) -> socket.socket:
            sock = socket.socket()
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, upstream)
            return sock

        flows: list[Flow] = []
        given: dict[str, Any] = {"dial": dial} | options
        server = Watched(world.enforcement, flows.append, limits, **given)
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setblocking(False)
        port = listening.getsockname()[1]
        await server.start([listening])
        try:
            yield Proxy(server, port, flows)
        finally:
            await server.close()
            if serving is not None:
                serving.close()

    return begin
