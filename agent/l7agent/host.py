# SPDX-License-Identifier: Apache-2.0
"""The node itself as an endpoint: what host policies (``nodeSelector``) are enforced on.

It is one for as long as some policy selects nodes. Then its row and its addresses are in the tables of endpoints like a
workload's, and the programs judge both ends of what passes between it and workloads, and at the uplinks what it
exchanges with other machines. May not attach anything: the programs are there anyway.
"""

import ipaddress
from collections.abc import Iterable

from l7agent.endpoints import Declared, Endpoint
from l7agent.workload import Attachment
from l7policy.ids import HOST_ENDPOINT
from l7policy.model import Labels
from l7policy.policydoc import Policy, SubjectKind

NAME = "host"


def selected(policies: Iterable[Policy]) -> bool:
    """Whether some policy is about nodes."""
    return any(policy.subject_kind == SubjectKind.NODE for policy in policies)


def endpoint(labels: Labels, audit: bool | None, addresses: Iterable[str]) -> Endpoint:
    """The node with these labels. Of `addresses` only whole ones count: others are prefixes that are delivered here."""
    own = tuple(address for address in addresses if "/" not in address and not _is_scoped(address))
    return Endpoint(HOST_ENDPOINT, Declared(NAME, "", tuple(sorted(labels)), audit=audit), Attachment("", 0, own, 0))


def _is_scoped(address: str) -> bool:
    """Of one link only: many interfaces share it."""
    parsed = ipaddress.ip_address(address)
    return parsed.is_link_local or parsed.is_loopback
