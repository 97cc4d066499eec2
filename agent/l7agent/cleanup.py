# SPDX-License-Identifier: Apache-2.0
"""`l7d cleanup`: ends the data plane and takes everything off the node that outlives the agent on purpose."""

import contextlib
import os
import select
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from l7agent import datapath, wire
from l7agent.config import Config
from l7agent.dataplane import DRAIN_SECONDS

PATIENCE: Final = 15.0
"""Seconds that an agent may take to end."""


class AgentRunning(Exception):
    """The agent would put back what is removed."""


def cleanup(config: Config, *, force: bool = False) -> Iterator[str]:
    """Takes everything down, a line for each thing done; `force`: a running agent first.

    Raises AgentRunning, DatapathError.
    """
    agent = _agent(config.api.socket)
    if agent is not None and not force:
        raise AgentRunning(f"l7d agent is running ({config.api.socket}); stop it first, or give --force")
    if agent is not None:
        _end(agent, config.api.socket)
        yield "agent stopped"
    for path in sorted(Path(config.run).glob("*-[0-9].sock")):
        yield _stop(path)
    yield from datapath.remove(config)


def _agent(api: str) -> int | None:
    """The process that answers there, if any; 0 for one that this namespace has no number for."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        if probe.connect_ex(api):
            return None
        credentials = struct.Struct("=iII")
        return int(credentials.unpack(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size))[0])


def _end(agent: int, api: str) -> None:
    if agent <= 1:
        raise AgentRunning(f"l7d agent is running ({api}), not as a process that can be stopped from here")
    handle = os.pidfd_open(agent)
    try:
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        ended, _, _ = select.select([handle], [], [], PATIENCE)
    finally:
        os.close(handle)
    if not ended:
        raise AgentRunning(f"l7d agent, process {agent}, does not stop")
    if (again := _agent(api)) is not None:
        raise AgentRunning(f"l7d agent was started again as process {again}: stop its service first")


def _stop(path: Path) -> str:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as process:
        process.settimeout(DRAIN_SECONDS + 3)
        try:
            process.connect(str(path))
            process.sendall(wire.frame(wire.Shutdown(DRAIN_SECONDS)))
            while process.recv(65536):
                pass
        except OSError:
            path.unlink(missing_ok=True)
            return f"{path.stem} was not running"
    return f"{path.stem} stopped"
