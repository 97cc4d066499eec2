# SPDX-License-Identifier: Apache-2.0
"""Processes of the node itself, told apart by their cgroup: the same policies as for workloads with a namespace."""

import pytest

from l7lab import traffic
from l7lab.topology import RESOLVER_V4, RESOLVER_V6

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: build-egress}
spec:
  endpointSelector: {matchLabels: {job: build}}
  egress:
    - toCIDR: [192.0.2.10/32, "2001:db8::10/128"]
      toPorts:
        - ports: [{port: "53", protocol: ANY}]
          rules: {dns: [{matchName: api.example.com}, {matchPattern: "*.cdn.example.com"}]}
    - toFQDNs: [{matchName: api.example.com}]
      toPorts:
        - ports: [{port: "80", protocol: TCP}]
          rules: {http: [{method: GET, path: "/public/.*"}]}
    - toFQDNs: [{matchPattern: "*.cdn.example.com"}]
      toPorts: [{ports: [{port: "80", protocol: TCP}]}]
"""
OTHER = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: other-egress}
spec:
  endpointSelector: {matchLabels: {job: other}}
  egress:
    - toCIDR: [192.0.2.10/32, "2001:db8::10/128"]
      toPorts:
        - ports: [{port: "53", protocol: ANY}]
          rules: {dns: [{matchName: api.example.com}]}
    - toFQDNs: [{matchName: api.example.com}]
      toPorts:
        - ports: [{port: "80", protocol: TCP}]
          rules: {http: [{method: GET, path: "/other.*"}]}
"""


@pytest.fixture(scope="module")
def gate(new_gate):
    with new_gate({"build.yaml": POLICY, "other.yaml": OTHER}) as running:
        running.start()
        for job in ("build", "other"):
            running.add_cgroup(running.lab.cgroup(job), job=job)
        yield running


@pytest.fixture
def build(gate):
    return gate.lab.cgroup("build")


@pytest.fixture
def other(gate):
    return gate.lab.cgroup("other")


@pytest.mark.parametrize("qtype", ["A", "AAAA"])
@pytest.mark.parametrize("resolver", [RESOLVER_V4, RESOLVER_V6])
def test_a_name_is_learnt_and_its_requests_are_judged(gate, build, qtype, resolver):
    answer, allowed = traffic.browse(build, "http://api.example.com/public/", qtype=qtype, server=resolver)
    assert (answer.rcode, str(allowed)) == ("NOERROR", "200")
    mark = len(gate.audit())
    _, denied = traffic.browse(build, "http://api.example.com/private", qtype=qtype, server=resolver)
    assert str(denied) == "403"
    record = gate.wait_audit(lambda one: one["layer"] == "http", "of the request", mark=mark)
    assert (record["source"]["name"], record["http"]["path"]) == ("build", "/private")
    assert record["rule"].startswith("build-egress egress[1]")


def test_a_name_that_is_not_allowed_is_refused_also_by_tcp(gate, build):
    mark = len(gate.audit())
    assert traffic.dns(build, "evil.example.com").rcode == "REFUSED"
    assert traffic.dns(build, "evil.example.com", tcp=True).rcode == "REFUSED"
    assert traffic.dns(build, "api.example.com", tcp=True).rcode == "NOERROR"
    gate.wait_audit(lambda one: one["layer"] == "dns", "of the name", mark=mark)


def test_two_cgroups_with_one_address_are_told_apart_by_both_proxies(gate, build, other):
    for _ in range(10):
        assert traffic.dns(build, "img.cdn.example.com").rcode == "NOERROR"
        assert traffic.dns(other, "img.cdn.example.com").rcode == "REFUSED"
        assert str(traffic.browse(build, "http://api.example.com/public/")[1]) == "200"
        assert str(traffic.browse(other, "http://api.example.com/public/")[1]) == "403"


def test_what_is_in_no_cgroup_of_an_endpoint_is_left_alone(gate):
    node = gate.lab.node.namespace
    assert str(traffic.browse(node, "http://api.example.com/private")[1]) == "200"
    assert traffic.dns(node, "evil.example.com").rcode == "NXDOMAIN"
