# SPDX-License-Identifier: Apache-2.0
"""The node's datapath as the agent handles it: loaded, attached, listened to. All calls block and go to a thread.

Programs, maps and links are pinned and stay when the agent goes; loading again replaces programs in place.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from l7agent import dataplane
from l7agent.config import Config
from l7agent.endpoints import Endpoint
from l7bpf import attach, bpffs, loader, routing
from l7bpf.events import Event, Events
from l7bpf.maps import Maps


class Datapath:
    """One node's programs and maps."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._pins = dataplane.pins(config)
        self._events: Events | None = None
        self._attached: attach.Attachments
        self.maps: Maps
        self.uplinks: list[str] = []

    @property
    def attach_mode(self) -> str:
        """``tcx`` or ``tc``."""
        return self._attached.mode

    def load(self) -> None:
        """Compiles and pins the programs, makes maps that are not there yet. Raises DatapathError."""
        sizes = self._config.maps
        bpffs.ensure(self._pins)
        loader.load(
            self._pins,
            loader.Constants(
                max_endpoints=sizes.endpoints,
                max_endpoint_addresses=sizes.endpoints * 8,
                max_ipcache=sizes.ipcache,
                max_policy=sizes.policy,
                max_conntrack=sizes.conntrack,
                max_fqdn_identities=sizes.fqdn_identities,
            ),
        )
        self.maps = Maps.open(self._pins)
        self._attached = attach.Attachments(self._pins, mode=self._config.attach)

    def attach_node(self, uplinks: list[str]) -> None:
        """Puts the programs on the uplinks, and the way from marks to the proxies in place. Raises DatapathError."""
        routing.add()
        self._attached.attach_steer()
        self._attached.attach_uplinks(uplinks)
        self.uplinks = uplinks

    def attach_endpoint(self, endpoint: Endpoint) -> None:
        """Judges the workload's packets from now on. Raises DatapathError."""
        assert endpoint.attachment is not None  # noqa: S101 - a bug, not an input
        self._attached.attach_endpoint(endpoint.attachment.ifindex, endpoint.id)

    def detach_endpoint(self, endpoint: Endpoint) -> None:
        """Lets the workload's packets pass unjudged. Raises DatapathError."""
        if endpoint.attachment is not None:
            self._attached.detach_endpoint(endpoint.attachment.ifindex, endpoint.id)

    def on_events(self, callback: Callable[[list[Event]], None]) -> None:
        """Hands over dropped packets' events as they come, those of before the agent was there first."""
        events = self._events = Events(self._pins)

        def drain() -> None:
            callback(events.drain())

        asyncio.get_running_loop().add_reader(events.fileno(), drain)
        drain()

    def close(self) -> None:
        """Stops listening. Everything pinned stays."""
        if self._events is not None:
            asyncio.get_running_loop().remove_reader(self._events.fileno())
            self._events.close()


def remove(pins: Path) -> list[str]:
    """Detaches and unpins everything. Returns a line for each thing done. Raises DatapathError."""
    done = attach.remove_all(pins)
    routing.remove()
    return [*done, "rules and routes removed"]
