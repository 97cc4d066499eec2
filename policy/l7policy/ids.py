# SPDX-License-Identifier: Apache-2.0
"""Numbers that name things, each of its own type so that one is never passed for another.

Reserved identities carry Cilium's numbers (pkg/identity/numericidentity.go), so that dashboards and habits carry over.
"""

from typing import Final, NewType

IdentityId = NewType("IdentityId", int)
"""Names a set of labels, a CIDR, or a set of FQDN selectors. What policy is keyed by, never the IP."""

PolicyId = NewType("PolicyId", int)
"""Names the compiled verdicts shared by every endpoint with the same rules."""

EndpointId = NewType("EndpointId", int)
"""Names one workload of this node."""

Revision = NewType("Revision", int)
"""Monotonic number of the whole compiled rule set."""

Cookie = NewType("Cookie", int)
"""64-bit name of one rule, stored in each kernel entry that the rule caused. See `l7policy.model.Origin.cookie`."""

ANY_IDENTITY: Final = IdentityId(0)
HOST: Final = IdentityId(1)
WORLD: Final = IdentityId(2)
UNMANAGED: Final = IdentityId(3)
HEALTH: Final = IdentityId(4)
INIT: Final = IdentityId(5)
REMOTE_NODE: Final = IdentityId(6)
KUBE_APISERVER: Final = IdentityId(7)
INGRESS: Final = IdentityId(8)

HOST_ENDPOINT: Final = EndpointId(0xFFFF)
"""The node itself, which is an endpoint while some policy selects nodes."""

FIRST_CLUSTER_IDENTITY: Final = 256
"""Label sets of workloads, and of other nodes, are numbered from here to 65535."""

FIRST_LOCAL_IDENTITY: Final = 1 << 24
"""CIDR identities of this node are numbered from here; the agent allocates them."""

FIRST_FQDN_IDENTITY: Final = (1 << 24) | (1 << 23)
"""FQDN identities of this node are numbered from here; the DNS process allocates them."""


def is_fqdn_identity(identity: int) -> bool:
    """Whether the DNS process, and not the agent, owns this identity's kernel entries."""
    return identity >= FIRST_FQDN_IDENTITY
