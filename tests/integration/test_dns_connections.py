# SPDX-License-Identifier: Apache-2.0
"""A connection outlives the name that opened it, whatever restarts meanwhile; a new one is refused by then."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from l7lab import Lab, traffic
from l7lab.gate import Gate
from l7lab.process import wait_until
from l7lab.topology import IN_CIDR
from l7lab.traffic import Stream

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: names, namespace: shop}}
spec:
  endpointSelector: {{matchLabels: {{app: frontend}}}}
  egress:
  - toCIDR: [192.0.2.10/32]
    toPorts:
    - ports: [{{port: "53", protocol: ANY}}]
      rules:
        dns:
        - matchName: short.example.com
        - matchName: {other}
  - toFQDNs:
    - matchName: short.example.com
    toPorts:
    - ports: [{{port: "80", protocol: TCP}}]
{rules}
"""
HTTP = "      rules: {http: [{method: GET}]}"
CLOSING = 10
"""Seconds that the kernel remembers a connection that both sides have closed."""


@pytest.fixture(params=["", HTTP], ids=["direct", "through the HTTP proxy"])
def gate(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gate]:
    source = tmp_path / "policies"
    source.mkdir()
    (source / "names.yaml").write_text(POLICY.format(rules=request.param, other="api.example.com"))
    with Lab() as lab:
        gate = Gate(lab, source)
        gate.start()
        gate.add_all()
        yield gate
        assert "Traceback" not in (lab.folder / "l7d.log").read_text()


def rows(gate: Gate, source: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = gate.must("fqdn", "cache", "list", "-s", source, "-o", "json").json
    return [row for row in found if row["address"] == IN_CIDR]


def test_a_connection_outlives_its_name_through_reloads_and_restarts(gate: Gate, tmp_path: Path) -> None:
    frontend = gate.lab.frontend.namespace

    def opens() -> bool:
        return traffic.connect(frontend, IN_CIDR, 80, timeout=0.4).open

    assert not opens()
    assert traffic.dns(frontend, "short.example.com").addresses == (IN_CIDR,)
    with Stream.http(frontend, tmp_path / "log", "http://short.example.com/", address=IN_CIDR) as stream:

        def goes_on() -> None:
            stream.wait_count(5, mark=stream.mark())
            assert {(step.outcome, step.connection) for step in stream.outcomes()} == {("200", 1)}
            assert not opens()

        stream.wait_count(3)
        wait_until(lambda: not rows(gate, "lookup"), "the name to be over")
        goes_on()
        gate.edit("names.yaml", "api.example.com", "www.example.com")
        gate.must("rules", "reload")
        goes_on()
        gate.kill_agent()
        gate.start()
        goes_on()
        before = gate.workers()["dns-0"]
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: gate.workers()["dns-0"] != before and gate.ready(), "the name process to be back")
        gate.must("rules", "reload")
        goes_on()
        # By now the kernel was asked who is connected.
        wait_until(lambda: {row["endpoint"] for row in rows(gate, "connection")} == {"frontend"}, "the look", 10.0)
        # Asked for again, it is open for all again; and over again.
        assert traffic.dns(frontend, "short.example.com").addresses == (IN_CIDR,)
        assert opens()
        wait_until(lambda: not opens(), "the name to be over again")
        goes_on()
    wait_until(lambda: not rows(gate, "connection"), "the address to be let go", CLOSING + 15.0)
    listed = gate.must("bpf", "ipcache", "list", "-o", "json").json
    assert not any(row["established"] or row["prefix"] == f"{IN_CIDR}/32" for row in listed)
