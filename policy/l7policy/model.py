# SPDX-License-Identifier: Apache-2.0
"""The policy model: what the YAML dialects are compiled to, and all that the engine and the proxies know of a rule.

Immutable values, shared by every process: the agent compiles them, sends them in a `Snapshot`, and each process judges
with the same pure functions (`l7policy.judgement`). Nothing here knows which dialect a rule was written in.
"""

import hashlib
from enum import IntEnum, StrEnum

import msgspec

from l7policy.ids import Cookie, IdentityId, PolicyId, Revision
from l7policy.verdict import Direction, Protocol

Labels = frozenset[str]
"""Labels of an identity, each ``source:key=value`` or ``source:key``: ``k8s:app=web``, ``reserved:world``,
``cidr:192.0.2.0/24``, ``fqdn:*.example.com``."""


class Frozen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Base of the model's values: immutable, hashable, compact on the wire.

    Not for the garbage collector: an immutable value cannot come to refer to itself, and of large rule sets there are
    hundreds of thousands.
    """


class Origin(Frozen, frozen=True):
    """Where a rule was written, for audit records and error messages."""

    policy: str
    """``namespace/name``, or ``name`` for a clusterwide policy."""
    rule: str
    """Path inside the document: ``egress[0].toPorts[1]``."""
    file: str = ""
    line: int = 0
    column: int = 0

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


class NodePeer(Frozen, frozen=True, tag="node"):
    """Nodes (``reserved:host`` or ``reserved:remote-node``) whose labels meet every requirement; {}: every node."""

    requirements: tuple[Requirement, ...] = ()


class WorkloadPeer(Frozen, frozen=True, tag="workload"):
    """The one identity with exactly these labels, sorted. No document says this: `l7policy.namedports` makes it where a
    port's name means another number for each destination."""

    labels: tuple[str, ...]


Peer = LabelPeer | CidrPeer | EntityPeer | FqdnPeer | NodePeer | WorkloadPeer


class Port(Frozen, frozen=True):
    """An inclusive range of ports of one protocol. Protocol ANY is TCP, UDP and SCTP; 0-65535 is every port.

    For ICMP and ICMPv6 `first` and `last` are message types.

    With a `name` the numbers mean nothing: it is the port that the destination gives this name, for each protocol on
    its own. `l7policy.resolve` puts numbers in its place; a name that is left covers nothing.
    """

    protocol: Protocol = Protocol.ANY
    first: int = 0
    last: int = 65535
    name: str = ""


class NamedPort(Frozen, frozen=True):
    """A workload's word for one of its ports (``ports`` of a container)."""

    name: str
    protocol: Protocol
    port: int


class Secret(Frozen, frozen=True):
    """Where a value is kept that no policy text holds. Only a reference: nothing here ever carries the value."""

    namespace: str
    name: str


class Mismatch(StrEnum):
    """What becomes of a request whose header is not as it should be (Cilium's headerMatches)."""

    FAIL = ""
    """The rule does not match."""
    LOG = "LOG"
    """The rule matches; the header is recorded as missing."""
    ADD = "ADD"
    """The rule matches, and the header is added to the request."""
    DELETE = "DELETE"
    """The rule matches, and the header is taken out of the request if it is there."""
    REPLACE = "REPLACE"
    """The rule matches, and the header is set to the value."""


class HeaderMatch(Frozen, frozen=True):
    """A header that must be present (neither `value` nor `secret`) or have exactly this value.

    Names are compared without case. With a `secret` its content is the value, and `value` stands in where there is no
    such secret; with neither of them the rule never matches.
    """

    name: str
    value: str | None = None
    secret: Secret | None = None
    mismatch: Mismatch = Mismatch.FAIL


class HttpRule(Frozen, frozen=True):
    """Every field given must match; an empty rule matches every request (Cilium pkg/policy/api/http.go).

    `method`, `path` and `host` are RE2 expressions that must match in full; `path` includes the query.
    """

    method: str = ""
    path: str = ""
    host: str = ""
    headers: tuple[HeaderMatch, ...] = ()


class Action(StrEnum):
    """What a rule does to what it covers."""

    ALLOW = "allow"
    DENY = "deny"
    PASS = "pass"  # noqa: S105  not a password
    """Leave it to the next tier, whatever weaker rules of this tier say."""


class Tier(IntEnum):
    """Rules of a lower tier have a say only where no rule of a higher one decided."""

    ADMIN = 0
    """AdminNetworkPolicy, ClusterNetworkPolicy of tier Admin."""
    NORMAL = 1
    """Cilium's policies and NetworkPolicy. Default deny belongs to it, so what it denies no baseline can allow."""
    BASELINE = 2
    """BaselineAdminNetworkPolicy, ClusterNetworkPolicy of tier Baseline."""
    REST = 3
    """What the three leave open (`resolve.ALLOW_ALL`): a pass of the baseline tier comes to this."""


LAST_PRIORITY = (1 << 22) - 1
"""The weakest priority of a tier: two bits of the kernel's 24 are the tier."""
PRIORITY_STEP = 1000
"""Between two priorities as people write them, so that the rules of one policy can be told apart by their order."""


class Rule(Frozen, frozen=True):
    """One compiled rule: these peers, on these ports, with these L7 limits."""

    direction: Direction
    origin: Origin
    peers: tuple[Peer, ...] | None = None
    """None: any peer, known or not. Empty: nobody."""
    ports: tuple[Port, ...] = ()
    """Empty: every port of every protocol."""
    action: Action = Action.ALLOW
    http: tuple[HttpRule, ...] | None = None
    """None: no HTTP limit. Otherwise a request must match one of these."""
    dns: tuple[FqdnPeer, ...] | None = None
    """None: no DNS limit. Otherwise a queried name must match one of these."""
    server_names: tuple[str, ...] | None = None
    """None: no TLS limit. Otherwise the flow must be TLS with a server name (SNI) that one of these patterns matches,
    in the dialect of `l7policy.sni`. At most one of `http`, `dns` and `server_names` is set, and only on an allow."""
    tier: Tier = Tier.NORMAL
    priority: int = 0
    """Within the tier: 0 is the strongest, `LAST_PRIORITY` the weakest. Rules of equal tier and priority are judged
    together (deny, then redirect, then allow, then pass); weaker ones only where none of those covers the flow."""
    log: str = ""
    """Free text of the policy's author for the records of flows that the rule decided (``log.value``)."""

    @property
    def deny(self) -> bool:
        """Whether it denies what it covers."""
        return self.action == Action.DENY

    @property
    def inspects(self) -> bool:
        """Whether it limits what flows, and not only between whom."""
        return self.http is not None or self.dns is not None or self.server_names is not None

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
    audit: bool = False
    """What is denied, at any layer, passes all the same and is recorded as AUDIT."""

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
