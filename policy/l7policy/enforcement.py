# SPDX-License-Identifier: Apache-2.0
"""What the proxies ask: may this request, or this question, pass between these two addresses?

Every process of the data plane holds an `Enforcement` with the snapshots the agent gave it, and resolves flows through
the kernel's own tables, so that the proxy and the datapath judge by the same endpoint, identity and policy. A flow
resolves itself anew when the kernel's revision has changed: a reload reaches kept-alive connections at the next
request. The revision must therefore change *after* the tables it stands for.

A flow between two workloads of this node is judged twice: by the egress policy of its source and by the ingress policy
of its destination. Both must let it pass.

This module may not do I/O other than through `Tables`. Its failure verdict is deny: a policy or an identity that no
snapshot knows (yet) and an endpoint that is gone refuse with POLICY_CHANGED.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from l7policy.flowpolicy import FlowPolicy, L7Decision, Resolution, Side, Stage, closed
from l7policy.headers import Secrets, no_secrets
from l7policy.http import HttpRules, http_rules
from l7policy.ids import HOST_ENDPOINT, EndpointId, IdentityId, PolicyId, Revision, is_fqdn_identity
from l7policy.judgement import Judgement, judge
from l7policy.model import EndpointPolicy, Labels, Snapshot
from l7policy.names import NameSet, hash64, name_set
from l7policy.pinning import pins
from l7policy.sni import ServerNames, server_names
from l7policy.trust import scope, scoped, selectors
from l7policy.verdict import Direction, ProxyKind, Reason

__all__ = ["ENFORCE", "EndpointRow", "Enforcement", "FlowPolicy", "L7Decision", "Side", "Tables"]

ENFORCE: Final = {Direction.EGRESS: 1, Direction.INGRESS: 2}
"""Bit of an endpoint's flags that tells the kernel to judge its packets in a direction."""

_CACHED_RULINGS: Final = 8192
_RULES_NAMED: Final = 3


class EndpointRow(NamedTuple):
    """A workload of this node, as the kernel knows it."""

    id: EndpointId
    policy_id: PolicyId
    identity: IdentityId
    flags: int


class Tables(Protocol):
    """The kernel's tables. Addresses are text, as `ipaddress` writes them."""

    def revision(self) -> int:
        """The revision in force. Asked for every request, so it must cost next to nothing."""

    def endpoint(self, address: str) -> EndpointRow | None:
        """The workload of this node that owns the address."""

    def process(self, client: str, client_port: int, destination: str, port: int, protocol: int) -> EndpointRow | None:
        """The workload whose process began a flow from an address of the node itself, which many share."""

    def identity(self, address: str, established: bool) -> int:
        """The identity of an address, for new flows or for those that have begun already; WORLD if nothing is known."""

    def fqdn_labels(self, identity: int) -> tuple[int, Sequence[int]] | None:
        """Of an FQDN identity: the identity its addresses have besides their names, and hashes of its selectors."""


@dataclass(frozen=True, slots=True)
class _Ruling:
    """A judgement with its rules compiled, shared by all flows that come to it."""

    judgement: Judgement
    http: HttpRules | None
    names: NameSet | None
    server_names: ServerNames | None
    pins: NameSet | None
    rule: str
    policies: tuple[str, ...]
    stages: dict[EndpointId, Stage] = field(default_factory=dict)
    """As each workload's flows pass it: made once, because a client that never keeps a connection asks every time."""


class _View:
    """A snapshot, indexed."""

    __slots__ = ("labels", "policies", "revision", "scopes", "secrets", "selectors")

    def __init__(self, snapshot: Snapshot, secrets: Secrets) -> None:
        self.secrets = secrets
        self.revision = snapshot.revision
        self.policies: dict[PolicyId, EndpointPolicy] = snapshot.policies
        self.labels: dict[int, Labels] = {number: frozenset(texts) for number, texts in snapshot.identities.items()}
        self.selectors = {hash64(peer.label): (peer.label, "") for peer in snapshot.selectors}
        """What selectors are called in the kernel, their labels, and the scope they count for; empty for any."""
        self.scopes: dict[PolicyId, str] = {}
        for policy_id, policy in self.policies.items():
            used = selectors(policy)
            if used:
                self.scopes[policy_id] = name = scope(policy).name
                self.selectors.update((hash64(scoped(label, name)), (label, name)) for label in used)
        # Compiled now, so that an expression RE2 refuses fails the reload and not a request.
        for policy in self.policies.values():
            for rule in policy.rules:
                if rule.http is not None:
                    http_rules(rule.http)


class Enforcement:
    """The snapshots of one process: the one in force, the one before it, and the one being prepared."""

    def __init__(self, tables: Tables, *, pin_names: bool = False) -> None:
        """`pin_names`: Host must be a name by which the destination was allowed (`l7policy.pinning`)."""
        self.tables = tables
        self._pin_names = pin_names
        self._prepared: _View | None = None
        self._active: _View | None = None
        self._previous: _View | None = None
        self._rulings: OrderedDict[tuple[PolicyId, Direction, Labels, int, int], _Ruling] = OrderedDict()

    @property
    def revision(self) -> Revision:
        """The revision that was committed last, 0 before the first."""
        return Revision(0) if self._active is None else self._active.revision

    def prepare(self, snapshot: Snapshot, secrets: Secrets = no_secrets) -> None:
        """Makes the snapshot's policies known beside those in force. Raises `http.PatternError`, with nothing changed.

        `secrets` gives what the rules of this snapshot refer to, and must not change as long as it is known.

        From here flows of its policies can be judged, because the agent moves endpoints to them one by one.
        """
        self._prepared = _View(snapshot, secrets)

    def commit(self, revision: int) -> bool:
        """The prepared snapshot is in force. False if it is not `revision`: ask the agent for it again.

        The snapshot before it stays known until the next commit, for flows resolved while endpoints were moved.
        """
        if self._prepared is None or self._prepared.revision != revision:
            return self._active is not None and self._active.revision == revision
        self._previous, self._active, self._prepared = self._active, self._prepared, None
        self._rulings.clear()
        return True

    def abort(self, revision: int) -> None:
        """Forgets the prepared snapshot, if it is this one."""
        if self._prepared is not None and self._prepared.revision == revision:
            self._prepared = None
            self._rulings.clear()

    def flow(self, client: str, destination: str, protocol: int, port: int, client_port: int = 0) -> FlowPolicy | None:
        """The policy between two addresses, None if neither is a workload of this node.

        With the client's port also the flows of the node's own processes are known; such a policy is `shared`.
        """
        resolution = self._resolve(client, destination, protocol, port, client_port)
        return None if resolution is None else FlowPolicy(self, resolution, protocol, port)

    def http_required(self, flow: FlowPolicy) -> bool:
        """Whether what flows must be HTTP."""
        return flow.http_required()

    def labels_of(self, identity: int) -> Labels | None:
        """Labels of an identity, None if no snapshot or table knows it."""
        return self._labels(identity, None)

    def revision_in_force(self) -> int:
        """The kernel's revision, which flows compare with their own."""
        return self.tables.revision()

    def renew(self, old: Resolution, protocol: int, port: int) -> Resolution:
        """`old` under the revision in force now."""
        ends = old.source.address, old.destination.address
        new = self._resolve(*ends, protocol, port, old.client_port, established=True)
        if new is None or (new.source.endpoint, new.destination.endpoint) != (
            old.source.endpoint,
            old.destination.endpoint,
        ):
            # A workload went, or another one has its address now: the connection was not made under that one's policy.
            direction = Direction.EGRESS if old.source.endpoint else Direction.INGRESS
            gone = closed(direction, old.source.endpoint or old.destination.endpoint)
            return Resolution(self.tables.revision(), False, old.source, old.destination, (gone,), old.client_port)
        return new

    def _resolve(
        self, client: str, destination: str, protocol: int, port: int, client_port: int, *, established: bool = False
    ) -> Resolution | None:
        # Read first: a reload in between is then noticed at the next request, and never missed.
        revision = self.tables.revision()
        client_row, destination_row = self.tables.endpoint(client), self.tables.endpoint(destination)
        if client_row is not None and client_row.id != HOST_ENDPOINT:
            client_port = 0
        elif client_port and (process := self.tables.process(client, client_port, destination, port, protocol)):
            client_row = process
        if client_row is None and destination_row is None:
            return None
        ends = (
            self._side(client, client_row, established),
            self._side(destination, destination_row, established),
        )
        stages: list[Stage] = []
        settled = True
        for direction, row, remote in (
            (Direction.EGRESS, client_row, ends[1]),
            (Direction.INGRESS, destination_row, ends[0]),
        ):
            if row is None:
                continue
            stage, known = self._stage(direction, row, remote.identity, protocol, port)
            settled = settled and known
            if stage is not None:
                stages.append(stage)
        return Resolution(revision, settled, *ends, tuple(stages), client_port)

    def _side(self, address: str, row: EndpointRow | None, established: bool) -> Side:
        if row is not None:
            return Side(address, row.id, row.identity, row.policy_id, self._labels(row.identity, None) or frozenset())
        identity = self.tables.identity(address, established)
        return Side(address, 0, identity, 0, self._labels(identity, None) or frozenset())

    def _stage(
        self, direction: Direction, row: EndpointRow, remote: int, protocol: int, port: int
    ) -> tuple[Stage | None, bool]:
        """What the endpoint's policy says, None if it has no say; and whether all that it takes is known."""
        view = next((view for view in self._views() if row.policy_id in view.policies), None)
        if view is None:
            if not row.flags & ENFORCE[direction]:
                return None, False
            return closed(direction, row.id), False
        policy = view.policies[row.policy_id]
        if not policy.enforces(direction):
            return None, True
        labels = self._labels(remote, view, row.policy_id)
        if labels is None:
            # Not audited either: what the endpoint's policy would say of a stranger is not known.
            return closed(direction, row.id, policy.selected_by), False
        ruling = self._ruling(view, row.policy_id, direction, labels, protocol, port)
        stage = ruling.stages.get(row.id)
        if stage is None:
            stage = ruling.stages[row.id] = _stage_of(ruling, direction, row.id)
        return stage, True

    def _ruling(
        self, view: _View, policy_id: PolicyId, direction: Direction, labels: Labels, protocol: int, port: int
    ) -> _Ruling:
        # By labels and not by identity: numbers are given again to other labels once nothing uses them.
        key = (policy_id, direction, labels, protocol, port)
        ruling = self._rulings.get(key)
        if ruling is None:
            policy = view.policies[policy_id]
            judgement = judge(policy, direction, labels, protocol, port)
            ruling = _Ruling(
                judgement,
                None if judgement.http is None else http_rules(judgement.http, view.secrets),
                None if judgement.dns is None else name_set(judgement.dns),
                None if judgement.server_names is None else server_names(judgement.server_names),
                pins(policy, judgement, direction, labels, protocol, port) if self._pin_names else None,
                ", ".join(str(origin) for origin in judgement.origins[:_RULES_NAMED]),
                policy.selected_by,
            )
            self._rulings[key] = ruling
            if len(self._rulings) > _CACHED_RULINGS:
                self._rulings.popitem(last=False)
        else:
            self._rulings.move_to_end(key)
        return ruling

    def _views(self) -> Iterable[_View]:
        """The snapshot in force first: what it does not know, the next or the one before may."""
        return (view for view in (self._active, self._prepared, self._previous) if view is not None)

    def _labels(self, identity: int, view: _View | None, policy_id: PolicyId | None = None) -> Labels | None:
        """Labels of an identity, first as `view` knows it; of its names only those that count for the policy."""
        views = [view] if view is not None else []
        views.extend(other for other in self._views() if other is not view)
        names: Sequence[int] = ()
        base = identity
        if is_fqdn_identity(identity):
            row = self.tables.fqdn_labels(identity)
            if row is None:
                return None
            base, names = row
        for known in views:
            labels = known.labels.get(base)
            if labels is not None:
                if not names:
                    return labels
                # A selector that a snapshot does not hold is in none of its rules either.
                known_names = [views[0].selectors[name] for name in names if name in views[0].selectors]
                counting = {"", views[0].scopes.get(policy_id, "")} if policy_id is not None else None
                return labels.union(label for label, of in known_names if counting is None or of in counting)
        return None


def _stage_of(ruling: _Ruling, direction: Direction, endpoint: int) -> Stage:
    judgement = ruling.judgement
    match judgement.proxy:
        case ProxyKind.HTTP:
            reason = Reason.HTTP_DENIED
        case ProxyKind.DNS:
            reason = Reason.DNS_DENIED
        case ProxyKind.TLS:
            reason = Reason.SNI_DENIED
        case _:
            reason = judgement.reason
    return Stage(
        judgement.verdict,
        ruling.http,
        ruling.names,
        L7Decision(True, Reason.NONE, ruling.rule, ruling.policies, direction, endpoint),
        L7Decision(judgement.audit, reason, ruling.rule, ruling.policies, direction, endpoint, audited=judgement.audit),
        ruling.server_names,
        ruling.pins,
    )
