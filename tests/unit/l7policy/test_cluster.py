# SPDX-License-Identifier: Apache-2.0
"""Tests of l7policy.cluster."""

import pytest

from l7policy import cluster
from l7policy.errors import PolicyErrors
from l7policy.model import NamedPort
from l7policy.policydoc import Source
from l7policy.verdict import Protocol

POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: web-1
  namespace: shop
  labels:
    app: web
spec:
  serviceAccountName: seller
  containers:
    - name: main
      ports:
        - {name: http, containerPort: 8080}
        - {name: dns, containerPort: 5353, protocol: UDP}
        - {containerPort: 9000}
status:
  podIP: 192.0.2.7
  podIPs:
    - ip: 192.0.2.7
    - ip: "2001:DB8::7"
"""
NAMESPACE = """\
apiVersion: v1
kind: Namespace
metadata:
  name: shop
  labels:
    team: sales
    a-label-of-a-namespace-that-is-nearly-as-long-as-it-may-be: "yes"
"""
NODE = """\
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {zone: a}}
status:
  addresses:
    - {type: InternalIP, address: 192.0.2.1}
    - {type: Hostname, address: n1}
"""
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 203.0.113.5
  selector: {app: web}
"""
CILIUM_ENDPOINT = """\
apiVersion: cilium.io/v2
kind: CiliumEndpoint
metadata: {name: web-1, namespace: shop}
status:
  identity:
    labels:
      - k8s:app=web
      - k8s:io.kubernetes.pod.namespace=shop
      - k8s:io.cilium.k8s.namespace.labels.a-label-of-a-namespace-that-is-nearly-as-long-as-it-may-be=yes
  networking:
    addressing:
      - {ipv4: 192.0.2.8}
  named-ports:
    - {name: http, port: 9090, protocol: TCP}
"""


def read(*texts: str) -> cluster.Cluster:
    return cluster.read([Source("c.yaml", "---\n".join(texts))])


def problems(*texts: str) -> list[str]:
    with pytest.raises(PolicyErrors) as caught:
        read(*texts)
    return [str(error) for error in caught.value.errors]


def test_a_pod_has_the_labels_that_cilium_gives_it() -> None:
    assert read(POD, NAMESPACE).endpoints["shop/web-1"].labels == {
        "k8s:app=web",
        "k8s:io.kubernetes.pod.namespace=shop",
        "k8s:io.cilium.k8s.namespace.labels.team=sales",
        "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop",
        "k8s:io.cilium.k8s.namespace.labels.a-label-of-a-namespace-that-is-nearly-as-long-as-it-may-be=yes",
        "k8s:io.cilium.k8s.policy.cluster=default",
        "k8s:io.cilium.k8s.policy.serviceaccount=seller",
    }


def test_a_pod_has_addresses_in_canonical_form_and_named_ports() -> None:
    pod = read(POD).endpoints["shop/web-1"]
    assert pod.addresses == ("192.0.2.7", "2001:db8::7")
    assert pod.ports == (NamedPort("http", Protocol.TCP, 8080), NamedPort("dns", Protocol.UDP, 5353))
    assert pod.port("dns") == pod.port("dns", Protocol.UDP) == pod.ports[1]
    assert pod.port("dns", Protocol.TCP) is None


def test_a_pod_without_namespace_and_account_is_in_default() -> None:
    pod = read("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n").endpoints["default/p"]
    assert "k8s:io.kubernetes.pod.namespace=default" in pod.labels
    assert "k8s:io.cilium.k8s.policy.serviceaccount=default" in pod.labels


def test_what_cilium_says_of_an_endpoint_wins_over_its_pod() -> None:
    pod = read(POD, NAMESPACE, CILIUM_ENDPOINT).endpoints["shop/web-1"]
    assert pod.labels == {
        "k8s:app=web",
        "k8s:io.kubernetes.pod.namespace=shop",
        "k8s:io.cilium.k8s.namespace.labels.a-label-of-a-namespace-that-is-nearly-as-long-as-it-may-be=yes",
    }
    assert pod.addresses == ("192.0.2.8",)
    assert pod.ports == (NamedPort("http", Protocol.TCP, 9090),)


def test_a_cilium_endpoint_is_enough() -> None:
    assert read(CILIUM_ENDPOINT).at("192.0.2.8") == read(CILIUM_ENDPOINT).endpoints["shop/web-1"]


def test_a_node_and_a_pod_on_its_network_are_the_host() -> None:
    host_pod = POD.replace("spec:\n", "spec:\n  hostNetwork: true\n").replace("web-1", "agent")
    found = read(NODE, host_pod)
    assert found.endpoints["node/n1"].labels == {"reserved:host", "k8s:zone=a"}
    assert found.endpoints["shop/agent"].labels == {"reserved:host"}
    assert found.at("192.0.2.1") == found.endpoints["node/n1"]


def test_a_finished_pod_is_gone() -> None:
    assert read(POD.replace("status:", "status:\n  phase: Succeeded")).endpoints == {}


def test_a_service_names_the_workloads_behind_it() -> None:
    service = read(POD, SERVICE).service_at("203.0.113.5")
    assert service is not None
    assert (service.name, service.backends) == ("shop/web", ("shop/web-1",))


def test_a_headless_service_has_no_address_and_one_without_selector_no_backends() -> None:
    text = SERVICE.replace("203.0.113.5", "None").replace("  selector: {app: web}\n", "")
    service = read(POD, text).services["shop/web"]
    assert (service.addresses, service.backends) == ((), ())


def test_lists_are_unpacked_and_other_kinds_passed_over_but_counted() -> None:
    items = "".join("  - " + text.replace("\n", "\n    ").rstrip() + "\n" for text in (POD, NODE))
    deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n"
    found = read(f"apiVersion: v1\nkind: List\nitems:\n{items}", deployment, deployment)
    assert sorted(found.endpoints) == ["node/n1", "shop/web-1"]
    assert found.passed_over == ("2 Deployment",)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (POD.replace("192.0.2.7", "192.0.2.777"), "c.yaml:17:10: '192.0.2.777' is not an IP address"),
        (POD.replace("app: web", "app: -web-"), "c.yaml:7:10: label app: '-web-' is not a label value"),
        (POD.replace("app: web", "-app: web"), "c.yaml:7:5: labels: '-app' is not a label key"),
        (POD.replace("    app: web", "    - app"), "c.yaml:7:5: labels must be a mapping, not a list"),
        (POD.replace("8080", "80800"), "c.yaml:13:39: port http: containerPort must be a number from 1 to 65535"),
        (POD.replace("UDP", "IPX"), "c.yaml:14:54: port dns: the protocol is none of TCP, UDP and SCTP"),
        (POD.replace("  name: web-1\n", ""), "c.yaml:4:3: this Pod has no metadata.name"),
        (POD + "---\n" + POD, "c.yaml:22:1: Pod shop/web-1 is there twice; first at c.yaml:1"),
        (
            "apiVersion: cilium.io/v2\nkind: CiliumEndpoint\nmetadata: {name: a}\n",
            "c.yaml:1:1: CiliumEndpoint default/a has no status.identity.labels",
        ),
        ("spec: {}\n", "c.yaml:1:1: no apiVersion and kind: this is not a Kubernetes object"),
        ("a: [\n", "c.yaml:2:1: not YAML"),
        (
            CILIUM_ENDPOINT.replace("k8s:app=web", "cidr:192.0.2.0/24"),
            "c.yaml:7:9: label: unknown label source 'cidr'",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, problem: str) -> None:
    found = problems(text)
    assert len([line for line in found if line.startswith(problem)]) >= 1, found
