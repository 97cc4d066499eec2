# SPDX-License-Identifier: Apache-2.0
"""The running daemon's rules, explained by the command line: the answer and the reason that the data plane gave."""

import pytest

from l7lab import traffic
from l7lab.gate import Gate
from l7lab.scenario import API, API_V4


@pytest.mark.parametrize(
    ("method", "status", "code", "reason"), [("GET", 200, 0, "NONE"), ("PUT", 403, 1, "HTTP_DENIED")]
)
def test_a_learnt_address_is_explained_by_its_names_rules(
    gate: Gate, method: str, status: int, code: int, reason: str
) -> None:
    url = f"{API}/public/items"
    frontend = gate.lab.frontend.namespace
    assert traffic.browse(frontend, url)[0].addresses == (API_V4,)
    assert traffic.http(frontend, url, address=API_V4, method=method).status == status
    done = gate.ctl(
        *("rules", "explain", "--from", "frontend", "--to", API_V4, "--port", "80/TCP"),
        *("--http", f"{method} /public/items", "-o", "json"),
    )
    assert (done.code, done.json["reason"]) == (code, reason)
    assert [(one["policy"], one["path"]) for one in done.json["matched"]] == [
        ("shop/frontend-egress", "egress[1].toPorts[0]")
    ]


def test_what_is_dropped_between_workloads_is_explained_with_the_reason_of_the_log(gate: Gate) -> None:
    done = gate.ctl("rules", "explain", "--from", "batch", "--to", "backend", "--port", "8080/TCP", "-o", "json")
    assert (done.code, done.json["verdict"], done.json["reason"]) == (1, "DROPPED", "POLICY_DENIED")


def test_the_sources_are_those_in_force(gate: Gate) -> None:
    status, answer = gate.api("GET", "/v1/rules/sources")
    assert status == 200
    assert answer["revision"] == gate.status()["revision"]
    names = [one["path"].rpartition("/")[2] for one in answer["sources"]]
    assert names == ["10-frontend-egress.yaml", "20-backend-ingress.yaml", "30-batch.yaml"]
