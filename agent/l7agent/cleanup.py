# SPDX-License-Identifier: Apache-2.0
"""`l7d cleanup`: ends the data plane and takes everything off the node that outlives the agent on purpose."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from l7agent import datapath, wire
from l7agent.config import Config
from l7agent.dataplane import DRAIN_SECONDS


class AgentRunning(Exception):
    """The agent would put back what is removed."""


def cleanup(config: Config) -> Iterator[str]:
    """Takes everything down, a line for each thing done. Raises AgentRunning, DatapathError."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        if probe.connect_ex(config.api.socket) == 0:
            raise AgentRunning(f"l7d agent is running ({config.api.socket}); stop it first")
    for path in sorted(Path(config.run).glob("*-[0-9].sock")):
        yield _stop(path)
    yield from datapath.remove(config)


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
