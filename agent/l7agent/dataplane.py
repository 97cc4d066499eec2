# SPDX-License-Identifier: Apache-2.0
"""What the data-plane processes' entry points share: kernel maps, listeners' registration, signals, limits."""

import asyncio
import resource
import signal
import socket
from collections.abc import Callable
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Final

from l7agent.config import Config
from l7bpf.layouts import LAYOUT, ListenerKey
from l7bpf.maps import Maps
from l7observe.tasks import Tasks
from l7policy.verdict import Protocol, ProxyKind

FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
DRAIN_SECONDS: Final = 2.0
"""How long requests under way may take to end when their process does."""


def version() -> str:
    """Of the installed package."""
    return installed_version("l7gate")


def pins(config: Config) -> Path:
    """The versioned folder of everything pinned."""
    return Path(config.pins) / LAYOUT


def open_maps(config: Config) -> Maps:
    """The maps the agent made. Raises DatapathError if there are none."""
    return Maps.open(pins(config))


def listener(
    make: Callable[[socket.AddressFamily, int], socket.socket], family: socket.AddressFamily, port: int
) -> socket.socket:
    """A listener of `make`. Raises OSError naming the port: an operator has to find who else has it."""
    try:
        return make(family, port)
    except OSError as error:
        raise OSError(error.errno, f"port {port}: {error.strerror}") from error


def register(maps: Maps, sock: socket.socket, proxy: ProxyKind, protocol: Protocol, slot: int) -> None:
    """Makes the kernel steer redirected flows to this socket; it forgets the socket when it is closed."""
    family = 4 if sock.family == socket.AF_INET else 6
    maps.listeners.update(ListenerKey(proxy, family, protocol, slot), sock.fileno())


def settle(stop: asyncio.Event) -> None:
    """Makes the process one that lasts: ended in order by SIGTERM and SIGINT, and by nothing that befalls the agent."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # A connection takes two files; the soft limit is for programs that use select(2).
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # The agent's log may be a terminal or a pipe that goes away; that must not end a data-plane process.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


async def first(*events: asyncio.Event) -> asyncio.Event:
    """Waits until one of the events is set, and returns it."""
    waiting = Tasks()
    tasks = {waiting.start(event.wait(), name="first"): event for event in events}
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    await waiting.close()
    return tasks[done.pop()]
