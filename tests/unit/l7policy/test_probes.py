# SPDX-License-Identifier: Apache-2.0
"""Tests of l7policy.probes: that what the policies speak of is asked about."""

import pytest

from l7policy import cluster, documents
from l7policy.http import pattern
from l7policy.policydoc import Policy, Source
from l7policy.probes import probes
from l7policy.question import Question, port_text
from l7policy.whatif import differences

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress:
    - toEndpoints: [{matchExpressions: [{key: app, operator: In, values: [api, db]}, {key: x, operator: Exists}]}]
      toPorts:
        - ports: [{port: "8080", protocol: TCP}]
          rules: {http: [{method: PUT|POST, path: "/a/[^/]+", host: "b[.]test", headers: ["X: 1", "Y"]}]}
    - toCIDRSet: [{cidr: 192.0.2.0/24, except: [192.0.2.8/29]}]
      toPorts:
        - ports: [{port: "53", protocol: ANY}]
          rules: {dns: [{matchPattern: "**.cdn.example.com"}]}
    - toFQDNs: [{matchName: api.example.com}]
"""


def load(text: str) -> tuple[Policy, ...]:
    return documents.load([Source("p.yaml", text)])


def asked(before: str, after: str, pods: str = "") -> list[Question]:
    known = cluster.read([Source("pods.yaml", pods)]) if pods else cluster.Cluster()
    return list(probes(load(before) if before else (), load(after) if after else (), known))


def test_all_that_a_policy_speaks_of_is_asked_about() -> None:
    found = [one for one in asked("", POLICY) if "app=web" in one.source.text]
    assert {one.destination.text for one in found} == {
        "192.0.2.1",
        "192.0.2.9",
        "app=api,io.kubernetes.pod.namespace=default,x=probe",
        "fqdn:api.example.com",
        "reserved:host",
        "reserved:world",
    }
    assert {port_text(one.protocols[0], one.port) for one in found} == {"80/TCP", "8080/TCP", "53/UDP"}
    assert {one.dns for one in found} == {None, "probe.cdn.example.com."}
    requests = {one.http for one in found if one.http is not None}
    assert {(one.method, one.path, one.host, one.headers) for one in requests} == {
        (method, "/a/1", "b.test", (("X", "1"), ("Y", "probe"))) for method in ("POST", "PUT")
    }


def test_policies_that_mean_the_same_need_no_question() -> None:
    assert asked(POLICY, "# another comment\n" + POLICY) == []


def test_the_workloads_of_a_cluster_stand_for_themselves() -> None:
    pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: NAME, labels: {app: web}}\n"
    pods = "---\n".join(pod.replace("NAME", name) for name in ("a", "b"))
    workloads = {one.source.text for one in asked("", POLICY, pods)}
    assert workloads == {
        "default/a",
        "192.0.2.1",
        "192.0.2.9",
        "fqdn:api.example.com",
        "reserved:host",
        "reserved:world",
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("PUT|POST", "PUT"),
        ('"8080"', '"8081"'),
        ("192.0.2.8/29", "192.0.2.16/29"),
        ("**.cdn", "*.img.cdn"),
        ("api.example.com", "other.example.com"),
        ("values: [api, db]", "values: [db]"),
    ],
)
def test_a_change_is_found(old: str, new: str) -> None:
    assert old in POLICY
    changed = POLICY.replace(old, new)
    questions = asked(POLICY, changed)
    assert differences(load(POLICY), load(changed), questions)


@pytest.mark.parametrize(
    "path", ["/", "/a.*", r"/a(\?.*)?", "/a(/.*)?", r"/v1\.2/x", "^/a$", "/a|/b", "/[0-9]+", "/x{3}"]
)
def test_a_sample_matches_or_is_not_asked(path: str) -> None:
    text = POLICY.replace('"/a/[^/]+"', f"'{path}'")
    paths = {one.http.path for one in asked("", text) if one.http is not None}
    assert all(pattern(path).matches(one.encode()) for one in paths)
    assert bool(paths) == (path != "/x{3}")
