# SPDX-License-Identifier: Apache-2.0
import pytest

from l7policy.errors import PolicyError, PolicyErrors, did_you_mean


def test_a_mistake_prints_as_compilers_print_theirs() -> None:
    assert str(PolicyError("a.yaml", 3, 7, "wrong")) == "a.yaml:3:7: wrong"
    assert str(PolicyError("a.yaml", 3, 7, "wrong", "right")) == "a.yaml:3:7: wrong (hint: right)"
    assert str(PolicyError("a.yaml", 0, 0, "too large")) == "a.yaml: too large"


def test_mistakes_come_in_the_order_of_the_files_and_once() -> None:
    late, early, other = PolicyError("b", 9, 1, "x"), PolicyError("b", 2, 5, "x"), PolicyError("a", 9, 9, "x")
    errors = PolicyErrors([late, early, other, early])
    assert errors.errors == (other, early, late)
    assert str(errors) == "a:9:9: x\nb:2:5: x\nb:9:1: x"


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("matchname", ["matchName", "matchPattern"], "did you mean matchName?"),
        ("toFQDN", ["toFQDNs", "toCIDR"], "did you mean toFQDNs?"),
        ("zzz", ["b", "a"], "known here: a, b"),
        ("zzz", [str(number) for number in range(20)], ""),
        ("zzz", [], ""),
        ("x" * 100_000, ["toFQDNs"], "known here: toFQDNs"),
    ],
)
def test_a_hint_names_the_nearest_word(word: str, known: list[str], expected: str) -> None:
    assert did_you_mean(word, known) == expected
