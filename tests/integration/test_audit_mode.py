# SPDX-License-Identifier: Apache-2.0
"""Audit mode on live traffic: what policy denies passes, is recorded as AUDIT, and is denied again when it ends."""

import signal
from collections.abc import Callable, Iterator

import pytest

from l7lab import traffic
from l7lab.gate import Gate, Json
from l7lab.namespace import Namespace
from l7lab.process import wait_until
from l7lab.scenario import API, API_V4
from l7lab.topology import DENIED_IN_CIDR, RESOLVER_V4, UNNAMED
from l7lab.traffic import Stream


def switch(gate: Gate, name: str, mode: str) -> None:
    gate.must("endpoint", "config", name, f"PolicyAuditMode={mode}")


def opens(namespace: Namespace, address: str, port: int = 80) -> bool:
    return traffic.connect(namespace, address, port, timeout=0.4).open


def denied(gate: Gate, mark: int, layer: str, **fields: object) -> list[Json]:
    """Records of one layer after a mark."""
    return [
        one
        for one in gate.audit()[mark:]
        if one["layer"] == layer and all(one[field] == wanted for field, wanted in fields.items())
    ]


def recorded(gate: Gate, mark: int, layer: str, **fields: object) -> Json:
    wait_until(lambda: bool(denied(gate, mark, layer, **fields)), f"a record of {fields}")
    return denied(gate, mark, layer, **fields)[0]


@pytest.fixture
def audited(gate: Gate) -> Iterator[Gate]:
    """The frontend and batch are audited."""
    for name in ("frontend", "batch"):
        switch(gate, name, "Enabled")
    yield gate
    for name in ("frontend", "batch"):
        switch(gate, name, "Default")


def test_a_denied_connection_passes_and_is_recorded_once(audited: Gate) -> None:
    gate = audited
    mark = len(gate.audit())
    result = traffic.http(gate.lab.batch.namespace, "http://example.test/x", address=UNNAMED)
    assert result.status == 200
    record = recorded(gate, mark, "packet", verdict="AUDIT")
    assert (record["reason"], record["direction"], record["endpoint"]["name"]) == ("POLICY_DENIED", "egress", "batch")
    assert (record["destination"]["address"], record["destination"]["port"]) == (UNNAMED, 80)
    assert (record["rule"], record["type"]) == ("", "policy-verdict")
    assert "shop/batch-egress" in record["policies"]
    assert len(denied(gate, mark, "packet")) == 1


def test_a_deny_rule_is_named(audited: Gate) -> None:
    mark = len(audited.audit())
    assert opens(audited.lab.batch.namespace, DENIED_IN_CIDR)
    record = recorded(audited, mark, "packet", reason="POLICY_DENY")
    assert (record["verdict"], record["rule"]) == ("AUDIT", "shop/batch-egress egressDeny[0]")


def test_a_ping_passes_and_is_recorded_once(audited: Gate) -> None:
    mark = len(audited.audit())
    assert traffic.ping(audited.lab.batch.namespace, UNNAMED)
    assert recorded(audited, mark, "packet", protocol="ICMP")["verdict"] == "AUDIT"


def test_another_workloads_policy_is_not_audited_by_it(audited: Gate) -> None:
    gate = audited
    mark = len(gate.audit())
    assert not opens(gate.lab.batch.namespace, gate.lab.backend.v4, 8080)
    record = recorded(gate, mark, "packet", direction="ingress")
    assert (record["verdict"], record["endpoint"]["name"]) == ("DROPPED", "backend")
    assert denied(gate, mark, "packet", verdict="AUDIT") == []


def test_a_refused_request_passes_and_is_recorded(audited: Gate) -> None:
    gate = audited
    frontend = gate.lab.frontend.namespace
    assert traffic.browse(frontend, f"{API}/public/items")[0].addresses == (API_V4,)
    mark = len(gate.audit())
    result = traffic.http(frontend, f"{API}/admin", address=API_V4)
    assert result.status == 200
    record = recorded(gate, mark, "http")
    assert (record["verdict"], record["reason"]) == ("AUDIT", "HTTP_DENIED")
    assert (record["http"]["method"], record["http"]["path"]) == ("GET", "/admin")
    assert record["rule"] == "shop/frontend-egress egress[1].toPorts[0]"


def test_what_is_not_http_is_refused_all_the_same(audited: Gate) -> None:
    frontend = audited.lab.frontend.namespace
    assert traffic.browse(frontend, f"{API}/public/items")[0].addresses == (API_V4,)
    assert b"400" in traffic.tcp(frontend, API_V4, 80, b"\x16\x03\x01\x00\r\n\r\n").received


def test_a_forbidden_question_is_answered_and_recorded(audited: Gate) -> None:
    gate = audited
    mark = len(gate.audit())
    answer = traffic.dns(gate.lab.frontend.namespace, "secret.example.net", server=RESOLVER_V4)
    assert answer.rcode not in ("", "REFUSED")
    record = recorded(gate, mark, "dns")
    assert (record["verdict"], record["reason"], record["dns"]["query"]) == (
        "AUDIT",
        "DNS_DENIED",
        "secret.example.net",
    )
    assert not [
        row for row in gate.api("GET", "/v1/fqdn/cache")[1] if row["name"] == "secret.example.net." and row["identity"]
    ]


def test_open_connections_follow_when_it_is_switched(gate: Gate) -> None:
    frontend, batch = gate.lab.frontend.namespace, gate.lab.batch.namespace
    assert traffic.browse(frontend, f"{API}/public/items")[0].addresses == (API_V4,)
    mark = len(gate.audit())
    folder = gate.lab.folder
    with Stream.http(frontend, folder / "l7.log", f"{API}/admin", address=API_V4) as l7:
        l7.wait_for(lambda seen: any(one.outcome == "403" for one in seen), "a refusal")
        switch(gate, "frontend", "Enabled")
        switched = l7.mark()
        l7.wait_for(lambda seen: sum(one.outcome == "200" for one in seen) > 5, "what is audited passes", mark=switched)
        switch(gate, "frontend", "Default")
        switched = l7.mark()
        seen = l7.wait_for(lambda seen: sum(one.outcome == "403" for one in seen) > 5, "refusals", mark=switched)
        assert [one.outcome for one in seen][1:] == ["403"] * (len(seen) - 1)
        assert len({one.connection for one in l7.outcomes()}) == 1
    switch(gate, "batch", "Enabled")
    with Stream.http(batch, folder / "l3.log", "http://example.test/", address=UNNAMED) as l3:
        l3.wait_count(5)
        assert len(denied(gate, mark, "packet", verdict="AUDIT")) == 1
        switch(gate, "batch", "Default")
        recorded(gate, mark, "packet", verdict="DROPPED")
        switched = l3.mark()
        switch(gate, "batch", "Enabled")
        l3.wait_for(lambda seen: any(one.outcome == "200" for one in seen), "the connection to go on", mark=switched)
    switch(gate, "batch", "Default")


def test_an_operator_cannot_overlook_it(audited: Gate) -> None:
    status = audited.status()
    assert status["audited_endpoints"] == ["frontend", "batch"]
    assert status["policy_audit_mode"] is False
    opens(audited.lab.batch.namespace, UNNAMED)
    assert audited.status()["audited"]["packets"] > status["audited"]["packets"]
    text = audited.must("status").out
    assert "what policy denies PASSES and is only recorded, for 2 of 3 endpoints:\n  frontend, batch" in text
    assert "AUDIT" in audited.must("endpoint", "list").out.splitlines()[0]
    assert {one["name"]: one["audit"] for one in audited.endpoints()} == {
        "frontend": True,
        "batch": True,
        "backend": False,
    }
    assert "PASSES" in audited.must("endpoint", "get", "batch").out
    assert audited.must("endpoint", "config", "batch").out == "PolicyAuditMode  Enabled\n"
    tail = audited.must("audit", "tail", "-n", "500", "--verdict", "AUDIT", "-o", "json").out
    assert tail
    assert '"DROPPED"' not in tail


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("batch/config", {}, 400),
        ("batch/config", {"audit": "yes"}, 400),
        ("batch/config", {"audit": True, "debug": True}, 400),
        ("nobody/config", {"audit": True}, 404),
        ("batch/labels", {"add": ["reserved:host"]}, 400),
        ("nobody/labels", {"add": ["a=b"]}, 404),
    ],
)
def test_a_wrong_change_is_refused_and_changes_nothing(
    gate: Gate, path: str, body: dict[str, object], status: int
) -> None:
    before = gate.api("GET", "/v1/endpoints")
    assert gate.api("PATCH", f"/v1/endpoints/{path}", body)[0] == status
    assert gate.api("GET", "/v1/endpoints") == before


def test_explain_knows_who_is_audited(audited: Gate) -> None:
    question = ("rules", "explain", "--from", "batch", "--to", UNNAMED, "--port", "80/TCP")
    done = audited.ctl(*question, "-o", "json")
    assert (done.code, done.json["verdict"], done.json["reason"]) == (0, "AUDIT", "POLICY_DENIED")
    switch(audited, "batch", "Disabled")
    done = audited.ctl(*question, "-o", "json")
    assert (done.code, done.json["verdict"]) == (1, "DROPPED")


def test_it_survives_a_restart_of_the_agent(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate()
    switch(gate, "batch", "Enabled")
    gate.kill_agent()
    batch = gate.lab.batch.namespace
    assert opens(batch, UNNAMED)
    gate.start()
    assert gate.status()["audited_endpoints"] == ["batch"]
    assert opens(batch, UNNAMED)
    switch(gate, "batch", "Disabled")
    assert not opens(batch, UNNAMED)
    gate.stop_agent()
    gate.start()
    assert not opens(batch, UNNAMED)


def test_the_configuration_says_it_for_all_and_an_endpoint_for_itself(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate(settings={"policy_audit_mode": True})
    assert gate.status()["audited_endpoints"] == ["frontend", "batch", "backend"]
    assert opens(gate.lab.batch.namespace, gate.lab.backend.v4, 8080)
    switch(gate, "backend", "Disabled")
    assert not opens(gate.lab.batch.namespace, gate.lab.backend.v4, 8080)
    assert opens(gate.lab.batch.namespace, UNNAMED)


def test_a_file_says_it_and_a_command_outlives_the_files_next_reading(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate()
    batch = gate.lab.batch.namespace
    gate.must("endpoint", "remove", "batch")
    path = gate.lab.folder / "endpoints" / "batch.yaml"
    text = (
        f"{{name: batch, netns: {batch.name}, labels: {{app: batch, io.kubernetes.pod.namespace: shop}}, audit: AUDIT}}"
    )
    path.write_text(text.replace("AUDIT", "true"))
    gate.agent.signal(signal.SIGHUP)
    wait_until(lambda: gate.status()["audited_endpoints"] == ["batch"], "the file to be read")
    wait_until(lambda: opens(batch, UNNAMED), "what is audited to pass")
    switch(gate, "batch", "Disabled")
    path.write_text(text.replace("AUDIT", "true").replace("}, audit", ", tier: back}, audit"))
    gate.agent.signal(signal.SIGHUP)
    wait_until(lambda: "k8s:tier=back" in str(gate.endpoints()), "the file to be read again")
    assert gate.status()["audited_endpoints"] == []
    switch(gate, "batch", "Default")
    assert gate.status()["audited_endpoints"] == ["batch"]
