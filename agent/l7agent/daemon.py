# SPDX-License-Identifier: Apache-2.0
"""The agent as a process: its socket, its signals, its word to systemd."""

import asyncio
import contextlib
import logging
import signal
from pathlib import Path

from l7agent import api, metrics_port, notify
from l7agent.agent import Agent, StartFailed
from l7agent.config import Config, metrics_address
from l7agent.reload import ReloadFailed
from l7agent.statefile import StateError
from l7bpf.errors import DatapathError
from l7policy.errors import PolicyErrors

_log = logging.getLogger(__name__)


async def run(config: Config, config_path: Path | None) -> None:
    """The agent's whole life, until SIGTERM or SIGINT. Raises StartFailed."""
    try:
        for folder in (config.run, config.state):
            Path(folder).mkdir(mode=0o755, parents=True, exist_ok=True)
        listener = api.listen(Path(config.api.socket), config.api.group)
        address = metrics_address(config.metrics.listen)
        scraped = metrics_port.listen(address) if address is not None else None
        agent = Agent(config, config_path)
    except (StateError, api.SocketInUse) as error:
        raise StartFailed(str(error)) from error
    except OSError as error:
        raise StartFailed(f"{error.filename or config.api.socket}: {error.strerror}") from error
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the files are about to be read anyway
    try:
        await agent.start()
        loop.add_signal_handler(signal.SIGHUP, lambda: agent.tasks.start(_hang_up(agent), name="reload"))
        agent.tasks.start(api.serve(api.Api(agent).application(), listener), name="api")
        if scraped is not None:
            agent.tasks.start(api.serve(metrics_port.application(agent), scraped), name="metrics")
        notify.ready(f"revision {agent.snapshot.revision if agent.snapshot else 0} in force")
        await stop.wait()
        notify.stopping()
    except (DatapathError, StateError, StartFailed) as error:
        await agent.supervisor.withdraw()
        raise StartFailed(str(error)) from error
    finally:
        await agent.close()
        listener.close()
        if scraped is not None:
            scraped.close()
        with contextlib.suppress(FileNotFoundError):
            Path(config.api.socket).unlink()


async def _hang_up(agent: Agent) -> None:
    """SIGHUP: what `l7ctl rules reload` does, and reopen the log."""
    notify.reloading()
    agent.audit.reopen()
    try:
        await agent.reload_endpoints()
        change = await agent.reload()
        _log.info("revision %d in force after SIGHUP", change.revision)
    except (PolicyErrors, ReloadFailed, DatapathError) as error:
        _log.error("reload refused, nothing was changed:\n%s", error)
    notify.ready(f"revision {agent.snapshot.revision if agent.snapshot else 0} in force")
