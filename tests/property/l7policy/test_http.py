# SPDX-License-Identifier: Apache-2.0
"""A rule list is compared with the same rules read literally, field by field, by Python's own expressions."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from l7policy.http import HttpRules
from l7policy.model import HeaderMatch, HttpRule

EXPRESSIONS = st.sampled_from(["", "a", "ab", "a|b", "a.*", "(a|b)+", "^a$", "^a|b$", "[^a]", "a?", "b+c*"])
VALUES = st.text("abc", max_size=3).map(str.encode)
HEADER_NAMES = st.sampled_from(["X", "x", "Y"])
RULES = st.builds(
    HttpRule,
    method=EXPRESSIONS,
    path=EXPRESSIONS,
    host=EXPRESSIONS,
    headers=st.lists(
        st.builds(HeaderMatch, HEADER_NAMES, st.none() | st.sampled_from(["", "a", "a,b"])), max_size=2
    ).map(tuple),
)
HEADERS = st.lists(st.tuples(HEADER_NAMES.map(str.encode), st.sampled_from([b"", b"a", b"b"])), max_size=3)


def read_literally(rule: HttpRule, method: bytes, path: bytes, host: bytes, headers: list[tuple[bytes, bytes]]) -> bool:
    for expression, value in ((rule.method, method), (rule.path, path), (rule.host, host)):
        if expression and not re.fullmatch(expression, value.decode()):
            return False
    for wanted in rule.headers:
        sent = [value for name, value in headers if name.lower() == wanted.name.lower().encode()]
        if not sent or (wanted.value is not None and b",".join(sent) != wanted.value.encode()):
            return False
    return True


@given(st.lists(RULES, max_size=12), VALUES, VALUES, VALUES, HEADERS)
@settings(max_examples=200, deadline=None)
def test_a_request_passes_when_one_rule_matches_it_in_full(
    rules: list[HttpRule], method: bytes, path: bytes, host: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    compiled = HttpRules(rules)
    expected = any(read_literally(rule, method, path, host, headers) for rule in rules)
    assert compiled.match(method, path, host, headers) == expected
    assert compiled.match(method, path, host, iter(headers)) == expected


@given(st.binary(max_size=40), st.binary(max_size=600), st.binary(max_size=40))
@settings(max_examples=100, deadline=None)
def test_any_bytes_at_all_can_be_judged(method: bytes, path: bytes, host: bytes) -> None:
    rules = HttpRules([HttpRule(method="GET|POST", path="/.*", host=".+", headers=(HeaderMatch("x"),))])
    assert rules.match(method, path, host, [(path, host)]) in {True, False}
