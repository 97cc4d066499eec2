# SPDX-License-Identifier: Apache-2.0
import pytest

from l7policy import ciliumhttp, yamltree
from l7policy.model import HeaderMatch, HttpRule, Mismatch, Secret
from l7policy.reader import Reader


def read(text: str, namespace: str = "shop") -> tuple[tuple[HttpRule, ...], list[str]]:
    reader = Reader()
    found = ciliumhttp.rules(reader, yamltree.parse("f", text)[0], namespace)
    return found, [f"{error.column}: {error.message}" for error in reader.errors]


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        ("{name: X-A}", HeaderMatch("X-A")),
        ("{name: X-A, value: b}", HeaderMatch("X-A", "b")),
        ("{name: X-A, value: b, mismatch: REPLACE}", HeaderMatch("X-A", "b", None, Mismatch.REPLACE)),
        ("{name: X-A, mismatch: DELETE}", HeaderMatch("X-A", None, None, Mismatch.DELETE)),
        ("{name: X-A, secret: {name: s}}", HeaderMatch("X-A", None, Secret("shop", "s"))),
        (
            "{name: X-A, secret: {name: s, namespace: other}, value: b, mismatch: ADD}",
            HeaderMatch("X-A", "b", Secret("other", "s"), Mismatch.ADD),
        ),
    ],
)
def test_header_matches(element: str, expected: HeaderMatch) -> None:
    assert read(f"[{{headerMatches: [{element}]}}]") == ((HttpRule(headers=(expected,)),), [])


def test_headers_and_header_matches_are_conditions_of_one_rule() -> None:
    found, errors = read("[{method: GET, headers: ['X-B: c', X-D], headerMatches: [{name: X-A}]}]")
    assert errors == []
    assert found == (HttpRule("GET", headers=(HeaderMatch("X-B", "c"), HeaderMatch("X-D"), HeaderMatch("X-A"))),)


def test_a_clusterwide_policy_finds_its_secrets_in_default() -> None:
    found, _ = read("[{headerMatches: [{name: X-A, secret: {name: s}}]}]", namespace="")
    assert found[0].headers[0].secret == Secret("default", "s")


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        ("{value: b}", "19: an element of headerMatches needs the field name"),
        ("{name: 'X A'}", "26: name: 'X A' is not the name of a header"),
        ("{name: X-A, value: ''}", "38: value: '' can never be a header's value: it is empty, or has blanks at an end"),
        ("{name: X-A, mismatch: log}", "41: mismatch: unknown action 'log'; did you mean LOG?"),
        ("{name: X-A, mismatch: FAIL}", "41: mismatch: unknown action 'FAIL'; known here: ADD, DELETE, LOG, REPLACE"),
        ("{name: X-A, mismatch: ADD}", "19: mismatch ADD needs a value or a secret to set"),
        (
            "{name: Host, value: b, mismatch: ADD}",
            "19: mismatch ADD cannot change Host: the request would be another one",
        ),
        ("{name: content_length, mismatch: DELETE}", "19: mismatch DELETE cannot change content_length: the request"),
        ("{name: X-A, secret: {}}", "39: secret needs the field name"),
        ("{name: X-A, secret: {name: A_B}}", "46: name: 'A_B' cannot name a secret"),
        ("{name: X-A, secret: {name: s, namespace: a.b}}", "60: namespace: 'a.b' cannot name a namespace"),
        ("{name: X-A, valeu: b}", "31: unknown field valeu"),
    ],
)
def test_a_header_match_that_cannot_mean_what_it_says_is_refused(element: str, expected: str) -> None:
    (error,) = read(f"[{{headerMatches: [{element}]}}]")[1]
    assert error.startswith(expected)
