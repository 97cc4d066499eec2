# SPDX-License-Identifier: Apache-2.0
import pytest

from l7policy import names
from l7policy.model import FqdnPeer
from l7policy.names import NameSet


def pattern(text: str) -> NameSet:
    return NameSet([FqdnPeer(match_pattern=text)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" A*.Example.COM ", "a*.example.com."),
        ("example.com.", "example.com."),
        ("*", "*"),
        ("**", "**"),
        ("***.", "***."),
        ("", "."),
        (".", "."),
    ],
)
def test_canonical_form_is_trimmed_lower_case_with_a_trailing_dot_except_for_stars_alone(
    text: str, expected: str
) -> None:
    assert names.canonical(text) == expected


def test_folding_leaves_letters_that_only_look_like_ascii_alone() -> None:
    assert names.fold("\u212aernel.ORG") == "\u212aernel.org."


MATCHES = [
    ("*", "."),
    ("*", "cilium.io."),
    ("*", "a.b.cilium.io."),
    ("**", "cilium.io."),
    ("***.", "cilium.io."),
    ("*.cilium.io", "www.cilium.io."),
    ("*cilium.io", "cilium.io."),
    ("*cilium.io", "subcilium.io."),
    ("sub*.cilium.io", "sub.cilium.io."),
    ("sub*.cilium.io", "subdomain.cilium.io."),
    ("**.cilium.io", "www.cilium.io."),
    ("**.cilium.io", "a.b.cilium.io."),
    ("***.cilium.io", "a.b.cilium.io."),
    ("a.**.io", "a.b.io."),
    ("A*.Example.COM", "abc.example.com."),
    ("*.*.com", "a.b.com."),
    ("*.*.com", ".b.com."),
    ("*.example.com", "UPPER.example.COM"),
    ("cilium.io", "cilium.io"),
    ("a*b*c.io", "axxbyyc.io."),
    ("a*b*c.io", "abc.io."),
    ("**.a*.io", "x.y.abc.io."),
    ("foo.*", "foo.bar."),
]

MISSES = [
    ("*", "bad name."),
    ("*", "a..b."),
    ("*", ".a."),
    ("*.cilium.io", "cilium.io."),
    ("*.cilium.io", "a.b.cilium.io."),
    ("*.cilium.io", "www.cilium.io.evil.com."),
    ("*cilium.io", "www.cilium.io."),
    ("sub*.cilium.io", "x.sub.cilium.io."),
    ("**.cilium.io", "cilium.io."),
    ("**.cilium.io", ".cilium.io."),
    ("**.cilium.io", "a..cilium.io."),
    ("a.**.io", "a.b.c.io."),
    ("cilium.io", "ciliumxio."),
    ("a*b*c.io", "acb.io."),
    ("ab*ba.io", "aba.io."),
    ("**.a*.io", "abc.io."),
    ("*.example.com", "a\\.b.example.com."),
    ("*.example.com", "a\x00.example.com."),
    ("*.example.com", "\u212a.example.com."),
    ("foo.*", "foo.bar.baz."),
]


@pytest.mark.parametrize(("text", "name"), MATCHES)
def test_a_pattern_matches(text: str, name: str) -> None:
    assert pattern(text).matches(name)
    assert pattern(text).matching(name) == (FqdnPeer(match_pattern=text),)


@pytest.mark.parametrize(("text", "name"), MISSES)
def test_a_pattern_does_not_match(text: str, name: str) -> None:
    assert not pattern(text).matches(name)
    assert pattern(text).matching(name) == ()


def test_an_exact_name_matches_itself_in_any_case_and_nothing_else() -> None:
    only = NameSet([FqdnPeer(match_name="www.example.com.")])
    assert only.matches("WWW.Example.com")
    assert only.matches("www.example.com.")
    assert not only.matches("a.www.example.com.")
    assert not only.matches("www.example.com .")
    assert not only.matches(" www.example.com.")


def test_nothing_matches_an_empty_set() -> None:
    assert not NameSet([]).matches("example.com.")
    assert not NameSet([]).matches(".")


def test_an_empty_selector_selects_nothing() -> None:
    assert not NameSet([FqdnPeer()]).matches(".")
    assert not NameSet([FqdnPeer()]).matches("")


def test_every_matching_selector_is_found_in_the_order_given() -> None:
    peers = tuple(
        FqdnPeer(match_pattern=text) if "*" in text else FqdnPeer(match_name=text)
        for text in ("*.example.com.", "other.org.", "*", "a.example.com.", "**.com.")
    )
    assert names.matching(peers, "A.example.com") == (peers[0], peers[2], peers[3], peers[4])


def test_a_name_longer_than_the_wire_allows_matches_no_pattern() -> None:
    longest = "a" * 63 + "." + "b" * 63 + "." + "c" * 63 + "." + "d" * 62 + "."
    assert len(longest) == 255
    assert pattern("*").matches(longest)
    assert not pattern("*").matches("a" + longest)


def test_a_hash_is_the_same_in_every_process() -> None:
    assert names.hash64("fqdn:*.example.com") == 0x36B21C2351B1C587
