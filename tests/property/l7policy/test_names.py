# SPDX-License-Identifier: Apache-2.0
"""Cilium's own translation of a pattern to a regular expression is the oracle for matching label by label."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from l7policy import names
from l7policy.model import FqdnPeer
from l7policy.names import NameSet


def as_cilium_translates(pattern: str) -> re.Pattern[str]:
    """pkg/fqdn/matchpattern/matchpattern.go, step by step."""
    canonical = names.canonical(pattern)
    if re.fullmatch(r"[*]+[.]?", canonical):
        return re.compile(r"(^([-a-zA-Z0-9_]+[.])+$)|(^[.]$)")
    expression = canonical.replace(".", "[.]")
    expression = re.sub(r"^[*]{2,}\[[.]\]", "([-a-zA-Z0-9_]+([.][-a-zA-Z0-9_]+){0,})[.]", expression)
    expression = re.sub(r"[*]+", "[-a-zA-Z0-9_]*", expression)
    return re.compile(f"^{expression}$")


LABELS = st.text("ab-", max_size=3)
NAMES = st.one_of(
    st.lists(LABELS, max_size=4).map(".".join),
    st.text("abA._ \\\x00\u212a", max_size=8),
)
PATTERNS = st.one_of(
    st.lists(st.text("ab*", min_size=1, max_size=4), min_size=1, max_size=4).map(".".join),
    st.sampled_from(["*", "**", "*.", "**.", "***.a", "**.a", "**.*", "*.**", "a.**.b", "**.**.a"]),
)


def peer(pattern: str) -> FqdnPeer:
    return FqdnPeer(match_pattern=names.canonical(pattern))


@given(st.lists(PATTERNS, max_size=6), NAMES)
@settings(max_examples=200, deadline=None)
def test_a_set_matches_what_the_expressions_of_its_patterns_match(patterns: list[str], name: str) -> None:
    peers = tuple(peer(pattern) for pattern in patterns)
    folded = names.fold(name)
    expected = tuple(
        item for item, pattern in zip(peers, patterns, strict=True) if as_cilium_translates(pattern).fullmatch(folded)
    )
    assert NameSet(peers).matching(name) == expected
    assert NameSet(peers).matches(name) == bool(expected)


@given(PATTERNS, st.data())
@settings(max_examples=200, deadline=None)
def test_a_name_made_from_a_pattern_matches_it(pattern: str, data: st.DataObject) -> None:
    filled = "".join(data.draw(LABELS) if letter == "*" else letter for letter in pattern)
    folded = names.fold(filled)
    assert NameSet([peer(pattern)]).matches(filled) == bool(as_cilium_translates(pattern).fullmatch(folded))


@given(st.text(max_size=30))
def test_any_text_at_all_can_be_asked_for(name: str) -> None:
    assert NameSet([peer("*.example.com"), peer("*")]).matches(name) in {True, False}
