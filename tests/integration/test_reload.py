# SPDX-License-Identifier: Apache-2.0
"""A reload is all or nothing, and reaches the connections that exist."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from l7lab import traffic
from l7lab.gate import Gate, Json
from l7lab.process import wait_until
from l7lab.scenario import API, API_V4, CDN_V4, FRONTEND_RULES, PUBLIC_RULE
from l7lab.topology import IN_CIDR
from l7lab.traffic import Stream

BATCH_RULES = "30-batch.yaml"
BATCH_CIDR = "- 198.51.100.64/26"
OTHER_CIDR = "- 198.51.100.192/26"
RESULTS = "http://results.example/"
BAD = "99-bad.yaml"

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: bad, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: batch}}
"""
# Each says with `# here` at which line the mistake is.
MISTAKES = {
    "broken YAML": "a: [1, 2\nb: }  # here\n",
    "a tab for indentation": "a:\n\tb: 1  # here\n",
    "an unknown field": POLICY + "  egres: []  # here\n",
    "a field that is not supported": POLICY + "  egress:\n  - toGroups: []  # here\n",
    "two peers in one element": POLICY
    + "  egress:\n  - toCIDR: [192.0.2.0/24]\n    toFQDNs: [{matchName: a.example}]  # here\n",
    "HTTP rules on UDP": POLICY
    + "  egress:\n  - toPorts:\n    - ports: [{port: '80', protocol: UDP}]  # here\n"
    + "      rules: {http: [{method: GET}]}\n",
    "an invalid regular expression": POLICY
    + "  egress:\n  - toPorts:\n    - ports: [{port: '80', protocol: TCP}]\n"
    + "      rules:\n        http:\n        - path: '/(a'  # here\n",
    "a name pattern that is too long": POLICY + f"  egress:\n  - toFQDNs:\n    - matchPattern: '{'a' * 256}'  # here\n",
    "a network that is none": POLICY + "  egress:\n  - toCIDR: [192.0.2.0/33]  # here\n",
    "a duplicate policy": POLICY.replace("name: bad", "name: batch-egress").replace("v2\n", "v2  # here\n")
    + "  egress: [{}]\n",
    "an unknown kind": "apiVersion: v1\nkind: Pod  # here\nmetadata: {name: bad}\n",
    "no document at all but text": "just text  # here\n",
}


def state(gate: Gate) -> Json:
    """All that a reload may change. What counts packets is left out."""
    rows = gate.api("GET", "/v1/bpf/policy")[1]
    return {
        "revision": gate.status()["revision"],
        "rules": gate.api("GET", "/v1/rules")[1],
        "revisions": gate.api("GET", "/v1/rules/revisions")[1],
        "endpoints": gate.endpoints(),
        "identities": gate.api("GET", "/v1/identities")[1],
        "ipcache": gate.api("GET", "/v1/bpf/ipcache")[1],
        "policy": [{key: row[key] for key in row if key not in ("packets", "bytes")} for row in rows],
    }


def many(networks: int, ports: int) -> str:
    """A policy that needs a row for each pair, and a prefix for each network."""
    listed = ", ".join(f"198.51.100.{host}/32" for host in range(100, 100 + networks))
    ranges = ", ".join(f"{{port: '{port}', protocol: TCP}}" for port in range(2001, 2001 + 2 * ports, 2))
    return POLICY + f"  egress:\n  - toCIDR: [{listed}]\n    toPorts:\n    - ports: [{ranges}]\n"


@pytest.fixture(autouse=True)
def put_back(request: pytest.FixtureRequest) -> Iterator[None]:
    """The next test begins with the example policies in force."""
    yield
    if "gate" in request.fixturenames:
        gate: Gate = request.getfixturevalue("gate")
        gate.restore()
        assert gate.api("POST", "/v1/rules/reload", {})[0] == 200


def learn(gate: Gate) -> None:
    """The frontend asks for its names, so that it may use their addresses."""
    for name in ("api.example.com", "img.cdn.example.com", "www.cdn.example.com"):
        assert traffic.dns(gate.lab.frontend.namespace, name).addresses


@pytest.fixture
def batch_stream(gate: Gate, tmp_path: Path) -> Iterator[Stream]:
    """A connection of `batch` that no proxy carries."""
    with Stream.http(gate.lab.batch.namespace, tmp_path / "batch", RESULTS, address=IN_CIDR) as stream:
        stream.wait_count(3)
        yield stream


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_one_file_changes_nothing_and_is_named_by_its_line(gate: Gate, mistake: str) -> None:
    text = MISTAKES[mistake]
    line = next(number for number, one in enumerate(text.splitlines(), start=1) if "# here" in one)
    before = state(gate)
    gate.edit(BATCH_RULES, BATCH_CIDR, OTHER_CIDR)
    gate.write(BAD, text)
    done = gate.ctl("rules", "reload")
    assert done.code == 1
    assert f"{BAD}:{line}:" in done.err
    assert f"{BAD}:{line}:" in gate.status()["policy_load_error"]
    assert state(gate) == before
    assert gate.api("POST", "/v1/rules/diff", {})[0] == 422
    (gate.policies / BAD).unlink()
    assert gate.api("POST", "/v1/rules/reload", {})[0] == 200
    assert gate.status()["policy_load_error"] == ""
    assert gate.status()["revision"] > before["revision"]


def test_a_file_that_cannot_be_read_changes_nothing_and_is_named(gate: Gate) -> None:
    before = state(gate)
    (gate.policies / BAD).write_bytes(b"# caf\xe9\n")
    not_text = gate.ctl("rules", "reload")
    (gate.policies / BAD).unlink()
    (gate.policies / BAD).mkdir()
    not_a_file = gate.ctl("rules", "reload")
    hidden = gate.policies.rename(gate.policies.with_name("hidden"))
    no_folder = gate.ctl("rules", "reload")
    hidden.rename(gate.policies)
    assert [done.code for done in (not_text, not_a_file, no_folder)] == [1, 1, 1]
    assert f"{BAD}: is not UTF-8" in not_text.err
    assert f"{BAD}: cannot be read: Is a directory" in not_a_file.err
    assert f"{gate.policies}: cannot be read: No such file or directory" in no_folder.err
    assert state(gate) == before


def test_nothing_new_is_no_new_revision(gate: Gate) -> None:
    before = state(gate)
    done = gate.must("rules", "reload", "-o", "json").json
    assert (done["changed"], done["revision"]) == (False, before["revision"])
    assert state(gate) == before


def test_diff_tells_what_reload_would_do_and_reload_does_it(gate: Gate) -> None:
    before = state(gate)
    gate.edit(BATCH_RULES, BATCH_CIDR, OTHER_CIDR)
    gate.write("40-more.yaml", POLICY.replace("name: bad", "name: more") + "  egress: [{}]\n")
    (gate.policies / "20-backend-ingress.yaml").unlink()
    diff = gate.must("rules", "diff", "-o", "json").json
    assert state(gate) == before
    assert (diff["added"], diff["removed"], diff["modified"]) == (
        ["shop/more"],
        ["shop/backend-ingress"],
        ["shop/batch-egress"],
    )
    assert {(one["name"], one["direction"]) for one in diff["endpoints"]} == {
        ("batch", "egress"),
        ("backend", "ingress"),
    }
    change = gate.must("rules", "reload", "-o", "json").json
    assert {key: change[key] for key in ("added", "removed", "modified")} == {
        key: diff[key] for key in ("added", "removed", "modified")
    }
    assert change["changed"]
    assert set(change["endpoints"]) == {"batch", "backend"}
    assert change["endpoints_changed"] == 2
    assert change["revision"] > before["revision"]


def test_rollback_brings_an_earlier_rule_set_back_as_a_new_revision(gate: Gate) -> None:
    learn(gate)
    frontend = gate.lab.frontend.namespace
    first = gate.status()["revision"]
    gate.edit(FRONTEND_RULES, PUBLIC_RULE, "path: /closed/.*")
    second = gate.must("rules", "reload", "-o", "json").json["revision"]
    assert traffic.http(frontend, f"{API}/public/x", address=API_V4).status == 403
    third = gate.must("rules", "rollback", "-o", "json").json
    assert traffic.http(frontend, f"{API}/public/x", address=API_V4).status == 200
    assert third["modified"] == ["shop/frontend-egress"]
    assert first < second < third["revision"]
    gate.must("rules", "rollback", str(second))
    assert traffic.http(frontend, f"{API}/public/x", address=API_V4).status == 403
    kept = gate.must("rules", "revisions", "-o", "json").json
    assert [one["active"] for one in kept] == [False] * (len(kept) - 1) + [True]
    assert {first, second, third["revision"]} < {one["revision"] for one in kept}
    unknown = gate.ctl("rules", "rollback", "999999")
    assert unknown.code == 1
    assert "revision 999999 is not kept" in unknown.err


def test_a_hang_up_reloads_as_the_command_does_and_opens_the_log_anew(gate: Gate) -> None:
    before = gate.status()["revision"]
    gate.edit(BATCH_RULES, BATCH_CIDR, OTHER_CIDR)
    moved = gate.audit_log.rename(gate.audit_log.with_suffix(".moved"))
    gate.agent.signal(signal.SIGHUP)
    wait_until(lambda: gate.status()["revision"] == before + 1, "the next revision")
    assert not traffic.connect(gate.lab.batch.namespace, IN_CIDR, 80, timeout=0.3).open
    gate.wait_audit(lambda record: record["revision"] == before + 1, "in the new file")
    assert moved.exists()

    unchanged = state(gate)
    gate.write(BAD, MISTAKES["an unknown field"])
    gate.agent.signal(signal.SIGHUP)
    wait_until(lambda: BAD in gate.status()["policy_load_error"], "the refusal")
    assert state(gate) == unchanged


def test_an_established_connection_that_becomes_forbidden_stops(gate: Gate, batch_stream: Stream) -> None:
    gate.edit(BATCH_RULES, BATCH_CIDR, OTHER_CIDR)
    gate.must("rules", "reload")
    # One request may have been answered after the mark and before the reload was over.
    mark = batch_stream.mark() + 1
    reached = len(gate.lab.web.seen())
    batch_stream.wait_count(1, mark=mark, timeout=10.0)
    assert {step.outcome for step in batch_stream.since(mark)} == {"timeout"}
    assert len(gate.lab.web.seen()) <= reached + 1
    gate.restore()
    gate.must("rules", "reload")
    batch_stream.wait_for(lambda seen: bool(seen) and seen[-1].outcome == "200", "traffic again", timeout=10.0)


def test_an_established_connection_that_becomes_http_is_reset_and_the_next_is_judged(
    gate: Gate, batch_stream: Stream
) -> None:
    text = (gate.policies / BATCH_RULES).read_text()
    ports = '            - port: "80"\n              protocol: TCP\n'
    assert ports in text
    gate.write(BATCH_RULES, text.replace(ports, f"{ports}          rules: {{http: [{{path: /open/.*}}]}}\n", 1))
    gate.must("rules", "reload")
    seen = batch_stream.wait_for(lambda seen: bool(seen) and seen[-1].outcome == "403", "the proxy's answer")
    assert [step.outcome for step in seen if step.outcome not in ("200", "403")] in (["reset"], ["RemoteDisconnected"])
    assert seen[-1].connection == seen[0].connection + 1


def test_a_proxied_connection_is_judged_anew_for_each_request(gate: Gate, tmp_path: Path) -> None:
    learn(gate)
    frontend = gate.lab.frontend.namespace
    rules = (gate.policies / FRONTEND_RULES).read_text()
    steps = {
        "403": rules.replace(PUBLIC_RULE, "path: /closed/.*"),
        "200": rules,
    }
    with Stream.http(frontend, tmp_path / "log", f"{API}/public/x", address=API_V4) as stream:
        stream.wait_count(3)
        for outcome, text in [*steps.items(), *steps.items()]:
            gate.write(FRONTEND_RULES, text)
            gate.must("rules", "reload")
            mark = stream.mark() + 1
            assert {step.outcome for step in stream.wait_count(5, mark=mark)} == {outcome}
        assert {step.connection for step in stream.outcomes()} == {1}


def test_traffic_flows_without_a_fault_while_rules_change_all_the_time(gate: Gate, tmp_path: Path) -> None:
    learn(gate)
    lab = gate.lab
    text = (gate.policies / BATCH_RULES).read_text()
    with (
        Stream.http(lab.frontend.namespace, tmp_path / "http", f"{API}/public/x", address=API_V4) as http,
        Stream.http(lab.batch.namespace, tmp_path / "l4", RESULTS, address=IN_CIDR, keep_alive=False) as plain,
        Stream.dns(lab.frontend.namespace, tmp_path / "dns", "api.example.com") as dns,
    ):
        for round_ in range(12):
            gate.write(
                BATCH_RULES,
                text + "\n" if round_ % 2 else text.replace(BATCH_CIDR, f"{BATCH_CIDR}\n{' ' * 8}{OTHER_CIDR}"),
            )
            assert gate.api("POST", "/v1/rules/reload", {})[0] == 200
        for stream, good in ((http, "200"), (plain, "200"), (dns, "NOERROR")):
            assert {step.outcome for step in stream.wait_count(5)} == {good}
        assert {step.connection for step in http.outcomes()} == {1}


def test_a_process_that_does_not_answer_fails_the_reload_and_nothing_changes(gate: Gate) -> None:
    before, workers = state(gate), gate.workers()
    stopped = ("dns-0", "http-1")
    gate.edit(BATCH_RULES, BATCH_CIDR, OTHER_CIDR)
    for name in stopped:
        os.kill(workers[name], signal.SIGSTOP)
    try:
        status, answer = gate.api("POST", "/v1/rules/reload", {}, timeout=25.0)
        during = state(gate)
    finally:
        for name in stopped:
            os.kill(workers[name], signal.SIGCONT)
    assert status == 503
    for name in stopped:
        assert f"{name} did not answer" in answer["error"]
    assert during == before
    assert gate.must("rules", "reload", "-o", "json").json["revision"] > before["revision"]
    assert gate.workers() == workers
    assert not traffic.connect(gate.lab.batch.namespace, IN_CIDR, 80, timeout=0.3).open


@pytest.mark.parametrize("name", ["dns-0", "http-0", "http-1"])
def test_a_killed_process_is_back_in_the_middle_of_a_reload_and_nothing_is_forgotten(
    gate: Gate, tmp_path: Path, name: str
) -> None:
    learn(gate)
    frontend = gate.lab.frontend.namespace
    known = gate.api("GET", "/v1/fqdn/cache")[1]
    workers = gate.workers()
    others = {key: pid for key, pid in workers.items() if key != name}
    stopping = threading.Event()
    failed: list[object] = []

    def keep_reloading() -> None:
        text = (gate.policies / BATCH_RULES).read_text()
        while not stopping.is_set():
            text = text.replace(BATCH_CIDR, OTHER_CIDR) if BATCH_CIDR in text else text.replace(OTHER_CIDR, BATCH_CIDR)
            gate.write(BATCH_RULES, text)
            status, answer = gate.api("POST", "/v1/rules/reload", {})
            if status != 200:
                failed.append(answer)

    reloads = threading.Thread(target=keep_reloading)
    with Stream.http(frontend, tmp_path / "log", f"{API}/public/x", address=API_V4, keep_alive=False) as stream:
        stream.wait_count(3)
        reloads.start()
        try:
            os.kill(workers[name], signal.SIGKILL)
            wait_until(lambda: gate.workers()[name] != workers[name] and gate.ready(), f"{name} to be back")
            # Learnt before: needs no question, and no agent.
            assert traffic.http(frontend, "http://www.cdn.example.com/", address=CDN_V4).status == 200
            stream.wait_for(
                lambda seen: [step.outcome for step in seen[-10:]] == ["200"] * 10, "requests again", timeout=10.0
            )
        finally:
            stopping.set()
            reloads.join()
    assert failed == []
    assert {key: pid for key, pid in gate.workers().items() if key != name} == others
    process = next(one for one in gate.status()["processes"] if one["name"] == name)
    assert process["restarts"] >= 1
    kept = {(row["name"], row["address"], row["identity"]) for row in gate.api("GET", "/v1/fqdn/cache")[1]}
    assert {(row["name"], row["address"], row["identity"]) for row in known} <= kept


def test_rules_that_do_not_fit_the_kernel_change_nothing_and_name_the_table(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate(settings={"maps": {"policy": 512, "ipcache": 64}})
    before = state(gate)
    for table, text in (("policy", many(networks=30, ports=40)), ("ipcache", many(networks=80, ports=1))):
        gate.write(BAD, text)
        done = gate.ctl("rules", "reload")
        assert done.code == 1
        assert f"the kernel table {table} is full" in done.err
        assert state(gate) == before
    frontend = gate.lab.frontend.namespace
    assert traffic.dns(frontend, "api.example.com").addresses
    assert traffic.http(frontend, f"{API}/public/x", address=API_V4).status == 200
    gate.write(BAD, many(networks=2, ports=2))
    gate.must("rules", "reload")
    gate.kill_agent()
    gate.start()
    assert gate.status()["policies"] == len(before["rules"]["policies"]) + 1
