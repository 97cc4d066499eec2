# SPDX-License-Identifier: Apache-2.0
"""The control plane: owns endpoints, policies and identities, and brings every change of them into force.

One change at a time, each through the same transaction (`l7agent.reload`), be it a reload, a rollback, a new endpoint
or a restart. Nothing the data path does waits for this process.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from l7agent import endpoints as declarations
from l7agent import history, host, textfile, wire, workload
from l7agent.auditing import Auditing
from l7agent.compilation import Compiled, Compiler
from l7agent.config import Config
from l7agent.datapath import Datapath
from l7agent.endpoints import Conflict, Declared, Endpoint, EndpointError, Endpoints, NoSuchEndpoint
from l7agent.fills import Fills
from l7agent.history import History, Kept
from l7agent.identities import Identities, IdentitiesExhausted
from l7agent.kernel_state import KernelState
from l7agent.linknews import LinkNews
from l7agent.observation import Observation
from l7agent.reload import Change, ReloadFailed, transact
from l7agent.supervisor import Supervisor
from l7agent.workers import worker_count
from l7bpf.errors import DatapathError
from l7observe.audit import AuditLog
from l7observe.histogram import Histogram
from l7observe.tasks import Tasks
from l7policy import changes, documents
from l7policy.errors import PolicyErrors
from l7policy.http import secrets_of
from l7policy.model import Snapshot
from l7policy.policydoc import Policy, Source

LOOK_SECONDS: Final = 1.0
"""How often the node is looked at for workloads that came, moved or went, if the kernel tells of no change before."""

INSPECT_SECONDS: Final = 15.0
"""Most looks are glances; so often one also finds addresses that were given to a workload later."""

_log = logging.getLogger(__name__)


def _text(path: Path) -> str:
    try:
        return textfile.read(path)
    except UnicodeDecodeError as error:
        raise ReloadFailed(f"{path}: is not UTF-8: {error.reason} at byte {error.start}") from error


def _inspect(declared: Declared) -> workload.Attachment:
    if declared.cgroup:
        return workload.inspect_cgroup(declared.cgroup)
    return workload.inspect(declared.netns, declared.interface)


class StartFailed(Exception):
    """The agent cannot run, in one line."""


class Agent:
    """One node's control plane."""

    def __init__(self, config: Config, config_path: Path | None) -> None:
        """Reads the state directory. Raises StateError."""
        state = Path(config.state)
        self.config = config
        self.started = time.time()
        self.endpoints = Endpoints(state / "endpoints.json")
        self.history = History(state / "revisions")
        self.identities = Identities(state / "identities.json")
        self.compiler = Compiler(
            self.identities,
            config.enforcement,
            audit=config.policy_audit_mode,
            label_rules=config.labels,
            surroundings=config.surroundings,
        )
        self.audit = AuditLog(
            Path(config.audit.path),
            config.audit.max_bytes,
            config.audit.backups,
            group=config.api.group,
            audited_per_second=config.audit.audited_per_second,
            refused_names_per_second=config.audit.refused_names_per_second,
        )
        self.datapath = Datapath(config)
        self.policy_load_error = ""
        self.endpoints_load_error = ""
        self.changes_made = self.changes_refused = 0
        """Reloads and rollbacks, by what came of them."""
        self.change_seconds = Histogram()
        """How long those took that were made."""
        self.surroundings = config.surroundings
        self._documents = documents.Loader(self.surroundings.told)
        self.snapshot: Snapshot | None = None
        self.compiled: Compiled | None = None
        self.kernel: KernelState
        self.fills: Fills
        self.auditing: Auditing
        self.supervisor = Supervisor(
            Path(config.run),
            config_path,
            worker_count(config),
            self._heard,
        )
        self.observation = Observation(self.supervisor, always=config.access_log)
        self.tasks = Tasks()
        self._change = asyncio.Lock()
        self._revision = 0
        self._node_addresses: dict[str, str] = {}

    # -- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Loads the datapath, adopts or starts the processes, brings the last good rules into force, then the files'.

        Raises StartFailed when there are no valid rules at all: an agent that starts without rules would let through
        what the operator meant to deny.
        """
        await asyncio.to_thread(self.datapath.load)
        maps = self.datapath.maps
        self.kernel = KernelState(maps, Path(self.config.state) / "policy-ids.json")
        self.fills = Fills(self.kernel.fills)
        self.auditing = Auditing(
            self.audit, self.observation.hub, self.endpoints, self.kernel.labels_of, self.kernel.identity_of
        )
        newest = self.history.active
        self._revision = max(maps.config.revision, newest.revision if newest else 0)
        self.observation.begin(self.kernel)
        self.supervisor.start(adopt=not self.datapath.fresh and self.datapath.upgraded_from is None)
        self._node_addresses = await asyncio.to_thread(workload.node_addresses)
        await self._locate_all()
        gone, _ = self._declare_from_files(strict=newest is None)
        await self._locate_all()
        restored = newest is not None and await self._restore(newest)
        try:
            await self.reload(note="start")
        except (PolicyErrors, ReloadFailed) as error:
            if not restored:
                raise StartFailed(f"no rules could be brought into force:\n{error}") from error
            _log.error("keeping the rules of revision %d: %s", self._revision, error)
        await self._attach_node()
        await self._attach_all()
        await self._detach(gone)
        await asyncio.to_thread(self.datapath.detach_strays, list(self.endpoints))
        self.auditing.kernel_events(await asyncio.to_thread(self.datapath.finish_upgrade))
        self.tasks.start(self._watch_node(), name="watch-node")
        self.tasks.start(self.observation.keep(), name="observe")
        self.tasks.start(self.kernel.evictions.keep_sweeping(), name="sweep-flows")
        self.datapath.on_events(self.auditing.kernel_events)

    async def _restore(self, newest: Kept) -> bool:
        try:
            policies = self._documents.load_enforced(history.sources_of(newest))
        except PolicyErrors as error:
            _log.error("the kept rules of revision %d are not valid any more: %s", newest.revision, error)
            return False
        try:
            async with self._change:
                await self._bring_into_force(policies)
        except ReloadFailed as error:
            _log.error("the kept rules of revision %d could not be brought into force: %s", newest.revision, error)
            return False
        return True

    async def close(self) -> None:
        """Leaves. Programs, maps and data-plane processes stay."""
        self.observation.close()
        await self.tasks.close()
        await self.supervisor.close()
        self.datapath.close()
        self.audit.close()

    def _heard(self, told: wire.Flows, lost: int) -> None:
        self.auditing.flows(told)
        self.observation.lost("proxy", lost)

    # -- rules ----------------------------------------------------------------------------------------------------

    def read_policy_files(self) -> tuple[Source, ...]:
        """Every ``*.yaml`` and ``*.yml`` of the policy directory, in name order. Raises ReloadFailed."""
        folder = Path(self.config.policies)
        try:
            paths = sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml"))
            return tuple(Source(str(path), _text(path)) for path in paths)
        except OSError as error:
            raise ReloadFailed(f"{error.filename}: cannot be read: {error.strerror}") from error

    async def reload(self, note: str = "reload") -> Change:
        """Brings the policy directory into force. Raises PolicyErrors, ReloadFailed; then nothing has changed."""
        try:
            change = await self._use(self.read_policy_files(), note)
        except (PolicyErrors, ReloadFailed) as error:
            self.policy_load_error = str(error)
            raise
        self.policy_load_error = ""
        return change

    async def rollback(self, revision: int | None) -> Change:
        """Brings a kept rule set into force again, as a new revision. Raises UnknownRevision, or as `reload`."""
        kept = self.history.find(revision)
        return await self._use(history.sources_of(kept), f"rollback to {kept.revision}")

    def compare(self, sources: tuple[Source, ...] | None) -> tuple[changes.Changes, tuple[changes.EndpointChange, ...]]:
        """What bringing `sources` (default: the policy directory) into force would change. Raises as `reload`."""
        policies = self._documents.load_enforced(sources if sources is not None else self.read_policy_files())
        workloads = {endpoint.declared.name: self.compiler.labels_of(endpoint) for endpoint in self.endpoints}
        return (
            changes.compare(self._policies, policies),
            changes.endpoint_changes(
                self._policies, policies, workloads, self.config.enforcement, self.compiler.ports_of(self.endpoints)
            ),
        )

    @property
    def node_addresses(self) -> tuple[str, ...]:
        """Addresses of this node, and prefixes that are delivered to it."""
        return tuple(self._node_addresses)

    @property
    def _policies(self) -> tuple[Policy, ...]:
        return self.compiled.policies if self.compiled is not None else ()

    async def _use(self, sources: tuple[Source, ...], note: str) -> Change:
        try:
            change = await self._used(sources, note)
        except (PolicyErrors, ReloadFailed):
            self.changes_refused += 1
            raise
        self.changes_made += 1
        self.change_seconds.observe(change.seconds)
        return change

    async def _used(self, sources: tuple[Source, ...], note: str) -> Change:
        began = time.monotonic()
        policies = self._documents.load_enforced(sources)
        async with self._change:
            difference = changes.compare(self._policies, policies)
            unchanged = self.history.active is not None and history.sources_of(self.history.active) == sources
            # What a secret holds is known to the workers alone, who read it with each revision.
            if (
                self.snapshot is not None
                and difference.empty
                and unchanged
                and not any(secrets_of(rule.http or ()) for policy in policies for rule in policy.rules)
            ):
                return Change(self._revision, changed=False, seconds=time.monotonic() - began)
            moved = await self._bring_into_force(policies)
            kept = Kept(self._revision, time.time(), [(s.path, s.text) for s in sources], note, len(policies))
            self._remember(lambda: self.history.add(kept))
        return Change(
            self._revision,
            changed=True,
            added=difference.added,
            removed=difference.removed,
            modified=difference.modified,
            endpoints=moved,
            seconds=time.monotonic() - began,
        )

    async def _bring_into_force(self, policies: tuple[Policy, ...]) -> tuple[str, ...]:
        """The one way anything changes. Returns the endpoints that got other rules. Raises ReloadFailed."""
        itself = None
        if host.selected(policies):
            labels = self.surroundings.host(self._node_addresses)
            itself = host.endpoint(labels, self.config.node.audit, self._node_addresses)
        endpoints = (*self.endpoints, *([itself] if itself else []))
        try:
            compiled = self.compiler.compile(policies, endpoints, self._node_addresses)
        except IdentitiesExhausted as error:
            raise ReloadFailed(str(error)) from error
        before = dict(self.compiled.endpoint_policies) if self.compiled else {}
        self._revision += 1
        self.snapshot = await transact(compiled, self._revision, endpoints, self.compiler, self.kernel, self.supervisor)
        self.compiled, self.endpoints.host = compiled, itself
        self.auditing.learn(compiled.origins, self.snapshot.policies, compiled.endpoint_policies)
        self._remember(lambda: self.identities.retain(set(compiled.identities)))
        self._remember(self.endpoints.save)
        _log.info("revision %d in force: %d policies, %d endpoints", self._revision, len(policies), len(self.endpoints))
        rules = compiled.endpoint_policies
        return tuple(one.declared.name for one in endpoints if before.get(one.id) != rules.get(one.id))

    @staticmethod
    def _remember(save: Callable[[], None]) -> None:
        try:
            save()
        except OSError as error:
            # In force all the same: refusing now would leave the kernel and the operator with different rules.
            _log.error("the state directory cannot be written, a restart would not know this change: %s", error)

    # -- endpoints ------------------------------------------------------------------------------------------------

    async def add_endpoint(self, declared: Declared) -> Endpoint:
        """Puts a workload under policy. Raises EndpointError, WorkloadError, ReloadFailed."""
        attachment = await asyncio.to_thread(_inspect, declared)
        async with self._change:
            if refusal := self._refusal(attachment):
                raise Conflict(refusal)
            if len(self.endpoints) >= self.config.maps.endpoints:
                raise EndpointError(f"all {self.config.maps.endpoints} endpoints are taken (config key maps.endpoints)")
            endpoint = self.endpoints.located(self.endpoints.add(declared), attachment)
            try:
                await self._bring_into_force(self._policies)
            except ReloadFailed as error:
                self.endpoints.remove(endpoint)
                raise ReloadFailed(f"endpoint {declared.name!r} was not added: {error}") from error
            try:
                await asyncio.to_thread(self.datapath.attach_endpoint, endpoint)
            except DatapathError as error:
                self.endpoints.remove(endpoint)
                await self._bring_into_force(self._policies)
                raise ReloadFailed(f"endpoint {declared.name!r} was not added: {error}") from error
            return endpoint

    async def change_endpoint(self, key: str, change: Callable[[Endpoint], Endpoint]) -> Endpoint:
        """Gives a workload other labels or options; its connections are judged again. Raises as `add_endpoint`."""
        async with self._change:
            before = self.endpoints.find(key)
            if before is None:
                raise NoSuchEndpoint(f"no endpoint {key!r}")
            after = change(before)
            if after == before:
                return before
            self.endpoints.put_back(after)
            try:
                await self._bring_into_force(self._policies)
            except ReloadFailed as error:
                self.endpoints.put_back(before)
                raise ReloadFailed(f"endpoint {before.declared.name!r} was not changed: {error}") from error
            return after

    async def remove_endpoint(self, endpoint: Endpoint) -> None:
        """Lets a workload go: it is not judged any more. Raises ReloadFailed, DatapathError."""
        async with self._change:
            if self.endpoints.get(endpoint.id) is None:
                return  # somebody else was faster
            self.endpoints.remove(endpoint)
            try:
                await self._bring_into_force(self._policies)
            except ReloadFailed as error:
                self.endpoints.put_back(endpoint)
                raise ReloadFailed(f"endpoint {endpoint.declared.name!r} was not removed: {error}") from error
            await self._detach([endpoint])

    def _refusal(self, attachment: workload.Attachment, own: Endpoint | None = None) -> str:
        """Why what was found cannot be this endpoint's, or an empty string."""
        if attachment.interface in self.datapath.uplinks:
            return f"{attachment.interface} is an uplink of this node: what is behind it is not a workload of the node"
        for other in self.endpoints:
            if other.attachment is None or (own is not None and other.id == own.id):
                continue
            if attachment.cgroup is not None and other.attachment.cgroup is not None:
                folders = attachment.cgroup.folder, other.attachment.cgroup.folder
                if folders[0].is_relative_to(folders[1]) or folders[1].is_relative_to(folders[0]):
                    return f"one cgroup lies within the other: {folders[0]} and endpoint {other.declared.name!r}"
            elif other.attachment.ifindex == attachment.ifindex:
                return f"{attachment.interface} belongs to endpoint {other.declared.name!r} already"
            if shared := set(other.attachment.addresses) & set(attachment.addresses):
                return f"address {min(shared)} belongs to endpoint {other.declared.name!r} already"
        if own_node := set(attachment.addresses) & set(self._node_addresses):
            return f"address {min(own_node)} is this node's own"
        return ""

    def _declare_from_files(self, *, strict: bool) -> tuple[list[Endpoint], list[Endpoint]]:
        """Takes over what endpoints.d says. Returns what went and what came. Raises StartFailed if `strict`."""
        try:
            wanted = {d.name: d for d in declarations.read_folder(Path(self.config.endpoints))}
        except EndpointError as error:
            if strict:
                raise StartFailed(str(error)) from error
            _log.error("keeping the endpoints as they are: %s", error)
            self.endpoints_load_error = str(error)
            return [], []
        self.endpoints_load_error = ""
        gone = [
            e for e in self.endpoints if e.declared.source != "command" and wanted.get(e.declared.name) != e.declared
        ]
        for endpoint in gone:
            self.endpoints.remove(endpoint)
        new = []
        known = {(e.declared.name, e.declared.place): e for e in gone}
        for name, declared in wanted.items():
            if self.endpoints.find(name) is None:
                try:
                    same = known.get((name, declared.place))
                    new.append(self.endpoints.add(declared, same))
                except Conflict as error:
                    _log.error("%s: %s", declared.source, error)
        return gone, new

    async def reload_endpoints(self) -> None:
        """Takes over changes in endpoints.d. Raises ReloadFailed, DatapathError."""
        async with self._change:
            gone, new = self._declare_from_files(strict=False)
            if not gone and not new:
                return
            await self._locate_all()
            try:
                await self._bring_into_force(self._policies)
            except ReloadFailed:
                for endpoint in new:
                    self.endpoints.remove(endpoint)
                for endpoint in gone:
                    self.endpoints.put_back(endpoint)
                raise
            await self._attach_all()
            await self._detach(gone)

    async def _detach(self, gone: list[Endpoint]) -> None:
        """Lets workloads go. Those that came in their place are attached by now, so that no packet passes unjudged."""
        taken = {e.attachment.ifindex for e in self.endpoints if e.attachment is not None}
        for endpoint in gone:
            if endpoint.attachment is None or self.endpoints.get(endpoint.id) is not None:
                continue
            # A clsact filter belongs to the interface, a link to the endpoint.
            linked = endpoint.attachment.cgroup is not None or self.datapath.attach_mode == "tcx"
            if linked or endpoint.attachment.ifindex not in taken:
                await asyncio.to_thread(self.datapath.detach_endpoint, endpoint)

    async def _locate_all(self, *, glance: bool = False) -> bool:
        """Looks where every workload is. Returns whether any came, moved or went.

        A glance takes those for unchanged whose namespace and interface still stand.
        """
        moved = False
        for endpoint in self.endpoints:
            declared = endpoint.declared
            if glance and endpoint.attachment and endpoint.attachment.stands(declared.netns, declared.cgroup):
                continue
            try:
                attachment = await asyncio.to_thread(_inspect, endpoint.declared)
                message = self._refusal(attachment, endpoint)
            except workload.WorkloadError as error:
                attachment, message = None, str(error)
            if message:
                attachment = None
            if attachment != endpoint.attachment or message != endpoint.message:
                moved = moved or attachment != endpoint.attachment
                self.endpoints.located(endpoint, attachment, message)
        return moved

    async def _attach_all(self) -> None:
        for endpoint in self.endpoints:
            if endpoint.attachment is None:
                continue
            try:
                await asyncio.to_thread(self.datapath.attach_endpoint, endpoint)
            except DatapathError as error:
                _log.error("endpoint %s: %s", endpoint.declared.name, error)
                self.endpoints.located(endpoint, endpoint.attachment, str(error))

    async def _attach_node(self) -> None:
        if isinstance(self.config.uplinks, list):
            uplinks = self.config.uplinks
        else:
            taken = {e.attachment.ifindex for e in self.endpoints if e.attachment is not None}
            uplinks = await asyncio.to_thread(workload.uplinks, taken)
        await asyncio.to_thread(self.datapath.attach_node, uplinks)

    async def _restore_routes(self) -> None:
        try:
            await asyncio.to_thread(self.datapath.restore_routes)
        except DatapathError as error:
            _log.error("flows that need a proxy are dropped: %s", error)

    async def _watch_node(self) -> None:
        behind, inspected = False, time.monotonic()
        with LinkNews() as news:
            unheard = True  # what changed before it listened
            while True:
                told = await news.wait(LOOK_SECONDS) or unheard
                unheard = False
                whole = time.monotonic() - inspected >= INSPECT_SECONDS
                addresses = await asyncio.to_thread(workload.node_addresses) if told or whole else self._node_addresses
                async with self._change:
                    if whole:
                        inspected = time.monotonic()
                        await self._restore_routes()
                    moved = await self._locate_all(glance=not whole)
                    if not moved and not behind and addresses == self._node_addresses:
                        continue
                    self._node_addresses = addresses
                    behind = not await self._follow()

    async def _follow(self) -> bool:
        try:
            await self._bring_into_force(self._policies)
            await self._attach_all()
            await self._attach_node()
        except (ReloadFailed, DatapathError) as error:
            _log.error("a change on the node could not be followed: %s", error)
            return False
        return True
