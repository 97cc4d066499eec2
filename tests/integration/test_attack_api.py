# SPDX-License-Identifier: Apache-2.0
"""What a clumsy operator or a damaged disk gives the agent: an answer or one clear line, never a traceback."""

import http.client
import json
import threading
from collections.abc import Callable

import pytest

from l7lab import traffic
from l7lab.gate import Gate, Json, program
from l7lab.process import wait_until
from l7lab.topology import IN_CIDR, UNNAMED

LABELS = ["app=batch", "io.kubernetes.pod.namespace=shop"]

# Each is JSON of the right shape with values that no agent ever wrote.
IMPOSSIBLE = {
    "an identity below zero": ("identities.json", {"workloads": {"k8s:a=b": -5}, "cidrs": {"cidr:192.0.2.0/24": 1}}),
    "an endpoint number that no table holds": (
        "endpoints.json",
        {"endpoints": {"99999999999": {"name": "x", "netns": "x", "labels": ["k8s:a=b"]}}},
    ),
    "a revision that no table holds": (
        "revisions/99999999999.json",
        {"revision": 99999999999, "time": 1.0, "sources": [["x.yaml", "{"]]},
    ),
}


@pytest.mark.parametrize("key", ["²", "٣", "9" * 5000, "..", "a%00b"])
def test_a_name_that_no_endpoint_can_have_is_not_found(gate: Gate, key: str) -> None:
    path = "".join(f"%{byte:02x}" for byte in key.encode())
    assert gate.api("DELETE", f"/v1/endpoints/{path}")[0] == 404
    assert gate.api("GET", f"/v1/bpf/policy?endpoint={path}")[0] == 404


@pytest.mark.parametrize("netns", ["a" * 300, "/" + "a/" * 5000, "/proc/1/ns/mnt", "/dev/zero", "..", "/"])
def test_a_path_that_is_no_namespace_is_refused_in_words(gate: Gate, netns: str) -> None:
    status, body = gate.api("POST", "/v1/endpoints", {"netns": netns, "labels": ["a=b"], "name": "odd"})
    assert status in (400, 404), body


def test_removing_an_endpoint_twice_at_once_never_removes_the_one_that_came_after(
    make_gate: Callable[..., Gate],
) -> None:
    """Numbers are given again; who is to be removed is not whoever has the number by then."""
    gate = make_gate()
    lab = gate.lab
    body = {"netns": lab.batch.namespace.name, "labels": LABELS, "name": "batch"}
    for _ in range(4):
        gate.must("endpoint", "remove", "batch")
        gate.must("endpoint", "remove", "backend")
        assert gate.api("POST", "/v1/endpoints", body)[0] == 201
        other = {
            "netns": lab.backend.namespace.name,
            "labels": ["app=backend", "io.kubernetes.pod.namespace=shop"],
            "name": "backend",
        }
        answers: list[tuple[str, int]] = []

        def call(method: str, path: str, sent: Json | None, answers: list[tuple[str, int]] = answers) -> None:
            answers.append((method, gate.api(method, path, sent)[0]))

        steps = [("DELETE", "/v1/endpoints/batch", None)] * 8
        threads = [threading.Thread(target=call, args=step) for step in (*steps[:2], ("POST", "/v1/endpoints", other))]
        threads += [threading.Thread(target=call, args=step) for step in steps[2:]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ("POST", 201) in answers
        assert {one["name"] for one in gate.endpoints()} == {"frontend", "backend"}, answers
        assert gate.api("POST", "/v1/endpoints", body)[0] == 201


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_state_file_with_impossible_values_is_named_and_changes_no_verdict(
    unstarted_gate: Callable[..., Gate], name: str
) -> None:
    gate = unstarted_gate()
    gate.start()
    gate.add_all()
    gate.stop_agent()
    file, content = IMPOSSIBLE[name]
    (gate.lab.folder / "state" / file).write_text(json.dumps(content))
    log = gate.lab.folder / "l7d.log"
    before = len(log.read_text())
    gate.agent = gate.lab.start(
        gate.lab.node, [str(part) for part in (program("l7d"), "--config", gate.config, "agent")], "l7d"
    )
    wait_until(lambda: gate.agent.exit_code is not None or served(gate), "the agent to start or to end", 15.0)
    assert "Traceback" not in log.read_text()[before:]
    batch = gate.lab.batch.namespace
    assert traffic.connect(batch, IN_CIDR, 80).open
    assert not traffic.connect(batch, UNNAMED, 80).open


def served(gate: Gate) -> bool:
    try:
        return gate.ready()
    except (OSError, http.client.HTTPException):
        return False
