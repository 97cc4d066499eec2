# SPDX-License-Identifier: Apache-2.0
"""`l7d http`: one worker of the HTTP proxy. Wires sockets, kernel tables, enforcement and the agent's wire together.

Failure verdict: without a snapshot every request is refused; without this process the kernel drops what would need it.
"""

import asyncio
import gc
import logging
import os
from pathlib import Path
from typing import Any

from l7agent import dataplane, secretfiles, wire
from l7agent.config import Config
from l7agent.control_port import ControlPort
from l7agent.tables import KernelTables
from l7policy.enforcement import Enforcement
from l7policy.http import PatternError, secrets_of
from l7policy.model import Snapshot
from l7policy.verdict import Protocol, ProxyKind
from l7proxy import sockets
from l7proxy.limits import Limits
from l7proxy.redaction import Redaction
from l7proxy.server import HttpServer

HTTP_PORT = 10080

_COLLECT = (20_000, 20, 50)
"""Records wait in batches, and are no garbage: with the defaults they alone would call the collector all the time."""

_log = logging.getLogger(__name__)


class HttpRole:
    """What the agent steers: the snapshots this worker judges by."""

    def __init__(self, enforcement: Enforcement, secrets: Path) -> None:
        self._enforcement = enforcement
        self._secrets = secrets
        self.revision = 0
        self.server: HttpServer | None = None
        """Once there is one."""
        self.committed = asyncio.Event()

    def prepare(self, snapshot: Snapshot) -> str:
        """Keeps the snapshot beside the one in force."""
        rules = [rule for policy in snapshot.policies.values() for rule in policy.rules]
        wanted = frozenset(secret for rule in rules for secret in secrets_of(rule.http or ()))
        found, problems = secretfiles.read(self._secrets, wanted)
        for problem in problems:
            _log.warning("%s; rules that need it match nothing", problem)
        try:
            self._enforcement.prepare(snapshot, found.get)
        except PatternError as error:
            return str(error)
        return ""

    def commit(self, revision: int) -> None:
        """Forgets older snapshots."""
        self._enforcement.commit(revision)
        self.revision = revision
        self.committed.set()

    def abort(self, revision: int) -> None:
        """Forgets the prepared snapshot."""
        self._enforcement.abort(revision)

    def answer(self, question: str) -> Any:
        """``status``: counters."""
        if question != "status" or self.server is None:
            return None
        counted = self.server.tally.plain()
        return counted | {"connections_open": self.server.connections, "refused": self.server.turned_away}


async def serve(config: Config, slot: int) -> None:
    """Runs the worker until it is told to stop."""
    stop = asyncio.Event()
    dataplane.settle(stop)
    maps = dataplane.open_maps(config)
    enforcement = Enforcement(KernelTables(maps), pin_names=config.http.pin_names)
    role = HttpRole(enforcement, Path(config.secrets))
    limits = Limits(
        head_timeout=config.http.head_timeout,
        keep_alive_timeout=config.http.idle_timeout,
        connect_timeout=config.http.connect_timeout,
        stall_timeout=config.http.stall_timeout,
        min_body_rate=config.http.min_body_rate,
        idle_timeout=config.http.request_timeout,
        request_timeout=config.http.request_timeout,
        max_connections=config.http.max_connections,
        max_connections_per_client=config.http.max_connections_per_endpoint,
        max_head=config.http.max_head_bytes,
        normalise_paths=config.http.ambiguous_paths == "normalise",
    )

    async def shutdown(drain: float) -> None:
        await server.close(drain)
        stop.set()

    port = ControlPort(
        Path(config.run) / f"http-{slot}.sock",
        lambda: wire.Hello(wire.PROTOCOL, "http", slot, os.getpid(), dataplane.version(), role.revision),
        role,
        shutdown,
    )
    redact = config.http.redact
    redaction = Redaction(query=redact.query, userinfo=redact.userinfo, headers=redact.headers)
    server = HttpServer(
        enforcement,
        port.record,
        limits,
        on_passed=port.passed,
        demand=port.demand,
        redaction=redaction,
        on_error=lambda *_: stop.set(),
    )
    role.server = server
    listeners = [dataplane.listener(sockets.listener, family, HTTP_PORT) for family in dataplane.FAMILIES]
    for listener in listeners:
        for kind in (ProxyKind.HTTP, ProxyKind.TLS):
            dataplane.register(maps, listener, kind, Protocol.TCP, slot)
    await port.start()
    # Until this process knows the rules, connections wait in the listeners' queues instead of being refused.
    if await dataplane.first(role.committed, stop) is role.committed:
        # What is there now stays: the collector need not look through it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_COLLECT)
        await server.start(listeners)
        await stop.wait()
    # While requests under way end, this process still follows the rules; another one has the new connections.
    await server.close(dataplane.DRAIN_SECONDS)
    await port.close()
