# SPDX-License-Identifier: Apache-2.0
"""From policies and workloads to all that the kernel and the proxies should hold. Pure but for identity numbers."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from l7agent.endpoints import Endpoint
from l7agent.identities import RESERVED, Identities
from l7policy import ids, resolve
from l7policy.ids import EndpointId, IdentityId
from l7policy.model import EndpointPolicy, FqdnPeer, Labels, Origin
from l7policy.policydoc import Policy


@dataclass(frozen=True, slots=True)
class Compiled:
    """What should be in force."""

    policies: tuple[Policy, ...]
    endpoint_policies: dict[EndpointId, EndpointPolicy]
    endpoint_identities: dict[EndpointId, IdentityId]
    identities: dict[IdentityId, Labels]
    prefixes: dict[str, IdentityId]
    """Canonical prefix to identity: policy CIDRs, workloads, the node's own addresses."""
    selectors: tuple[FqdnPeer, ...]
    origins: dict[int, Origin]
    """Cookie to rule, for kernel events."""


def host_prefix(address: str) -> str:
    """The prefix that holds just this address."""
    parsed = ipaddress.ip_address(address)
    return f"{parsed}/{parsed.max_prefixlen}"


def compile_all(
    policies: tuple[Policy, ...],
    endpoints: Iterable[Endpoint],
    node_addresses: Iterable[str],
    identities: Identities,
) -> Compiled:
    """Resolves every policy against every workload. Raises IdentitiesExhausted."""
    by_labels: dict[Labels, EndpointPolicy] = {}
    endpoint_policies: dict[EndpointId, EndpointPolicy] = {}
    endpoint_identities: dict[EndpointId, IdentityId] = {}
    numbered: dict[IdentityId, Labels] = dict(RESERVED)
    prefixes: dict[str, IdentityId] = {}

    for network, labels in resolve.prefix_identity_labels(resolve.cidrs(policies)).items():
        identity = identities.cidr(labels)
        numbered[identity] = labels
        prefixes[network] = identity
    # What is on this node is known by its labels, whatever CIDR it lies in (field: identity wins over IP).
    for address in node_addresses:
        prefixes[host_prefix(address)] = ids.HOST
    for endpoint in endpoints:
        labels = endpoint.labels
        identity = identities.workload(labels)
        numbered[identity] = labels
        endpoint_identities[endpoint.id] = identity
        if labels not in by_labels:
            by_labels[labels] = resolve.endpoint_policy(policies, labels)
        endpoint_policies[endpoint.id] = by_labels[labels]
        if endpoint.attachment is not None:
            for address in endpoint.attachment.addresses:
                prefixes[host_prefix(address)] = identity
    return Compiled(
        policies=policies,
        endpoint_policies=endpoint_policies,
        endpoint_identities=endpoint_identities,
        identities=numbered,
        prefixes=prefixes,
        selectors=resolve.selectors(policies),
        origins={rule.origin.cookie: rule.origin for policy in by_labels.values() for rule in policy.rules},
    )
