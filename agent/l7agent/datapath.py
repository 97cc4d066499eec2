# SPDX-License-Identifier: Apache-2.0
"""The node's datapath as the agent handles it: loaded, attached, listened to. All calls block and go to a thread.

Programs, maps and links are pinned and stay when the agent goes; loading again replaces programs in place.
"""

import asyncio
import contextlib
import logging
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from l7agent import dataplane, statefile, workload
from l7agent.config import Config
from l7agent.endpoints import Endpoint
from l7bpf import bpffs, loader, migration, routing
from l7bpf.attach import Attacher
from l7bpf.errors import DatapathError
from l7bpf.events import EventReader
from l7bpf.layouts import LAYOUT, Event
from l7bpf.maps import Maps
from l7bpf.mapspecs import MAPS

_log = logging.getLogger(__name__)

DRAIN: Final = 1024
"""Events handed over at a time, so that a flood of drops does not keep the agent from its other work."""


class Datapath:
    """One node's programs and maps."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._pins = dataplane.pins(config)
        self._saved_settings = Path(config.state) / "node-settings.json"
        self._events: EventReader | None = None
        self._attacher: Attacher
        self.maps: Maps
        self.fresh = False
        """The tables were made just now: what others remember of earlier ones is void."""
        self.upgraded_from: Path | None = None
        """The folder of another layout, which still judges until everything is attached anew."""
        self.uplinks: list[str] = []

    @property
    def attach_mode(self) -> str:
        """``tcx`` or ``tc``."""
        return self._attacher.mode

    def load(self) -> None:
        """Pins the programs, compiled if they were not before, and the maps that are missing. Raises DatapathError."""
        sizes = self._config.maps
        bpffs.ensure(self._pins)
        self.upgraded_from = next(iter(migration.older(self._pins)), None)
        self.fresh = self.upgraded_from is None and not (self._pins / "maps" / "policy").exists()
        if self.fresh:
            shutil.rmtree(Path(self._config.state) / "dns", ignore_errors=True)
        loaded = loader.load(
            self._pins,
            loader.Constants(
                max_endpoints=sizes.endpoints,
                max_endpoint_addresses=sizes.endpoints * 8,
                max_ipcache=sizes.ipcache,
                max_policy=sizes.policy,
                max_conntrack=sizes.conntrack,
                max_fragments=sizes.fragments,
                max_host_flows=sizes.host_flows,
                max_fqdn_identities=sizes.fqdn_identities,
                max_event_bytes=sizes.event_bytes,
                events_per_second=sizes.events_per_second,
            ),
            cache=Path(self._config.cache),
        )
        for name, (actual, wanted) in loaded.kept_sizes.items():
            _log.warning(
                "map %s keeps its %d entries, not %d: `l7d cleanup` and a start change it", name, actual, wanted
            )
        self.maps = Maps.open(self._pins)
        if self.upgraded_from is not None:
            self._take_over(self.upgraded_from)
        self._attacher = Attacher(self._pins, self._config.attach, self.upgraded_from)

    def _take_over(self, old: Path) -> None:
        if self.maps.config.revision:
            return  # an agent before this one came so far, and did not finish
        copied = migration.copy(old, self._pins)
        if copied is None:
            _log.warning("nothing leads from %s to layout %s: flows are judged anew", old, LAYOUT)
        else:
            _log.info("took over from %s: %s", old, ", ".join(f"{name} {count}" for name, count in copied.items()))

    def finish_upgrade(self) -> list[Event]:
        """Everything is attached: removes the old datapath. Returns what it still had to tell. Raises DatapathError."""
        old = self.upgraded_from
        if old is None:
            return []
        migration.follow(old, self._pins)
        events: list[Event] = []
        with EventReader(old) as reader:
            while found := reader.drain(DRAIN):
                events += found
        for folder in migration.older(self._pins):
            migration.remove(folder)
        self.upgraded_from = None
        _log.info("removed %s", old)
        return events

    def attach_node(self, uplinks: list[str]) -> None:
        """Puts the programs on the uplinks, and the way from marks to the proxies in place. Raises DatapathError."""
        saved = statefile.load(self._saved_settings, dict[str, str]) or {}
        before = routing.add(saved)
        if before != saved:
            try:
                statefile.save(self._saved_settings, before)
            except OSError as error:
                routing.remove(before)
                raise DatapathError(f"{self._saved_settings}: cannot be written: {error.strerror}") from error
        self._attacher.attach_steer()
        for name in uplinks:
            try:
                self._attacher.attach_uplink(socket.if_nametoindex(name))
            except OSError as error:
                raise DatapathError(f"uplink {name}: no such interface (config key uplinks)") from error
        self._offer_way_back(uplinks)
        self.uplinks = uplinks

    def restore_routes(self) -> None:
        """Puts back what a network manager took away of the way to the proxies. Raises DatapathError."""
        routing.add(statefile.load(self._saved_settings, dict[str, str]))

    def _offer_way_back(self, uplinks: list[str]) -> None:
        """Tells the programs of cgroups from which interfaces a packet finds its way back to a proxy."""
        table = self.maps.uplinks
        wanted = workload.ethernet(uplinks)
        for ifindex in table.indexes() - wanted:
            table.discard(ifindex)
        for ifindex in wanted:
            table.add(ifindex)

    def attach_endpoint(self, endpoint: Endpoint) -> None:
        """Judges the workload's packets from now on. Raises DatapathError."""
        assert endpoint.attachment is not None  # noqa: S101 - a bug, not an input
        if endpoint.attachment.cgroup is not None:
            self._attacher.attach_cgroup(endpoint.attachment.cgroup, endpoint.id, self.maps.cgroup_endpoints)
            return
        self._attacher.attach_endpoint(endpoint.attachment.ifindex, endpoint.id)

    def detach_endpoint(self, endpoint: Endpoint) -> None:
        """Lets the workload's packets pass unjudged. Raises DatapathError."""
        if endpoint.attachment is not None and endpoint.attachment.cgroup is not None:
            self._attacher.detach_cgroup(endpoint.id)
        elif endpoint.attachment is not None:
            self._attacher.detach_endpoint(endpoint.attachment.ifindex, endpoint.id)

    def detach_strays(self, endpoints: Iterable[Endpoint]) -> None:
        """Lets go of workloads that are no endpoints any more: an agent was killed while it removed them. All that
        they send would be dropped for ever. Raises DatapathError."""
        known = list(endpoints)
        numbers = {endpoint.id for endpoint in known}
        for endpoint_id in self._attacher.endpoints("cgroup") - numbers:
            self._attacher.detach_cgroup(endpoint_id)
        for endpoint_id in self._attacher.endpoints("endpoint") - numbers:
            self._attacher.detach_links(endpoint_id)
        if self.attach_mode == "tc" and all(endpoint.attachment for endpoint in known):
            # A filter has no name of its own. One that waits for its interface keeps what is on it.
            taken = {endpoint.attachment.ifindex for endpoint in known if endpoint.attachment}
            for ifindex, _ in socket.if_nameindex():
                if ifindex not in taken:
                    self._attacher.detach_filters(ifindex)

    def programs_of(self, endpoint: Endpoint) -> dict[str, bool]:
        """Whether the kernel has each program where the workload's packets pass. Raises DatapathError."""
        attachment = endpoint.attachment
        if attachment is None:
            return {}
        if attachment.cgroup is not None:
            return self._attacher.on_cgroup(attachment.cgroup, endpoint.id)
        return self._attacher.on_endpoint(attachment.ifindex, endpoint.id)

    def programs_of_node(self) -> dict[str, dict[str, bool]]:
        """The same of each uplink, and of the socket lookup under an empty name. Raises DatapathError."""
        found = {"": self._attacher.on_sockets()}
        for name in self.uplinks:
            try:
                found[name] = self._attacher.on_uplink(socket.if_nametoindex(name))
            except OSError:
                found[name] = {"from_uplink": False, "to_uplink": False}  # the interface is gone
        return found

    def on_events(self, callback: Callable[[list[Event]], None]) -> None:
        """Hands over dropped packets' events as they come, those of before the agent was there first."""
        events = self._events = EventReader(self._pins)
        loop = asyncio.get_running_loop()

        def drain() -> None:
            found = events.drain(DRAIN)
            callback(found)
            if len(found) == DRAIN and self._events is not None:
                # Readiness is reported for new records only; those left in the ring wake nobody.
                loop.call_soon(drain)

        loop.add_reader(events.fileno(), drain)
        drain()

    def close(self) -> None:
        """Stops listening. Everything pinned stays."""
        if self._events is not None:
            asyncio.get_running_loop().remove_reader(self._events.fileno())
            self._events.close()
            self._events = None


def remove(config: Config) -> Iterator[str]:
    """Detaches and unpins everything, a line for each thing done. Raises DatapathError."""
    pins = dataplane.pins(config)
    for old in migration.older(pins):
        migration.remove(old)
        yield f"{old} removed"
    if pins.is_dir():
        attacher = Attacher(pins, config.attach)
        # Not all tables: a load that never ended, before anything was attached, or a removal, after that was undone.
        if all((pins / "maps" / name).exists() for name in MAPS):
            with Maps.open(pins) as maps:
                for ifindex, endpoint_id in list(maps.endpoint_by_ifindex.items()):
                    attacher.detach_endpoint(ifindex, endpoint_id)
                    yield f"endpoint {endpoint_id} detached"
        for endpoint_id in attacher.endpoints("cgroup"):
            attacher.detach_cgroup(endpoint_id)
            yield f"endpoint {endpoint_id} detached"
        for ifindex, name in socket.if_nameindex():
            attacher.detach_uplink(ifindex)
            if name in (config.uplinks if isinstance(config.uplinks, list) else ()):
                yield f"uplink {name} detached"
        attacher.detach_steer()
        # A bpffs knows unlink and rmdir like any other file system.
        for folder in ("maps", "programs", "links"):
            if (pins / folder).exists():
                shutil.rmtree(pins / folder)
        if pins.is_mount():  # `load` did that
            bpffs.unmount(pins)
        pins.rmdir()
        with contextlib.suppress(OSError):
            pins.parent.rmdir()
        yield f"{pins} removed"
    saved = Path(config.state) / "node-settings.json"
    routing.remove(statefile.load(saved, dict[str, str]))
    saved.unlink(missing_ok=True)
    yield "rules and routes removed"
