# SPDX-License-Identifier: Apache-2.0
"""A cluster to measure the policy engine on: so many policies and identities, and a node with a hundred pods of it.

Everything follows from the two numbers, without chance, so that two runs measure the same. A namespace has ten
policies; an identity has the seven labels that Cilium gives a pod of a Deployment. Policies name pods of their own
namespace, teams across namespaces, prefixes, names, ports and HTTP requests.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from l7policy.ids import HOST, WORLD, EndpointId, IdentityId
from l7policy.model import Labels
from l7policy.policydoc import Source

PODS_OF_THE_NODE = 100
POLICIES_PER_NAMESPACE = 10
APPS_PER_NAMESPACE = 10
TEAMS = 20
PER_FILE = 100

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: p{number}, namespace: ns{namespace}}}
spec:
  endpointSelector: {{matchLabels: {{app: app{app}}}}}
  ingress:
  - fromEndpoints:
    - matchLabels: {{app: app{other}}}
    - matchLabels: {{app: app{third}, tier: web}}
    toPorts:
    - ports: [{{port: "{port}", protocol: TCP}}]
      rules:
        http:
        - {{method: GET, path: "/v1/items/[0-9]+"}}
        - {{method: POST, path: "/v1/orders"}}
  - fromEndpoints:
    - matchLabels: {{io.cilium.k8s.namespace.labels.team: team{team}, app: app{app}}}
    toPorts:
    - ports: [{{port: "9000", endPort: 9099, protocol: TCP}}]
  egress:
  - toEndpoints:
    - matchLabels: {{io.kubernetes.pod.namespace: kube-system, k8s-app: kube-dns}}
    toPorts:
    - ports: [{{port: "53", protocol: ANY}}]
      rules: {{dns: [{{matchPattern: "*.svc{namespace}.example.com"}}]}}
  - toFQDNs: [{{matchPattern: "*.svc{namespace}.example.com"}}]
    toPorts:
    - ports: [{{port: "443", protocol: TCP}}]
  - toCIDR: ["2001:db8:{namespace:x}::/48"]
    toPorts:
    - ports: [{{port: "5432", protocol: TCP}}]
"""


def namespaces(policies: int) -> int:
    """How many namespaces so many policies are spread over."""
    return max(1, policies // POLICIES_PER_NAMESPACE)


def policy_text(number: int, count: int, port: int = 8080) -> str:
    """One CiliumNetworkPolicy."""
    namespace, app = number % namespaces(count), number // namespaces(count) % APPS_PER_NAMESPACE
    return POLICY.format(
        number=number,
        namespace=namespace,
        app=app,
        other=(app + 1) % APPS_PER_NAMESPACE,
        third=(app + 3) % APPS_PER_NAMESPACE,
        team=number % TEAMS,
        port=port,
    )


def sources(count: int) -> list[Source]:
    """The policy files."""
    return [
        Source(
            f"policies-{first}.yaml",
            "---\n".join(policy_text(number, count) for number in range(first, min(first + PER_FILE, count))),
        )
        for first in range(0, count, PER_FILE)
    ]


def pod_labels(number: int, policies: int, team: str = "") -> Labels:
    """The labels of one identity."""
    count = namespaces(policies)
    namespace, app = number % count, number // count % APPS_PER_NAMESPACE
    return frozenset(
        {
            f"k8s:app=app{app}",
            f"k8s:tier={'web' if number // 7 % 2 else 'db'}",
            f"k8s:version=v{number}",
            f"k8s:io.kubernetes.pod.namespace=ns{namespace}",
            f"k8s:io.cilium.k8s.namespace.labels.team={team or f'team{namespace % TEAMS}'}",
            "k8s:io.cilium.k8s.policy.cluster=default",
            f"k8s:io.cilium.k8s.policy.serviceaccount=app{app}",
        }
    )


@dataclass(frozen=True, slots=True)
class Cluster:
    """Identities of the whole cluster, and endpoints of one node."""

    policies: int
    identities: dict[IdentityId, Labels]
    endpoints: dict[EndpointId, Labels]

    def namespace(self, namespace: int) -> Iterator[tuple[IdentityId, int]]:
        """Identities in a namespace, and what pod number each is of."""
        for identity in self.identities:
            number = identity - (1 << 20)
            if number >= 0 and number % namespaces(self.policies) == namespace:
                yield identity, number


def cluster(policies: int, identities: int) -> Cluster:
    """The cluster. Prefixes count among the identities, unless there are more of them than pods."""
    numbered = {
        HOST: frozenset({"reserved:host"}),
        WORLD: frozenset({"reserved:world"}),
        IdentityId(100): frozenset({"k8s:k8s-app=kube-dns", "k8s:io.kubernetes.pod.namespace=kube-system"}),
    }
    for namespace in range(namespaces(policies)):
        labels = frozenset({"reserved:world", f"cidr:2001:db8:{namespace:x}::/48"})
        numbered[IdentityId(1000 + namespace)] = labels
    pods = identities - len(numbered) if identities > 2 * len(numbered) else identities
    numbered |= {IdentityId((1 << 20) + number): pod_labels(number, policies) for number in range(pods)}
    here = min(PODS_OF_THE_NODE, pods)
    endpoints = {EndpointId(index + 1): pod_labels(index * 7919 % pods, policies) for index in range(here)}
    return Cluster(policies, numbered, endpoints)
