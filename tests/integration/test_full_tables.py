# SPDX-License-Identifier: Apache-2.0
"""Tables that are full: what needs another row is refused and says what to raise, what runs goes on."""

import sys
from collections.abc import Callable, Iterator

import pytest
from tests.integration.test_metrics import scrape

from l7lab import traffic
from l7lab.gate import Gate
from l7lab.process import wait_until
from l7lab.topology import RESOLVER_V4

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: frontend, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  ingress: [{fromCIDR: [192.0.2.77/32]}]
  egress:
    - toCIDR: [192.0.2.10/32]
      toPorts: [{ports: [{port: "53", protocol: ANY}], rules: {dns: [{matchPattern: "*"}]}}]
    - toCIDR: [198.51.100.2/32]
      toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{method: GET, path: /.*}]}}]
    - toCIDR: [198.51.100.2/32]
      toPorts: [{ports: [{port: "8080", protocol: TCP}]}]
    - toFQDNs: [{matchName: api.example.com}]
      toPorts: [{ports: [{port: "80", protocol: TCP}]}]
    - toFQDNs: [{matchPattern: "*.cdn.example.com"}]
      toPorts: [{ports: [{port: "80", protocol: TCP}]}]
"""
MORE = """
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: more, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress:
    - toCIDR: [%s]
      toPorts: [%s]
"""

# Connections that are idle while others fill the table: each asks once before and once after.
IDLE = """
import pathlib, socket, sys, time
flag, places = pathlib.Path(sys.argv[1]), [place.rsplit(":", 1) for place in sys.argv[2:]]
socks = [socket.create_connection((address, int(port)), 3) for address, port in places]

def ask(sock):
    sock.sendall(b"GET / HTTP/1.1\\r\\nHost: any.test\\r\\n\\r\\n")
    return sock.recv(65536).split(b" ")[1].decode()

print("first", *map(ask, socks), flush=True)
while not flag.exists():
    time.sleep(0.02)
print("again", *map(ask, socks), flush=True)
"""
# Two datagrams from each of many ports: as many flows. Flows of one datagram would push out only each other. Each
# processor in turn: the kernel keeps the newest rows of the table in lists of the processors that made them.
FILL = """
import os, socket
processors = sorted(os.sched_getaffinity(0))
for number, processor in enumerate(processors):
    os.sched_setaffinity(0, {processor})
    for port in range(20000 + number, 26000, len(processors)):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("", port))
            sock.sendto(b"x", ("198.51.100.3", 9999))
            sock.sendto(b"x", ("198.51.100.3", 9999))
"""


@pytest.fixture(scope="module")
def gate(new_gate: Callable[..., Gate]) -> Iterator[Gate]:
    sizes = {"endpoints": 2, "policy": 64, "ipcache": 40, "conntrack": 512, "fqdn_identities": 1}
    with new_gate({"a.yaml": POLICY}, {"maps": sizes}) as running:  # type: ignore[attr-defined]
        running.start()
        for workload in (running.lab.frontend, running.lab.backend):
            running.add(workload)
        yield running


@pytest.mark.parametrize(
    ("table", "networks", "ports"),
    [
        ("policy", ["198.51.100.9/32"], range(1, 101)),
        ("ipcache", [f"198.51.100.{host}/32" for host in range(100, 150)], [80]),
    ],
)
def test_rules_that_do_not_fit_are_refused_and_the_old_ones_hold(
    gate: Gate, table: str, networks: list[str], ports: list[int]
) -> None:
    revision = gate.status()["revision"]
    # At most 40 ports stand in one list.
    listed = ", ".join(
        "{ports: [" + ", ".join(f'{{port: "{port}", protocol: TCP}}' for port in ports[at : at + 40]) + "]}"
        for at in range(0, len(ports), 40)
    )
    gate.write("more.yaml", MORE % (", ".join(networks), listed))
    try:
        done = gate.ctl("rules", "reload")
        assert done.code == 1
        assert f"the kernel table {table} is full" in done.err
        assert f"raise maps.{table} in the configuration" in done.err
        assert gate.status()["revision"] == revision
        assert not traffic.connect(gate.lab.frontend.namespace, "198.51.100.3", 80, timeout=0.3).open
        assert traffic.connect(gate.lab.frontend.namespace, "198.51.100.2", 8080).open
    finally:
        (gate.policies / "more.yaml").unlink()
    assert gate.ctl("rules", "reload").code == 0


def test_a_workload_that_does_not_fit_is_refused(gate: Gate) -> None:
    batch = gate.lab.batch
    done = gate.ctl("endpoint", "add", "--netns", batch.namespace.name, "--name", batch.name, "--label=app=batch")
    assert done.code == 1
    assert "all 2 endpoints are taken (config key maps.endpoints)" in done.err
    assert [endpoint["name"] for endpoint in gate.endpoints()] == ["frontend", "backend"]
    assert traffic.connect(gate.lab.frontend.namespace, "198.51.100.2", 8080).open
    told = "kernel table endpoints holds 2 of 2 entries (config key maps.endpoints)"
    wait_until(lambda: told in gate.status()["problems"], "a count that is not of before", 8.0)


def test_an_answer_whose_identity_does_not_fit_is_withheld(gate: Gate) -> None:
    frontend = gate.lab.frontend.namespace
    assert traffic.dns(frontend, "api.example.com", server=RESOLVER_V4).rcode == "NOERROR"
    mark = len(gate.audit())
    assert traffic.dns(frontend, "img.cdn.example.com", server=RESOLVER_V4).rcode == "SERVFAIL"
    record = gate.wait_audit(lambda record: record["reason"] == "DNS_LEARN_FAILED", "the answer", mark=mark)
    assert record["endpoint"]["name"] == "frontend"
    assert scrape(gate)["l7gate_fqdn_kernel_errors_total", ""] >= 1
    assert traffic.dns(frontend, "api.example.com", server=RESOLVER_V4).rcode == "NOERROR"


def test_connections_that_others_pushed_out_are_judged_again_and_go_on(gate: Gate) -> None:
    """One through a proxy, one by its address, one by the name that opened it; ingress is enforced, too."""
    lab = gate.lab
    learnt = traffic.dns(lab.frontend.namespace, "api.example.com", server=RESOLVER_V4).addresses[0]
    flag = lab.folder / "filled"
    places = ["198.51.100.2:80", "198.51.100.2:8080", f"{learnt}:80"]
    idle = lab.start(lab.frontend, [sys.executable, "-I", "-S", "-c", IDLE, str(flag), *places], "idle")
    wait_until(lambda: idle.log.read_text().startswith("first"), "the connections")

    def known() -> set[tuple[str, int]]:
        flows = gate.api("GET", "/v1/bpf/conntrack?endpoint=frontend")[1]
        return {(flow["destination"], flow["destination_port"]) for flow in flows if flow["protocol"] == "TCP"}

    assert known() >= {("198.51.100.2", 80), ("198.51.100.2", 8080), (learnt, 80)}
    for _ in range(10):
        done = lab.backend.namespace.run([sys.executable, "-I", "-S", "-c", FILL])
        assert done.returncode == 0, done.stderr
        if not known():
            break
    assert not known()
    flag.touch()
    wait_until(lambda: "again" in idle.log.read_text(), "the connections to go on")
    first, again = (line.split()[1:] for line in idle.log.read_text().splitlines())
    assert again == first
    assert set(first) == {"200"}
    evicted = "l7gate_bpf_map_evicted_total"
    # Counted when it was longest ago, with the entries.
    wait_until(lambda: scrape(gate)[evicted, 'map_name="conntrack"'] > 5000, "evictions to be counted", 8.0)
    assert scrape(gate)[evicted, 'map_name="host_flows"'] == 0
