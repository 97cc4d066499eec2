# SPDX-License-Identifier: Apache-2.0
"""The lab itself: what it connects, and that it leaves nothing behind. No daemon runs here."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from l7lab import Lab, LabError, Workload, registry, services, topology, traffic
from l7lab.namespace import NAMESPACES
from l7lab.registry import prefix
from l7lab.traffic import Stream

OWNER = """
import sys, time
from l7lab import Lab
with Lab() as lab:
    print(lab.identifier, flush=True)
    {then}
"""


def traces(identifier: str) -> list[str]:
    """All that the machine still knows of a lab."""
    found = [str(path) for path in NAMESPACES.glob(f"{prefix(identifier)}*")]
    found += [str(path) for path in (registry.LABS / identifier, registry.LABS / f".{identifier}") if path.exists()]
    found += [str(path) for path in registry.mounts_below(registry.LABS / identifier)]
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                command = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if identifier.encode() in command:
                found.append(f"{process.name}: {command!r}")
    return found


def owner(then: str) -> tuple[subprocess.Popen[str], str]:
    """Another process with a lab of its own, and that lab's id."""
    process = subprocess.Popen([sys.executable, "-c", OWNER.format(then=then)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


@pytest.fixture(params=["frontend", "batch", "backend"])
def workload(lab: Lab, request: pytest.FixtureRequest) -> Workload:
    found: Workload = getattr(lab, request.param)
    return found


@pytest.mark.parametrize("address", [*topology.SERVICES_V4, *topology.SERVICES_V6])
def test_a_workload_reaches_every_service_and_is_seen_by_its_own_address(lab: Lab, address: str) -> None:
    result = traffic.http(lab.frontend.namespace, "http://api.example.com/v1?q=1", address=address)
    source = lab.frontend.v6 if ":" in address else lab.frontend.v4
    assert result.status == 200, result.error
    assert result.body == f"GET /v1?q=1 from {source} to {address} host api.example.com\n"


@pytest.mark.parametrize("port", services.OUTSIDE_PORTS)
def test_the_web_server_listens_on_each_port(lab: Lab, port: int) -> None:
    scheme = "https" if port in services.TLS_PORTS else "http"
    assert traffic.http(lab.batch.namespace, f"{scheme}://x.example:{port}/", address="198.51.100.3").status == 200


def test_workloads_reach_each_other(lab: Lab, workload: Workload) -> None:
    for address in (lab.backend.v4, lab.backend.v6):
        result = traffic.http(workload.namespace, "http://backend:8080/", address=address)
        assert result.status == 200, result.error


def test_ping_works_in_both_families(lab: Lab, workload: Workload) -> None:
    assert traffic.ping(workload.namespace, topology.RESOLVER_V4)
    assert traffic.ping(workload.namespace, topology.RESOLVER_V6)


def test_nothing_leads_out_of_the_lab(lab: Lab) -> None:
    for namespace in (lab.node.namespace, lab.outside.namespace):
        routes = namespace.run(["ip", "route"]).stdout + namespace.run(["ip", "-6", "route"]).stdout
        assert "default" not in routes


def test_what_does_not_listen_refuses_and_what_is_not_there_is_silent(lab: Lab) -> None:
    assert traffic.connect(lab.frontend.namespace, "198.51.100.1", 80).open
    assert traffic.connect(lab.frontend.namespace, "198.51.100.1", 81).error == "refused"
    assert not traffic.connect(lab.frontend.namespace, "192.0.2.99", 80, timeout=0.3).open


@pytest.mark.parametrize("server", [topology.RESOLVER_V4, topology.RESOLVER_V6])
@pytest.mark.parametrize("tcp", [False, True])
def test_names_resolve(lab: Lab, server: str, tcp: bool) -> None:
    for name in (*services.ZONE, *services.ALIASES):
        v4 = traffic.dns(lab.frontend.namespace, name, server=server, tcp=tcp)
        v6 = traffic.dns(lab.frontend.namespace, name, "AAAA", server=server, tcp=tcp)
        assert (v4.rcode, v6.rcode) == ("NOERROR", "NOERROR")
        assert v4.addresses + v6.addresses == services.addresses(name)


def test_an_alias_is_answered_with_its_chain(lab: Lab) -> None:
    answer = traffic.dns(lab.frontend.namespace, "www.cdn.example.com")
    assert [(record.name, record.rtype) for record in answer.answers] == [
        ("www.cdn.example.com", "CNAME"),
        ("edge.cdn.example.net", "A"),
    ]


def test_an_unknown_name_does_not_exist_and_a_short_one_expires_soon(lab: Lab) -> None:
    assert traffic.dns(lab.frontend.namespace, "nowhere.example.com").rcode == "NXDOMAIN"
    assert traffic.dns(lab.frontend.namespace, "short.example.com").answers[0].ttl == services.SHORT_TTL


def test_bodies_pass_whole_in_both_directions(lab: Lab) -> None:
    down = traffic.http(
        lab.frontend.namespace, "http://x.example/big", address="198.51.100.1", options=["-o", "/dev/null"]
    )
    assert (down.status, down.size) == (200, services.BIG_BYTES)
    big = lab.folder / "web" / "big"
    up = traffic.http(
        lab.frontend.namespace, "http://x.example/upload/x", address="198.51.100.1", method="PUT", upload=big
    )
    assert up.status in (201, 204)
    assert lab.web.uploaded("x") == big.read_bytes()
    post = traffic.http(lab.frontend.namespace, "http://x.example/", address="198.51.100.1", method="POST", body="a=b")
    assert post.status == 200


def test_a_forged_source_reaches_the_server_when_nobody_stops_it(lab: Lab) -> None:
    query = traffic.question("forged.example.com")
    answer = traffic.udp(lab.frontend.namespace, topology.RESOLVER_V4, 53, query, source=lab.batch.v4, timeout=0.3)
    assert answer.error == "timeout", "the answer goes to the address that was forged"
    assert any(seen.name == "forged.example.com" and seen.remote == lab.batch.v4 for seen in lab.resolver.seen())


def test_raw_bytes_reach_the_server_and_its_answer_comes_back(lab: Lab) -> None:
    result = traffic.tcp(lab.frontend.namespace, "198.51.100.1", 80, b"SSH-2.0-nothing\r\n\r\n")
    assert result.received.startswith(b"HTTP/1.1 400")
    assert result.closed


def test_a_stream_keeps_one_connection(lab: Lab, tmp_path: Path) -> None:
    url = "http://stream.example.com/"
    with Stream.http(lab.frontend.namespace, tmp_path / "log", url, address="198.51.100.1", interval=0.005) as stream:
        seen = stream.wait_count(10)
    assert {(step.outcome, step.connection) for step in seen} == {("200", 1)}
    connections = {seen.connection for seen in lab.web.seen() if seen.host == "stream.example.com"}
    assert len(connections) == 1


def test_a_stream_of_queries_reports_each_answer(lab: Lab, tmp_path: Path) -> None:
    with Stream.dns(lab.batch.namespace, tmp_path / "log", "api.example.com", interval=0.005) as stream:
        assert {step.outcome for step in stream.wait_count(5)} == {"NOERROR"}


def test_two_labs_live_side_by_side(lab: Lab) -> None:
    with Lab() as other:
        assert other.identifier != lab.identifier
        assert traffic.ping(other.frontend.namespace, other.backend.v4)
        assert traffic.ping(lab.frontend.namespace, lab.backend.v4)


def test_a_lab_leaves_nothing_behind() -> None:
    with Lab() as lab:
        identifier = lab.identifier
        assert len(traces(identifier)) > 5
        lab.start(lab.node, ["sh", "-c", "trap '' TERM; sleep 1000 & sleep 1000"], "stubborn")
    assert traces(identifier) == []


def test_a_lab_leaves_nothing_behind_when_the_test_fails() -> None:
    identifiers = []

    def failing() -> None:
        with Lab() as lab:
            identifiers.append(lab.identifier)
            raise RuntimeError("the test fails")

    with pytest.raises(RuntimeError, match="the test fails"):
        failing()
    assert traces(identifiers[0]) == []


def test_a_lab_that_cannot_be_built_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(registry.labs())
    monkeypatch.setattr(services, "NGINX_CONFIG", "no such directive;")
    with pytest.raises(LabError, match="unknown directive"), Lab():
        pass
    assert {name for name in set(registry.labs()) - before if registry.labs()[name].pid == os.getpid()} == set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_lab_with_its_owner(number: signal.Signals) -> None:
    process, identifier = owner("time.sleep(60)")
    assert traces(identifier)
    process.send_signal(number)
    process.communicate(timeout=10)
    assert process.returncode != 0
    assert traces(identifier) == []


def test_a_second_signal_does_not_stop_the_cleaning() -> None:
    process, identifier = owner("time.sleep(60)")
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    process.communicate(timeout=10)
    assert traces(identifier) == []


def test_the_lab_of_a_killed_owner_is_swept_by_the_next() -> None:
    process, identifier = owner("time.sleep(60)")
    process.kill()
    process.communicate(timeout=10)
    with Lab():
        assert traces(identifier) == []


def test_a_kept_lab_outlives_its_owner_until_it_is_swept_on_request() -> None:
    process, identifier = owner("lab.keep()")
    process.communicate(timeout=10)
    assert process.returncode == 0
    with Lab():
        assert traces(identifier)
    registry.remove(identifier)
    assert traces(identifier) == []
