# SPDX-License-Identifier: Apache-2.0
"""What the kernel's tables hold for the agent, and the steps by which they change (`l7agent.reload` gives the order).

One writer per entry: this class writes entries of identities the agent numbers, ipcache prefixes of the agent,
endpoints and the revision. Rows of FQDN identities belong to the DNS process and are never touched here, except that
entries of policies nobody uses any more are swept.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from l7agent.compilation import Compiled
from l7agent.endpoints import Endpoint
from l7agent.evictions import EVICTING, Evictions
from l7agent.policyids import PolicyIds
from l7bpf.errors import DatapathError
from l7bpf.flows import ConntrackEntry, ConntrackKey
from l7bpf.layouts import (
    AUDIT,
    ENFORCE_EGRESS,
    ENFORCE_INGRESS,
    METRIC_EVENTS_LOST,
    METRIC_PASSED_LOST,
    IpcacheEntry,
    Metric,
    PolicyEntry,
    PolicyKey,
)
from l7bpf.layouts import Endpoint as EndpointRow
from l7bpf.maps import Maps
from l7dns.kernel import policy_row
from l7policy.ids import WORLD, EndpointId, IdentityId, Revision, is_fqdn_identity
from l7policy.model import Labels, Snapshot
from l7policy.names import hash64
from l7policy.resolver import Row
from l7policy.trust import scope, scoped, selectors


@dataclass(slots=True)
class _Staged:
    compiled: Compiled
    snapshot: Snapshot
    rows: dict[EndpointId, EndpointRow]
    places: dict[EndpointId, tuple[int, tuple[str, ...]]]
    """Interface index and addresses of each endpoint that is there."""
    written: list[PolicyKey] = field(default_factory=list)
    found: set[PolicyKey] = field(default_factory=set)
    """Rows that an earlier agent wrote already."""
    replaced: dict[PolicyKey, PolicyEntry] = field(default_factory=dict)
    """Those of them that said something else: another version's number for a rule."""
    new_rows: list[EndpointId] = field(default_factory=list)


class KernelState:
    """The agent's rows of the kernel's tables."""

    def __init__(self, maps: Maps, policy_ids: Path) -> None:
        """`policy_ids` is where the policies' numbers are kept for the next agent."""
        self._maps = maps
        self._prefixes: dict[str, IdentityId] = {}
        """What this agent has in force in the ipcache."""
        self._identities: dict[IdentityId, Labels] = {}
        self._selector_labels: dict[int, str] = {}
        self._staged: _Staged | None = None
        self.evictions = Evictions(maps)
        self._adopted = False
        """Whether the rows of an agent before this one are swept: the first `collect` does it."""
        in_use = {row.policy_id for _, row in maps.endpoints.items()}
        self._ids = PolicyIds(policy_ids, in_use, {key.policy_id for key, _ in maps.policy.items()})

    # -- the transaction ------------------------------------------------------------------------------------------

    def stage(self, compiled: Compiled, endpoints: Iterable[Endpoint], revision: int) -> Snapshot:
        """Writes what nothing refers to yet. Raises MapFull or OSError; then call `unstage`."""
        rows: dict[EndpointId, EndpointRow] = {}
        places: dict[EndpointId, tuple[int, tuple[str, ...]]] = {}
        for endpoint in endpoints:
            policy = compiled.endpoint_policies[endpoint.id]
            ifindex = endpoint.attachment.ifindex if endpoint.attachment else 0
            flags = (
                ENFORCE_EGRESS * policy.enforce_egress | ENFORCE_INGRESS * policy.enforce_ingress | AUDIT * policy.audit
            )
            rows[endpoint.id] = EndpointRow(
                policy_id=self._ids.number(compiled.endpoint_tables[endpoint.id]),
                identity=compiled.endpoint_identities[endpoint.id],
                ifindex=ifindex,
                flags=flags,
            )
            if endpoint.attachment is not None:
                places[endpoint.id] = (ifindex, endpoint.attachment.addresses)
        snapshot = Snapshot(
            revision=Revision(revision),
            policies={self._ids.number(digest): policy for digest, policy in compiled.tables.items()},
            identities={number: tuple(sorted(labels)) for number, labels in compiled.identities.items()},
            prefixes=compiled.prefixes,
            selectors=compiled.selectors,
        )
        self._staged = staged = _Staged(compiled, snapshot, rows, places)
        for selector in compiled.selectors:
            self._selector_labels[hash64(selector.label)] = selector.label
        for policy in compiled.tables.values():
            if used := selectors(policy):
                name = scope(policy).name
                self._selector_labels.update((hash64(scoped(label, name)), label) for label in used)
        # The old policies learn new identities too: a prefix changes identity before endpoints change policy.
        held = {} if self._adopted else self._inherited()
        for row in compiled.written:
            for entry in row.added():
                key, value = policy_row(self._ids[row.policy], entry)
                self._stage_row(staged, key, value, held.get(key))
        for endpoint_id, endpoint_row in rows.items():
            # Rows that are new take their room now, so that publishing cannot fail.
            if self._maps.endpoints.get(endpoint_id) is None:
                self._maps.endpoints.update(endpoint_id, endpoint_row)
                staged.new_rows.append(endpoint_id)
        return snapshot

    def _inherited(self) -> dict[PolicyKey, PolicyEntry]:
        """Rows that an agent before this one left and that count. What it began and nothing refers to goes at once:
        its room is needed."""
        in_use = {row.policy_id for _, row in self._maps.endpoints.items()}
        held: dict[PolicyKey, PolicyEntry] = {}
        for key, row in list(self._maps.policy.items()):
            if key.policy_id in in_use:
                held[key] = row
            else:
                self._maps.policy.delete(key)
        return held

    def _stage_row(self, staged: _Staged, key: PolicyKey, value: PolicyEntry, held: PolicyEntry | None) -> None:
        if held is None:
            staged.written.append(key)
        else:
            staged.found.add(key)
            if dataclasses.replace(held, packets=0, octets=0) == value:
                return  # and goes on counting
            staged.replaced[key] = held
        self._maps.policy.update(key, value)

    def unstage(self) -> None:
        """Takes back what was staged."""
        if self._staged is None:
            return
        for key in self._staged.written:
            self._maps.policy.delete(key)
        for key, row in self._staged.replaced.items():
            self._maps.policy.update(key, row)
        for endpoint_id in self._staged.new_rows:
            self._maps.endpoints.delete(endpoint_id)
        self._ids.withdraw()
        self._staged = None

    def publish(self) -> None:
        """Puts what was staged into force: prefixes, then endpoints, then the revision.

        Raises MapFull or OSError, and then every row is as it was before; call `unstage`.
        """
        staged = self._require_staged()
        self._ids.save()
        undo: list[Callable[[], object]] = []
        try:
            self._publish_prefixes(staged, undo)
            self._publish_endpoints(staged, undo)
        except (DatapathError, OSError):
            # What was added goes before what was overwritten comes back: a full table has room for it then.
            for step in reversed(undo):
                step()
            raise
        self._maps.config.update(staged.snapshot.revision)

    def _publish_prefixes(self, staged: _Staged, undo: list[Callable[[], object]]) -> None:
        wanted = {
            prefix: identity
            for prefix, identity in staged.compiled.prefixes.items()
            if self._prefixes.get(prefix) != identity
        }
        if not wanted:
            return
        table = self._maps.ipcache
        held: Mapping[str, int] = (
            self._prefixes if self._adopted else {prefix: row.identity for prefix, row in self.ipcache()}
        )
        for prefix, identity in wanted.items():
            current = held.get(prefix)
            covering = table.get(prefix)
            # Only single addresses are ever learnt, so what covers this prefix is in this very row.
            if current == identity or (covering is not None and is_fqdn_identity(covering.identity)):
                continue
            before = None if current is None else IpcacheEntry(current)
            if covering is not None and covering.established:
                before = covering
            # What flows go by that have begun is the DNS process's to say.
            table.update(prefix, IpcacheEntry(identity, 0 if before is None else before.established))
            undo.append(partial(table.delete, prefix) if before is None else partial(table.update, prefix, before))

    def _publish_endpoints(self, staged: _Staged, undo: list[Callable[[], object]]) -> None:
        rows, addresses, indexes = self._maps.endpoints, self._maps.endpoint_by_address, self._maps.endpoint_by_ifindex
        for endpoint_id, row in staged.rows.items():
            before = rows.get(endpoint_id)
            rows.update(endpoint_id, row)
            if before is not None:  # it always is: staging made room
                undo.append(partial(rows.update, endpoint_id, before))
        for endpoint_id, (ifindex, of_endpoint) in staged.places.items():
            for address in of_endpoint:
                owner = addresses.get(address)
                addresses.update(address, endpoint_id)
                undo.append(
                    partial(addresses.delete, address) if owner is None else partial(addresses.update, address, owner)
                )
            if not ifindex:  # a cgroup's row is the datapath's matter
                continue
            owner = indexes.get(ifindex)
            indexes.update(ifindex, endpoint_id)
            undo.append(partial(indexes.delete, ifindex) if owner is None else partial(indexes.update, ifindex, owner))

    def collect(self, gone: Iterable[Row]) -> None:
        """Deletes what nothing refers to any more: rows of policies that went, rows of identities that are `gone`.

        The first time, an earlier agent's rows, too.
        """
        staged = self._require_staged()
        compiled = staged.compiled
        for row in (*compiled.stale, *gone):
            for entry in row.removed():
                self._maps.policy.delete(policy_row(self._ids[row.policy], entry)[0])
        self._identities = dict(compiled.identities)
        self._ids.retain(compiled.tables)
        if not self._adopted or self._prefixes.keys() - compiled.prefixes.keys():
            for prefix, held in list(self._maps.ipcache.items()):
                if prefix not in compiled.prefixes and not held.established and not is_fqdn_identity(held.identity):
                    self._maps.ipcache.delete(prefix)
        self._prefixes = dict(compiled.prefixes)
        self._collect_endpoints(staged)
        if not self._adopted:
            # Nothing was in force before, so all that this agent holds was written or found for this revision.
            mine = {*staged.written, *staged.found}
            for key, _ in list(self._maps.policy.items()):
                if key not in mine and not (
                    key.policy_id in staged.snapshot.policies and is_fqdn_identity(key.identity)
                ):
                    self._maps.policy.delete(key)
            self._adopted = True
        self._staged = None

    def _collect_endpoints(self, staged: _Staged) -> None:
        indexes = {ifindex: endpoint_id for endpoint_id, (ifindex, _) in staged.places.items()}
        owners = {address: endpoint_id for endpoint_id, (_, all_) in staged.places.items() for address in all_}
        for ifindex, endpoint_id in list(self._maps.endpoint_by_ifindex.items()):
            if indexes.get(ifindex) != endpoint_id:
                self._maps.endpoint_by_ifindex.delete(ifindex)
        for address, endpoint_id in list(self._maps.endpoint_by_address.items()):
            if owners.get(address) != endpoint_id:
                self._maps.endpoint_by_address.delete(address)
        for endpoint_id, _ in list(self._maps.endpoints.items()):
            if endpoint_id not in staged.rows:
                self._maps.endpoints.delete(endpoint_id)

    def _require_staged(self) -> _Staged:
        assert self._staged is not None, "stage comes first"  # noqa: S101 - a bug, not an input
        return self._staged

    # -- looking --------------------------------------------------------------------------------------------------

    def labels_of(self, identity: int) -> tuple[str, ...]:
        """The labels behind a number, learnt ones included."""
        labels = self._identities.get(IdentityId(identity))
        if labels is not None:
            return tuple(sorted(labels))
        row = self._maps.fqdn_identities.get(identity) if is_fqdn_identity(identity) else None
        if row is None:
            return ()
        learnt = (self._selector_labels.get(selector, "") for selector in row.selectors)
        return tuple(sorted({*self.labels_of(row.base_identity), *learnt} - {""}))

    def identities(self) -> list[int]:
        """Every number in use."""
        return sorted({*self._identities, *(identity for identity, _ in self._maps.fqdn_identities.items())})

    def policy_of(self, endpoint_id: int) -> int:
        """The policy id in force for an endpoint, 0 if it has none."""
        row = self._maps.endpoints.get(endpoint_id)
        return 0 if row is None else row.policy_id

    def policy_entries(self) -> Iterator[tuple[PolicyKey, PolicyEntry]]:
        """The verdict entries as the kernel holds them."""
        return iter(sorted(self._maps.policy.items(), key=lambda row: dataclasses.astuple(row[0])))

    def ipcache(self) -> list[tuple[str, IpcacheEntry]]:
        """The prefixes as the kernel holds them."""
        return sorted(self._maps.ipcache.items(), key=lambda item: item[0])

    def flows(self) -> Iterator[tuple[ConntrackKey, ConntrackEntry]]:
        """The flows that the kernel remembers, as they are read: some twice or not at all."""
        return self._maps.conntrack.items()

    def counters(self) -> dict[int, Metric]:
        """Packets and bytes by reason number, forwarded ones under 0."""
        return dict(self._maps.metrics.items())

    def events_lost(self) -> int:
        """Drops that the datapath had no room or leave to tell of."""
        return self._maps.metrics.get(METRIC_EVENTS_LOST).packets

    def passed_lost(self) -> int:
        """Verdicts and traces that somebody listened for, and the datapath had no room or leave to tell of."""
        return self._maps.metrics.get(METRIC_PASSED_LOST).packets

    def observe(self, what: int, until_ns: int) -> None:
        """Has the datapath tell of what passes (EVENT_VERDICT, EVENT_TRACE), until CLOCK_MONOTONIC says so."""
        self._maps.config.observe(what, until_ns)

    def identity_of(self, address: str) -> int:
        """Whose the address is, as the datapath sees it; 0 for no address."""
        if not address:
            return 0
        row = self._maps.ipcache.get(address)
        return WORLD if row is None else row.identity

    def fills(self) -> list[tuple[str, int, int]]:
        """Name, entries and capacity of each table that can fill up. Reads them all: not for the loop."""
        tables = self._maps
        fills = [
            (table.name, len(table), table.capacity)
            for table in (
                tables.endpoints,
                tables.endpoint_by_address,
                tables.ipcache,
                tables.policy,
                tables.conntrack,
                tables.fragments,
                tables.host_flows,
                tables.fqdn_identities,
            )
        ]
        for name, entries, _ in fills:
            if name in EVICTING:
                self.evictions.count(name, entries)
        return fills
