# SPDX-License-Identifier: Apache-2.0
import pytest

from l7policy.sni import ServerNames, check, server_names


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("www.example.com", "www.example.com", True),
        ("WWW.Example.com", "www.EXAMPLE.com", True),
        ("www.example.com", "a.www.example.com", False),
        ("*", "www.example.com", True),
        ("*", "localhost", True),
        ("*", "", False),
        ("www.example.com", "", False),
        ("*.example.com", "www.example.com", True),
        ("*.example.com", "a.b.example.com", False),
        ("*.example.com", "example.com", False),
        ("**.example.com", "a.b.example.com", True),
        ("**.example.com", "example.com", False),
        ("a.**.com", "a.b.c.com", True),
        ("a.**.com", "a.b.com", True),
        ("a.**.com", "a.com", False),
        ("**.**.com", "a.b.com", True),
        ("**.**.com", "a.com", False),
        ("sub*.example.com", "sub.example.com", True),
        ("sub*.example.com", "subdomain.example.com", True),
        ("a*b*c.example.com", "a-b-c.example.com", True),
        ("a*b*c.example.com", "acb.example.com", False),
        ("*.example.com", "www.example.com.", False),
        ("*", "a..b", False),
        ("**.com", "a..com", False),
        ("*", "a b", False),
        ("*.example.com", "\u212a.example.com", False),
    ],
)
def test_a_server_name_is_matched_whole_and_without_case(pattern: str, name: str, expected: bool) -> None:
    assert ServerNames([pattern]).matches(name) is expected


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        ("***.com", "at most two stars"),
        ("a**.com", "only as a whole label"),
        ("x.com.", "ends in a dot"),
        ("a..com", "empty label"),
        (".com", "empty label"),
        ("", "empty label"),
        ("a b.com", "labels of letters"),
        ("b\u00fccher.example", "xn-- form"),
        ("a" * 256, "more than the 255"),
    ],
)
def test_what_is_no_pattern_is_refused(pattern: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        check(pattern)


def test_no_patterns_let_nothing_pass() -> None:
    assert not ServerNames(()).matches("www.example.com")


def test_one_of_several_patterns_is_enough_and_equal_lists_are_compiled_once() -> None:
    patterns = ("a.example", "*.example.com")
    assert server_names(patterns).matches("www.example.com")
    assert server_names(patterns) is server_names(patterns)
