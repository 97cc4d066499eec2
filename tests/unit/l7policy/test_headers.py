# SPDX-License-Identifier: Apache-2.0
import pytest

from l7policy.headers import Edit, Review, condition, edited, joined, no_secrets
from l7policy.http import HttpRules
from l7policy.model import HeaderMatch, HttpRule, Mismatch, Secret

TOKEN = Secret("shop", "token")
SECRETS = {TOKEN: "s3cret"}.get
LOG, ADD, DELETE, REPLACE = Mismatch.LOG, Mismatch.ADD, Mismatch.DELETE, Mismatch.REPLACE


def reviewed(*matches: HeaderMatch, **sent: str) -> Review:
    """Of one request with such headers (``x_a`` is X-A), under one rule."""
    return reviewed_by(HttpRule(headers=matches), **sent)


def reviewed_by(*rules: HttpRule, **sent: str) -> Review:
    headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in sent.items()]
    return HttpRules(rules, SECRETS).review(b"GET", b"/", b"a.example", headers)


@pytest.mark.parametrize(
    ("match", "sent", "expected"),
    [
        (HeaderMatch("X-A"), {"x_a": ""}, True),
        (HeaderMatch("X-A"), {}, False),
        (HeaderMatch("X-A", "b"), {"x_a": "b"}, True),
        (HeaderMatch("X-A", "b"), {"x_a": "B"}, False),
        (HeaderMatch("X-A", "b"), {}, False),
        (HeaderMatch("X-A", None, TOKEN), {"x_a": "s3cret"}, True),
        (HeaderMatch("X-A", "b", TOKEN), {"x_a": "b"}, False),
        (HeaderMatch("X-A", "b", Secret("shop", "gone")), {"x_a": "b"}, True),
        (HeaderMatch("X-A", None, Secret("shop", "gone")), {"x_a": "b"}, False),
        (HeaderMatch("X-A", None, Secret("shop", "gone"), LOG), {"x_a": "b"}, False),
    ],
)
def test_a_condition_without_an_action_fails_its_rule(match: HeaderMatch, sent: dict[str, str], expected: bool) -> None:
    assert reviewed(match, **sent) == Review(expected)


@pytest.mark.parametrize(
    ("mismatch", "sent", "expected"),
    [
        (LOG, {}, Review(True, missing=("X-A: b",))),
        (LOG, {"x_a": "c"}, Review(True, missing=("X-A: b",))),
        (ADD, {"x_a": "c"}, Review(True, (Edit(ADD, "X-A", b"b"),), missing=("X-A: b",))),
        (DELETE, {"x_a": "c"}, Review(True, (Edit(DELETE, "X-A"),), rejected=("X-A: c",))),
        (DELETE, {}, Review(True)),
        (REPLACE, {"x_a": "c"}, Review(True, (Edit(REPLACE, "X-A", b"b"),), ("X-A: b",), ("X-A: c",))),
        (REPLACE, {}, Review(True, (Edit(REPLACE, "X-A", b"b"),), ("X-A: b",))),
    ],
)
def test_an_action_lets_the_request_pass_and_does_what_it_says(
    mismatch: Mismatch, sent: dict[str, str], expected: Review
) -> None:
    match = HeaderMatch("X-A", "b", None, mismatch)
    assert reviewed(match, **sent) == expected
    assert reviewed(match, x_a="b") == Review(True)
    assert HttpRules([HttpRule(headers=(match,))]).match(b"GET", b"/", b"", ())


def test_every_rule_that_matches_has_its_say() -> None:
    rules = (
        HttpRule(path="/", headers=(HeaderMatch("X-A", "b", None, REPLACE),)),
        HttpRule(method="POST", headers=(HeaderMatch("X-B", "n", None, ADD),)),
        HttpRule(),
        HttpRule(headers=(HeaderMatch("X-C", "d", None, REPLACE),)),
    )
    found = reviewed_by(*rules, x_a="c", x_c="c")
    assert found.allowed
    assert found.edits == (Edit(REPLACE, "X-A", b"b"), Edit(REPLACE, "X-C", b"d"))
    assert HttpRules(rules).edits
    assert not HttpRules(rules[2:3]).edits


def test_a_secret_is_never_recorded() -> None:
    found = reviewed(HeaderMatch("X-A", None, TOKEN, REPLACE), x_a="stolen")
    assert found.edits == (Edit(REPLACE, "X-A", b"s3cret"),)
    assert (found.missing, found.rejected) == (("X-A: [redacted]",), ("X-A: [redacted]",))


def test_without_secrets_only_the_value_that_stands_in_counts() -> None:
    assert condition(HeaderMatch("X-A", None, TOKEN), no_secrets) is None
    assert condition(HeaderMatch("X-A", "b", TOKEN), no_secrets) is not None
    assert not HttpRules([HttpRule(headers=(HeaderMatch("X-A", None, TOKEN),))]).match(b"GET", b"/", b"", ())


def test_values_of_one_name_are_one_value_with_commas() -> None:
    assert joined([(b"X-A", b"1"), (b"x-a", b"2"), (b"B", b"")]) == {b"x-a": b"1,2", b"b": b""}


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (Edit(ADD, "X-A", b"b"), [(b"x-a", b"1"), (b"X_A", b"2"), (b"Y", b"3"), (b"X-A", b"b")]),
        (Edit(DELETE, "X-A"), [(b"Y", b"3")]),
        (Edit(REPLACE, "X-A", b"b"), [(b"Y", b"3"), (b"X-A", b"b")]),
        (Edit(DELETE, "X-B"), [(b"x-a", b"1"), (b"X_A", b"2"), (b"Y", b"3")]),
    ],
)
def test_an_edit_leaves_no_twin_of_what_it_takes_out(edit: Edit, expected: list[tuple[bytes, bytes]]) -> None:
    assert edited([(b"x-a", b"1"), (b"X_A", b"2"), (b"Y", b"3")], [edit]) == expected


def test_a_twin_with_underscores_does_not_hide_a_header_from_its_deletion() -> None:
    match = HttpRule(headers=(HeaderMatch("X-A", "b", None, DELETE),))
    for sent in ([(b"X-A", b"c"), (b"X_A", b"d")], [(b"X_A", b"d")]):
        found = HttpRules([match]).review(b"GET", b"/", b"", sent)
        assert edited(sent, found.edits) == []
