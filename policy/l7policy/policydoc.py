# SPDX-License-Identifier: Apache-2.0
"""Source and Policy: a file as it was read, and one policy of it as the rest of l7gate knows it.

Apart from `l7policy.documents`, which makes them, so that whoever only uses policies need not import the YAML readers.
"""

import hashlib
from enum import StrEnum

import msgspec

from l7policy.model import Frozen, Requirement, Rule
from l7policy.verdict import Direction


class Source(Frozen, frozen=True):
    """A policy file that someone else has read."""

    path: str
    text: str


class SubjectKind(StrEnum):
    """What a policy selects."""

    ENDPOINT = "endpoint"
    NODE = "node"
    """The node itself (``nodeSelector``): a host policy."""


class Policy(Frozen, frozen=True):
    """Whom it selects, what it allows and denies, and where it was written. Its dialect shows in `kind` only."""

    name: str
    """What people and records call it, unique among the documents loaded: ``shop/frontend`` for a
    CiliumNetworkPolicy, ``baseline`` for a clusterwide one, and ``networkpolicy:shop/frontend`` for a Kubernetes one,
    because both kinds may use the same name. The same text as `Origin.policy` of its rules."""
    namespace: str
    """Empty for a clusterwide policy."""
    kind: str
    """``CiliumNetworkPolicy``, ``NetworkPolicy``…: see `envelope.API_VERSIONS`."""
    subject: tuple[Requirement, ...]
    """Selects endpoints whose labels meet all of these; the namespace is already among them."""
    rules: tuple[Rule, ...] = ()
    default_deny_egress: bool = False
    default_deny_ingress: bool = False
    part: str = ""
    """``specs[1]`` when the document has several; such parts share `name` and differ in subject and rules."""
    description: str = ""
    file: str = ""
    line: int = 0
    column: int = 0
    subject_kind: SubjectKind = SubjectKind.ENDPOINT

    def default_deny(self, direction: Direction) -> bool:
        """Whether what no rule allows is denied in this direction for the endpoints selected."""
        return self.default_deny_egress if direction == Direction.EGRESS else self.default_deny_ingress

    @property
    def digest(self) -> str:
        """Hash of what it means: the same after it moved in its file or to another file, or got other comments."""
        rules = tuple(rule.unplaced() for rule in self.rules)
        meaning = msgspec.structs.replace(self, rules=rules, description="", file="", line=0, column=0)
        return hashlib.blake2b(msgspec.msgpack.encode(meaning), digest_size=16).hexdigest()
