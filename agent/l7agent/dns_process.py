# SPDX-License-Identifier: Apache-2.0
"""`l7d dns`: the DNS proxy. Wires sockets, the learner, enforcement and the agent's wire together.

Failure verdict: without a snapshot every query is refused; without this process the kernel drops queries, and what was
learnt stays as it is.
"""

import asyncio
import gc
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from l7agent import dataplane, wire
from l7agent.config import Config
from l7agent.control_port import AlreadyRunning, ControlPort
from l7agent.dns_role import DnsRole
from l7agent.renewal import Guardianship
from l7agent.single import Single
from l7agent.tables import KernelTables
from l7bpf.maps import Maps
from l7dns import clock, kernel, precache, sockets
from l7dns.learner import Learner
from l7dns.server import DnsServer, Limits
from l7dns.svcb import Hints
from l7dns.view import Trust
from l7observe.tasks import Tasks
from l7policy.enforcement import Enforcement
from l7policy.verdict import Protocol, ProxyKind

DRAIN: Final = 1.0
"""Seconds that queries under way get when the process is told to end."""

_SLICE: Final = 64
"""Names of the operator's file that are taken in before queries have their turn."""

_log = logging.getLogger(__name__)


def preload(learner: Learner, path: str) -> Iterator[None]:
    """Takes in the names of a file that the operator gave, one at a step; none of one that cannot be read."""
    try:
        for fact, address, ttl in precache.read(Path(path).read_bytes()):
            if problem := learner.learn(fact, [address], ttl, clock.boottime()):
                _log.error("%s: %s: %s", path, fact.name, problem)
            yield
    except (OSError, precache.PrecacheError) as error:
        _log.error("%s: nothing was taken from it: %s", path, error)


async def remember(learner: Learner, pre_cache: str) -> None:
    """Reads what there is to know again, in slices beside the queries that are answered already."""
    while not learner.proceed(clock.boottime()):
        await asyncio.sleep(0)
    if pre_cache:
        for number, _ in enumerate(preload(learner, pre_cache)):
            if number % _SLICE == 0:
                await asyncio.sleep(0)
    # Queries leave no cycles behind: looking for them less often is all it costs.
    gc.freeze()
    gc.enable()
    gc.set_threshold(50_000, 20, 50)


def listen(*, beside: bool) -> list[tuple[Protocol, socket.socket]]:
    """Where the kernel delivers queries; `beside` another process that listens, on ports of the kernel's choice.

    Nobody sends to these ports: flows are steered to the sockets themselves.
    """
    makers = {Protocol.UDP: sockets.udp_listener, Protocol.TCP: sockets.tcp_listener}
    port = 0 if beside else sockets.DNS_PORT
    return [
        (protocol, dataplane.listener(make, family, port))
        for protocol, make in makers.items()
        for family in dataplane.FAMILIES
    ]


def _learner(config: Config, maps: Maps, state: Path) -> Learner:
    trust = Trust(config.dns.trust == "node", tuple(config.dns.trusted_resolvers), tuple(config.dns.special_addresses))
    return Learner(
        kernel.PinnedTables(maps),
        state,
        min_ttl=config.dns.min_ttl,
        grace=config.dns.grace,
        max_names=config.dns.max_names,
        max_addresses_per_name=config.dns.max_addresses_per_name,
        max_addresses=config.dns.max_addresses,
        trust=trust,
    )


async def serve(config: Config, made: list[tuple[Protocol, socket.socket]], *, replace: bool) -> None:
    """Runs the proxy until it is told to stop. Raises AlreadyRunning unless it is to `replace` the one that runs."""
    stop = asyncio.Event()
    guardianship = Guardianship()
    dataplane.settle(stop)
    maps = dataplane.open_maps(config)
    state = Path(config.state) / "dns"
    single = Single(state)
    if not single.take():
        if not replace:
            raise AlreadyRunning(f"{state}: another process works on it")
        # From here on queries wait in this process's listeners, while the other one finishes what it has.
        for protocol, listener in made:
            dataplane.register(maps, listener, ProxyKind.DNS, protocol, 0)
        await single.take_over()
    enforcement = Enforcement(KernelTables(maps))
    learner = _learner(config, maps, state)
    gc.disable()  # what is restored leaves no cycles behind, and stays
    # A restart must not wait for the agent: judge by what the process before it judged by.
    for snapshot in learner.begin():
        enforcement.prepare(snapshot)
        if snapshot.revision == learner.revision:
            enforcement.commit(snapshot.revision)
    known = learner.revision > 0
    if not known:  # nobody is served yet, so nothing is gained by serving first
        await remember(learner, config.dns.pre_cache)
    role = DnsRole(enforcement, learner)
    limits = Limits(
        upstream_timeout=config.dns.upstream_timeout,
        max_inflight=config.dns.max_inflight,
        queries_per_second=config.dns.queries_per_second,
    )

    async def shutdown(drain: float) -> None:
        await server.close(drain)
        stop.set()

    port = ControlPort(
        Path(config.run) / "dns-0.sock",
        lambda: wire.Hello(
            wire.PROTOCOL, "dns", 0, os.getpid(), dataplane.version(), role.revision, guardian=guardianship.guardian
        ),
        role,
        shutdown,
    )
    server = DnsServer(
        enforcement,
        learner,
        port.record,
        limits,
        hints=Hints(config.dns.svcb_hints),
        bind_aliases=config.dns.bind_aliases,
        demand=port.demand,
        on_error=lambda *_: stop.set(),
    )
    role.server = server
    for protocol, listener in made:
        dataplane.register(maps, listener, ProxyKind.DNS, protocol, 0)
    await port.start()
    tasks = Tasks(lambda *_: stop.set())
    tasks.start(guardianship.renew(), name="renewal")
    # Until this process knows the rules, queries wait in the listeners' queues instead of being refused.
    if await dataplane.first(role.committed, stop) is role.committed:
        await server.start(listener for _, listener in made)
        if known:
            tasks.start(remember(learner, config.dns.pre_cache), name="restore")
        await stop.wait()
        await server.close(DRAIN)
    await tasks.close()
    await port.close()
    learner.close()
