# SPDX-License-Identifier: Apache-2.0
"""Processes of the node itself, told apart by their cgroup: the same policies as for workloads with a namespace."""

import sys

import pytest

from l7lab import traffic
from l7lab.scenario import API_V4
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


# A question by a connected or unconnected datagram; then requests to an address, on connections of the same family.
ASK = """
import socket, sys
how, resolver, address = sys.argv[1:4]
family = socket.AF_INET6 if ":" in resolver else socket.AF_INET
for query in map(bytes.fromhex, sys.argv[4:]):
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(3)
        if how == "connected":
            sock.connect((resolver, 53))
            sock.send(query)
            answer = sock.recv(4096)
        else:
            sock.sendto(query, (resolver, 53))
            answer, sender = sock.recvfrom(4096)
            assert sender[:2] == (resolver, 53), sender
        print(answer[3] & 15)
for path in ("/public/", "/private"):
    with socket.create_connection((address, 80), 3) as sock:
        assert sock.getpeername()[:2] == (address, 80), sock.getpeername()
        sock.sendall(f"GET {path} HTTP/1.1\\r\\nHost: api.example.com\\r\\nConnection: close\\r\\n\\r\\n".encode())
        print(sock.recv(4096)[9:12].decode())
"""


@pytest.mark.parametrize("how", ["connected", "unconnected"])
@pytest.mark.parametrize("written", ["", "::ffff:"])
def test_every_kind_of_socket_sees_the_real_server_and_is_judged(gate, build, how, written):
    questions = [traffic.question(name).hex() for name in ("api.example.com", "evil.example.com")]
    arguments = (how, written + RESOLVER_V4, written + API_V4, *questions)
    done = build.run([sys.executable, "-I", "-S", "-c", ASK, *arguments])
    assert done.stdout.split() == ["0", "5", "200", "403"], done.stderr
