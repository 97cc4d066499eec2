# SPDX-License-Identifier: Apache-2.0
"""Tests of l7policy.cases, and the cases of examples/tests with it."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from l7policy import cases, documents, question
from l7policy.cases import Outcome
from l7policy.cluster import Cluster
from l7policy.errors import PolicyErrors
from l7policy.policydoc import Policy, Source

EXAMPLES = Path(__file__).parents[3] / "examples"
CASE = "- {from: app=a, to: app=b, port: 80, expect: EXPECT}\n"


def policies_of(folder: Path) -> tuple[Policy, ...]:
    return documents.load([Source(str(path), path.read_text()) for path in sorted(folder.glob("*.yaml"))])


def run(text: str, policies: Sequence[Policy] = ()) -> tuple[Outcome, ...]:
    found = cases.load(Source("c.yaml", text))
    return cases.run(found.cases, policies, lambda end: question.side(end, Cluster()), lambda request: request)


def problems(text: str) -> list[str]:
    with pytest.raises(PolicyErrors) as caught:
        run(text)
    return [str(error) for error in caught.value.errors]


def test_the_examples_do_what_they_promise() -> None:
    path = EXAMPLES / "tests" / "cases.yaml"
    found = cases.load(Source(str(path), path.read_text()))
    (folder,) = found.policies
    outcomes = run(path.read_text(), policies_of(path.parent / folder))
    assert [(outcome.case.place.line, outcome.problem) for outcome in outcomes if outcome.problem] == []
    assert len(outcomes) >= 10


def test_no_case_is_where_the_daemon_reads_policies() -> None:
    assert len(policies_of(EXAMPLES / "policies")) == 4


@pytest.mark.parametrize(
    ("request_", "expect", "problem"),
    [
        ("port: 8080, http: GET /health", "allow", ""),
        ("port: 8080, http: GET /health", "REDIRECTED", ""),
        ("port: 8080, http: GET /health", "deny", "expected deny, got allow"),
        ("port: 8080, http: PUT /health", "deny", ""),
        ("port: 8080, http: PUT /health", "403", ""),
        ("port: 8080, http: PUT /health", "HTTP_DENIED", ""),
        ("port: 8080, http: PUT /health", "DROPPED", ""),
        ("port: 8080, http: PUT /health", "allow", "expected allow, got deny (HTTP_DENIED)"),
        ("port: 8080, http: PUT /health", "REFUSED", "expected REFUSED, got 403 (HTTP_DENIED)"),
        ("port: 8081/UDP", "403", "expected 403, got deny (POLICY_DENIED)"),
        ("port: 8080", "HTTP_DENIED", "expected HTTP_DENIED, got allow"),
        ("port: 8080", "allow, because: shop/backend-ingress", ""),
        ("port: 8080", "allow, because: 'shop/frontend-egress egress[3].toPorts[0]'", ""),
        ("port: 81", "deny, because: shop/backend-ingress", ""),
        (
            "port: 8080, http: PUT /",
            "deny, because: shop/frontend-egress",
            (
                "deny, but not because of shop/frontend-egress:"
                " shop/backend-ingress, shop/backend-ingress ingress[0].toPorts[0]"
            ),
        ),
    ],
)
def test_a_case_fails_where_the_answer_is_another(request_: str, expect: str, problem: str) -> None:
    ends = ", ".join(
        f"{end}: 'app={app},io.kubernetes.pod.namespace=shop'" for end, app in (("from", "frontend"), ("to", "backend"))
    )
    (outcome,) = run(f"- {{{ends}, {request_}, expect: {expect}}}", policies_of(EXAMPLES / "policies"))
    assert outcome.problem == problem


def test_a_file_is_a_list_or_names_what_it_is_about() -> None:
    text = "policies: p.yaml\ncluster: [a.yaml, b/]\ncases:\n" + CASE.replace("EXPECT", "deny")
    found = cases.load(Source("c.yaml", text))
    assert (found.policies, found.cluster, found.cases[0].expect) == (("p.yaml",), ("a.yaml", "b/"), "deny")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (CASE.replace("EXPECT", "alow"), "c.yaml:1:46: 'alow' is nothing to expect (hint: did you mean allow?)"),
        (CASE.replace(", expect: EXPECT", ""), "c.yaml:1:3: a case needs the field expect"),
        (CASE.replace("to:", "too:"), "c.yaml:1:17: unknown field too"),
        (CASE.replace("EXPECT", "deny, host: a"), "c.yaml:1:3: host and headers belong to a request"),
        (CASE.replace("EXPECT", "deny").replace("80", "80/X"), "c.yaml:1:3: unknown protocol 'X'"),
        (CASE.replace("EXPECT", "deny").replace("app=a", "a/b"), "c.yaml:1:3: 'a/b' is neither labels"),
        ("text", "c.yaml:1:1: a file of cases is a list"),
        ("", "c.yaml: there are no cases in it"),
        ("a: [", "c.yaml:1:5: not YAML"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, problem: str) -> None:
    found = problems(text)
    assert any(line.startswith(problem) for line in found), found
