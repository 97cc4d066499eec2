# SPDX-License-Identifier: Apache-2.0
"""`l7d dns`: the DNS proxy. Wires sockets, the learner, enforcement and the agent's wire together.

Failure verdict: without a snapshot every query is refused; without this process the kernel drops queries, and what was
learnt stays as it is.
"""

import asyncio
import gc
import os
from pathlib import Path
from typing import Any

import msgspec

from l7agent import dataplane, wire
from l7agent.config import Config
from l7agent.control_port import ControlPort
from l7agent.tables import KernelTables
from l7dns import clock, kernel, sockets
from l7dns.learner import Learner
from l7dns.server import DnsServer, Limits
from l7dns.view import Trust
from l7policy.enforcement import Enforcement
from l7policy.http import PatternError
from l7policy.model import Snapshot
from l7policy.verdict import Protocol, ProxyKind


class DnsRole:
    """What the agent steers: the snapshots queries are judged by and names are learnt for."""

    def __init__(self, enforcement: Enforcement, learner: Learner) -> None:
        self._enforcement = enforcement
        self._learner = learner
        self.revision = learner.revision
        self.committed = asyncio.Event()
        if self.revision:
            self.committed.set()

    def prepare(self, snapshot: Snapshot) -> str:
        """Writes the rows that the kernel needs before endpoints move to the snapshot's policies."""
        error = self._learner.prepare(snapshot, clock.boottime())
        if error:
            return error
        try:
            self._enforcement.prepare(snapshot)
        except PatternError as bad:
            self._learner.abort(snapshot.revision, clock.boottime())
            return str(bad)
        return ""

    def commit(self, revision: int) -> None:
        """Drops the rows of policies that are gone."""
        self._enforcement.commit(revision)
        self._learner.commit(revision, clock.boottime())
        self.revision = revision
        self.committed.set()

    def abort(self, revision: int) -> None:
        """Takes the prepared rows back."""
        self._enforcement.abort(revision)
        self._learner.abort(revision, clock.boottime())

    def answer(self, question: str) -> Any:
        """``cache``: what is learnt, for `l7ctl fqdn cache list`."""
        if question == "cache":
            return msgspec.to_builtins(self._learner.dump(clock.boottime(), clock.wall()))
        return None


async def serve(config: Config) -> None:
    """Runs the proxy until it is told to stop."""
    stop = asyncio.Event()
    dataplane.settle(stop)
    maps = dataplane.open_maps(config)
    enforcement = Enforcement(KernelTables(maps))
    learner = Learner(
        kernel.PinnedTables(maps),
        Path(config.state) / "dns",
        min_ttl=config.dns.min_ttl,
        max_names=config.dns.max_names,
        max_addresses_per_name=config.dns.max_addresses_per_name,
        max_addresses=config.dns.max_addresses,
        trust=Trust(
            config.dns.trust == "node", tuple(config.dns.trusted_resolvers), tuple(config.dns.special_addresses)
        ),
    )
    # A restart must not wait for the agent: judge by what the process before it judged by.
    for snapshot in learner.restore(clock.boottime()):
        enforcement.prepare(snapshot)
        if snapshot.revision == learner.revision:
            enforcement.commit(snapshot.revision)
    # What is there by now stays, and queries leave no cycles behind: looking for them less often is all it costs.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    role = DnsRole(enforcement, learner)
    limits = Limits(upstream_timeout=config.dns.upstream_timeout, max_inflight=config.dns.max_inflight)

    async def shutdown(drain: float) -> None:
        await server.close(drain)
        stop.set()

    port = ControlPort(
        Path(config.run) / "dns-0.sock",
        lambda: wire.Hello(wire.PROTOCOL, "dns", 0, os.getpid(), dataplane.version(), role.revision),
        role,
        shutdown,
    )
    server = DnsServer(enforcement, learner, port.record, limits, demand=port.demand)
    listeners = {Protocol.UDP: sockets.udp_listener, Protocol.TCP: sockets.tcp_listener}
    made = [
        (protocol, dataplane.listener(make, family, sockets.DNS_PORT))
        for protocol, make in listeners.items()
        for family in dataplane.FAMILIES
    ]
    for protocol, listener in made:
        dataplane.register(maps, listener, ProxyKind.DNS, protocol, 0)
    await port.start()
    # Until this process knows the rules, queries wait in the listeners' queues instead of being refused.
    if await dataplane.first(role.committed, stop) is role.committed:
        await server.start(listener for _, listener in made)
        await stop.wait()
    await port.close()
    await server.close(0)
    learner.close()
