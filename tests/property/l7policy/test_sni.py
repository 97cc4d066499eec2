# SPDX-License-Identifier: Apache-2.0
"""Whatever pattern and name meet: the answer is that of the regular expression Cilium's proxy would use."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from l7policy.sni import ServerNames, check

LABELS = st.sampled_from(["*", "**", "a", "b", "a*", "*a", "a*b", "A", "", "***"]) | st.text("ab*", max_size=3)
PATTERNS = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
CHARACTERS = "[-a-z0-9_]"
WHOLE_LABELS = f"{CHARACTERS}+(?:[.]{CHARACTERS}+)*"


def regexp(pattern: str) -> str:
    if pattern == "*":
        return WHOLE_LABELS
    if "*" not in pattern:
        return re.escape(pattern.lower())
    dots = pattern.lower().replace(".", "[.]")
    return re.sub("[*]{1,2}", lambda star: WHOLE_LABELS if star[0] == "**" else f"{CHARACTERS}*", dots)


NAMES = st.lists(st.text("abC-", max_size=3), max_size=5).map(".".join) | st.text(max_size=8)


@given(PATTERNS, NAMES)
@settings(max_examples=200, deadline=None)
def test_a_pattern_means_what_the_regular_expression_means(pattern: str, name: str) -> None:
    try:
        check(pattern)
    except ValueError:
        return
    folded = name.lower() if name.isascii() else name
    expected = bool(name) and re.fullmatch(regexp(pattern), folded) is not None
    assert ServerNames([pattern]).matches(name) is expected


@given(st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_pattern_or_refused(text: str) -> None:
    try:
        checked = check(text)
    except ValueError:
        return
    assert check(checked) == checked
