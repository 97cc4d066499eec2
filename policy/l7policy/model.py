# SPDX-License-Identifier: Apache-2.0
"""The policy model: what the YAML dialects are compiled to, and all that the engine and the proxies know of a rule.

Immutable values, shared by every process: the agent compiles them, sends them in a `Snapshot`, and each process judges
with the same pure functions (`l7policy.judgement`). Nothing here knows which dialect a rule was written in.
"""

import hashlib
from enum import StrEnum

import msgspec

from l7policy.ids import Cookie, IdentityId, PolicyId, Revision
from l7policy.verdict import Direction, Protocol

Labels = frozenset[str]
"""Labels of an identity, each ``source:key=value`` or ``source:key``: ``k8s:app=web``, ``reserved:world``,
``cidr:192.0.2.0/24``, ``fqdn:*.example.com``."""


class Frozen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of the model's values: immutable, hashable, compact on the wire."""


class Origin(Frozen, frozen=True):
    """Where a rule was written, for audit records and error messages."""

    policy: str
    """``namespace/name``, or ``name`` for a clusterwide policy."""
    rule: str
    """Path inside the document: ``egress[0].toPorts[1]``."""
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.policy} {self.rule}"

    @property
    def cookie(self) -> Cookie:
        """The rule's name in the kernel: the same in every process and across restarts, with no allocation."""
        return Cookie(int.from_bytes(hashlib.blake2b(str(self).encode(), digest_size=8).digest(), "little"))


class Operator(StrEnum):
    """Of a matchExpressions element (Kubernetes LabelSelectorRequirement)."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class Requirement(Frozen, frozen=True):
    """One condition on the labels. `key` is ``source:key``; the source ``any`` matches every source."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()


class LabelPeer(Frozen, frozen=True, tag="labels"):
    """Identities whose labels meet every requirement. No requirement: every identity that is a workload's."""

    requirements: tuple[Requirement, ...] = ()


class CidrPeer(Frozen, frozen=True, tag="cidr"):
    """Addresses outside the cluster within `cidr` but in none of `excepts`. Canonical prefixes, ``192.0.2.0/24``."""

    cidr: str
    excepts: tuple[str, ...] = ()


class EntityPeer(Frozen, frozen=True, tag="entity"):
    """A group known by name: ``world``, ``host``, ``cluster``, ``all``…"""

    entity: str


class FqdnPeer(Frozen, frozen=True, tag="fqdn"):
    """Addresses learnt for names. Exactly one of the two is set, canonical: lower case with a trailing dot."""

    match_name: str = ""
    match_pattern: str = ""

    @property
    def label(self) -> str:
        """The label an identity carries when this selector matches one of its names. Shown without the trailing dot."""
        text = self.match_name or self.match_pattern
        return "fqdn:" + (text.rstrip(".") or ".")


Peer = LabelPeer | CidrPeer | EntityPeer | FqdnPeer


class Port(Frozen, frozen=True):
    """An inclusive range of ports of one protocol. Protocol ANY is TCP, UDP and SCTP; 0-65535 is every port.

    For ICMP and ICMPv6 `first` and `last` are message types.
    """

    protocol: Protocol = Protocol.ANY
    first: int = 0
    last: int = 65535


class HeaderMatch(Frozen, frozen=True):
    """A header that must be present (`value` None) or have exactly this value. Names are compared without case."""

    name: str
    value: str | None = None


class HttpRule(Frozen, frozen=True):
    """Every field given must match; an empty rule matches every request (Cilium pkg/policy/api/http.go).

    `method`, `path` and `host` are RE2 expressions that must match in full; `path` includes the query.
    """

    method: str = ""
    path: str = ""
    host: str = ""
    headers: tuple[HeaderMatch, ...] = ()


class Rule(Frozen, frozen=True):
    """One compiled rule: these peers, on these ports, with these L7 limits."""

    direction: Direction
    origin: Origin
    peers: tuple[Peer, ...] | None = None
    """None: any peer, known or not. Empty: nobody."""
    ports: tuple[Port, ...] = ()
    """Empty: every port of every protocol."""
    deny: bool = False
    http: tuple[HttpRule, ...] | None = None
    """None: no HTTP limit. Otherwise a request must match one of these."""
    dns: tuple[FqdnPeer, ...] | None = None
    """None: no DNS limit. Otherwise a queried name must match one of these."""

    def unplaced(self) -> "Rule":
        """The rule without the file and line it was written in."""
        return msgspec.structs.replace(self, origin=Origin(self.origin.policy, self.origin.rule))


class EndpointPolicy(Frozen, frozen=True):
    """All that applies to one endpoint; endpoints with equal values share one PolicyId."""

    rules: tuple[Rule, ...] = ()
    enforce_egress: bool = False
    enforce_ingress: bool = False
    selected_by: tuple[str, ...] = ()
    """Names of the policies that selected the endpoint: what an audit record gives for a default deny."""

    def enforces(self, direction: Direction) -> bool:
        """Whether what no rule allows is denied in this direction."""
        return self.enforce_egress if direction == Direction.EGRESS else self.enforce_ingress

    @property
    def digest(self) -> bytes:
        """Equal for equal policies, in every process; a rule that only moved in its file changes nothing."""
        meaning = msgspec.structs.replace(self, rules=tuple(rule.unplaced() for rule in self.rules))
        return hashlib.blake2b(msgspec.msgpack.encode(meaning), digest_size=16).digest()


class Snapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One revision of the compiled rule set, as the agent gives it to the data-plane processes."""

    revision: Revision
    policies: dict[PolicyId, EndpointPolicy]
    identities: dict[IdentityId, tuple[str, ...]]
    """Sorted labels of each identity the agent allocated (workloads, CIDRs, reserved)."""
    prefixes: dict[str, IdentityId]
    """What the agent wrote to the ipcache: canonical prefix to identity. The DNS process needs it to know which
    identity an address has besides its names, and which addresses (workloads, the node) must never be learnt."""
    selectors: tuple[FqdnPeer, ...]
    """Every toFQDNs selector of any policy."""
