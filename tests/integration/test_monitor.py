# SPDX-License-Identifier: Apache-2.0
"""`l7ctl monitor` on real traffic: live verdicts, filters, losses told, and a stream that outlives the agent."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from l7lab import Lab, traffic
from l7lab.gate import Gate, program
from l7lab.process import Process, wait_until
from l7lab.scenario import API, API_V4
from l7lab.topology import RESOLVER_V4, UNNAMED


class Monitor:
    """A running `l7ctl monitor -o json`."""

    def __init__(self, gate: Gate, *arguments: str) -> None:
        argv = [program("l7ctl"), "--config", str(gate.config), "monitor", "-o", "json", *arguments]
        self.log = gate.lab.folder / "monitor.log"
        self.log.unlink(missing_ok=True)
        self.process: Process = gate.lab.start(gate.lab.node, argv, "monitor")

    def records(self) -> list[dict[str, Any]]:
        text = self.log.read_text() if self.log.exists() else ""
        return [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        return [record for record in self.records() if record["type"] == kind]

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


@pytest.fixture
def listening(gate: Gate) -> Iterator[Callable[..., Monitor]]:
    made: list[Monitor] = []

    def make(*arguments: str) -> Monitor:
        monitor = Monitor(gate, *arguments)
        made.append(monitor)
        return monitor

    yield make
    for monitor in made:
        monitor.process.stop()


def request(lab: Lab, path: str) -> None:
    traffic.dns(lab.frontend.namespace, RESOLVER_V4, "api.example.com")
    traffic.http(lab.frontend.namespace, f"{API}{path}", address=API_V4)


def datagram(lab: Lab, port: int) -> None:
    traffic.udp(lab.batch.namespace, UNNAMED, port, b"x", timeout=0.1)


def has_started(monitor: Monitor, gate: Gate) -> None:
    """A verdict is a sign that the kernel was told."""
    wait_until(lambda: gate.api("GET", "/v1/status")[1]["subscribers"] > 0, "the monitor to listen")


def test_every_kind_of_event_is_shown_as_it_happens(gate: Gate, listening: Callable[..., Monitor]) -> None:
    monitor = listening()
    has_started(monitor, gate)
    request(gate.lab, "/public/a")
    request(gate.lab, "/private")
    datagram(gate.lab, 4701)
    wait_until(
        lambda: (
            bool(monitor.of_type("drop"))
            and len([r for r in monitor.of_type("l7") if r["layer"] == "http"]) >= 2
            and any(r["layer"] == "dns" for r in monitor.of_type("l7"))
        ),
        "all kinds of events",
    )
    verdicts = monitor.of_type("policy-verdict")
    redirected = next(v for v in verdicts if v["destination"]["port"] == 80 and v["verdict"] == "REDIRECTED")
    assert (redirected["proxy"], redirected["endpoint"]["name"]) == ("http", "frontend")
    assert redirected["rule"].startswith("shop/frontend-egress egress[1]")
    denied = next(v for v in verdicts if v["destination"]["port"] == 4701)
    assert (denied["verdict"], denied["reason"]) == ("DROPPED", "POLICY_DENIED")
    statuses = {r["http"]["path"]: (r["verdict"], r["l7_type"]) for r in monitor.of_type("l7") if r["layer"] == "http"}
    assert statuses == {"/public/a": ("FORWARDED", "response"), "/private": ("DROPPED", "request")}
    traces = monitor.of_type("trace")
    assert {t["packet"]["point"] for t in traces} >= {"from-endpoint"}
    assert all(t["source"]["identity"] and t["destination"]["identity"] for t in traces if t["layer"] == "packet")


def test_only_what_was_asked_for_is_shown(gate: Gate, listening: Callable[..., Monitor]) -> None:
    monitor = listening("--type", "drop", "--from", "batch")
    has_started(monitor, gate)
    request(gate.lab, "/private")
    for port in (4711, 4712):
        datagram(gate.lab, port)
    wait_until(lambda: len(monitor.of_type("drop")) == 2, "two drops")
    assert {record["type"] for record in monitor.records()} == {"drop"}


def test_nothing_that_passes_is_made_for_nobody(gate: Gate, listening: Callable[..., Monitor]) -> None:
    monitor = listening("-t", "trace", "-t", "l7")
    has_started(monitor, gate)
    monitor.process.stop()
    wait_until(lambda: gate.api("GET", "/v1/status")[1]["subscribers"] == 0, "nobody to listen")
    before = passed(gate)
    request(gate.lab, "/public/unseen")
    datagram(gate.lab, 4721)
    wait_until(lambda: any(r["destination"]["port"] == 4721 for r in kept(gate)), "the drop to be kept")
    assert passed(gate) == before


def kept(gate: Gate) -> list[dict[str, Any]]:
    lines = gate.must("monitor", "--last", "4096", "--no-follow", "-o", "json").out.splitlines()
    return [json.loads(line) for line in lines]


def passed(gate: Gate) -> list[dict[str, Any]]:
    return [record for record in kept(gate) if record["verdict"] in ("FORWARDED", "REDIRECTED")]


def test_the_stream_outlives_the_agent_and_says_so(gate: Gate, listening: Callable[..., Monitor]) -> None:
    monitor = listening("-t", "drop", "-t", "l7")
    has_started(monitor, gate)
    datagram(gate.lab, 4731)
    wait_until(lambda: len(monitor.of_type("drop")) == 1, "the first drop")
    gate.kill_agent()
    datagram(gate.lab, 4732)  # nobody reads the ring now, and it keeps what happened
    request(gate.lab, "/private/meanwhile")
    gate.start()
    datagram(gate.lab, 4733)
    wait_until(lambda: len(monitor.of_type("drop")) == 3, "the drops of before, meanwhile and after")
    assert [r["destination"]["port"] for r in monitor.of_type("drop")] == [4731, 4732, 4733]
    wait_until(
        lambda: any(r.get("http", {}).get("path") == "/private/meanwhile" for r in monitor.of_type("l7")),
        "the denied request of meanwhile",
    )
    assert "l7d went away" in monitor.said()
    assert "flows lost meanwhile: 0" in monitor.said()
    assert monitor.process.running


def test_the_kernels_tables_are_shown_with_what_they_counted(gate: Gate) -> None:
    request(gate.lab, "/public/counted")
    flows = gate.must("bpf", "ct", "list", "frontend", "-o", "json").json
    proxied = next(f for f in flows if f["destination"] == API_V4 and f["destination_port"] == 80 and f["packets"])
    assert (proxied["source_name"], proxied["proxy"], proxied["protocol"]) == ("frontend", "http", "TCP")
    assert proxied["bytes"] > proxied["packets"] > 0
    entries = gate.must("bpf", "policy", "get", "frontend", "-o", "json").json
    redirects = [entry for entry in entries if entry["verdict"] == "redirect" and entry["proxy"] == "http"]
    assert sum(entry["packets"] for entry in redirects) > 0
    own = gate.must("bpf", "ipcache", "get", gate.lab.frontend.v4, "-o", "json").json
    assert own == gate.must("bpf", "ipcache", "match", gate.lab.frontend.v4, "-o", "json").json
    assert "k8s:app=frontend" in own[0]["labels"]
    assert gate.ctl("bpf", "ipcache", "match", "203.0.113.250").code == 1
    assert gate.ctl("bpf", "ipcache", "match", "nonsense").code == 1
    datagram(gate.lab, 4741)
    wait_until(lambda: '"port":4741' in gate.must("bpf", "events", "--last", "99", "--no-follow").out, "the event")
