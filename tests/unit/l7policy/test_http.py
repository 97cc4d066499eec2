# SPDX-License-Identifier: Apache-2.0
import pytest

from l7policy import http
from l7policy.http import HttpRules, PatternError
from l7policy.model import HeaderMatch, HttpRule


def passes(
    rule: HttpRule,
    method: bytes = b"GET",
    path: bytes = b"/",
    host: bytes = b"example.com",
    headers: tuple[tuple[bytes, bytes], ...] = (),
) -> bool:
    return HttpRules([rule]).match(method, path, host, headers)


def test_an_empty_rule_matches_every_request() -> None:
    assert passes(HttpRule(), b"BREW", b"/\xff", b"", ())


def test_an_empty_list_matches_nothing() -> None:
    assert not HttpRules(()).match(b"GET", b"/", b"example.com", ())


@pytest.mark.parametrize(
    ("path", "request_path", "expected"),
    [
        ("/public", b"/public", True),
        ("/public", b"/public/x", False),
        ("/public", b"/public?a=1", False),
        ("/public.*", b"/public?a=1", True),
        ("/api/v[0-9]+/users", b"/api/v12/users", True),
        ("/api/v[0-9]+/users", b"/api/v/users", False),
        ("^/a|/b$", b"/a", True),
        ("^/a|/b$", b"/b", True),
        ("^/a|/b$", b"/a/evil", False),
        ("^/a|/b$", b"/evil/b", False),
        ("/a|/ab", b"/ab", True),
        ("/.*", b"/\xff\xfe", False),
        ("/\u00e9", "/\u00e9".encode(), True),
        ("/.", "/\u00e9".encode(), True),
        ("/a.c", b"/a\nc", False),
        ("/plain", b"/plain\x00", False),
    ],
)
def test_a_path_is_matched_in_full_with_its_query(path: str, request_path: bytes, expected: bool) -> None:
    assert passes(HttpRule(path=path), path=request_path) is expected


@pytest.mark.parametrize(
    ("method", "sent", "expected"),
    [("GET", b"GET", True), ("GET", b"get", False), ("GET|HEAD", b"HEAD", True), ("GET", b"GETX", False)],
)
def test_a_method_is_matched_in_full_and_with_its_case(method: str, sent: bytes, expected: bool) -> None:
    assert passes(HttpRule(method=method), method=sent) is expected


@pytest.mark.parametrize(
    ("host", "sent", "expected"),
    [
        ("foo.bar.com", b"foo.bar.com", True),
        ("foo.bar.com", b"fooXbar.com", True),
        ("foo[.]bar[.]com", b"fooXbar.com", False),
        ("foo.bar.com", b"foo.bar.com:8080", False),
        ("foo.bar.com(:[0-9]+)?", b"foo.bar.com:8080", True),
        ("foo.bar.com", b"foo.bar.com.evil.org", False),
    ],
)
def test_a_host_is_an_expression_over_all_that_was_sent(host: str, sent: bytes, expected: bool) -> None:
    assert passes(HttpRule(host=host), host=sent) is expected


TOKEN = HeaderMatch("X-Token", "secret")
PRESENT = HeaderMatch("X-Trace")


@pytest.mark.parametrize(
    ("matches", "headers", "expected"),
    [
        ((TOKEN,), ((b"x-token", b"secret"),), True),
        ((TOKEN,), ((b"X-TOKEN", b"secret"),), True),
        ((TOKEN,), ((b"X-Token", b"Secret"),), False),
        ((TOKEN,), ((b"X-Token", b"secret"), (b"x-token", b"other")), False),
        ((TOKEN,), (), False),
        ((HeaderMatch("X-Token", "a,b"),), ((b"X-Token", b"a"), (b"x-token", b"b")), True),
        ((HeaderMatch("X-Token", ""),), ((b"X-Token", b""),), True),
        ((HeaderMatch("X-Token", ""),), (), False),
        ((PRESENT,), ((b"x-trace", b""),), True),
        ((PRESENT,), ((b"x-tracer", b"1"),), False),
        ((TOKEN, PRESENT), ((b"x-token", b"secret"), (b"x-trace", b"1")), True),
        ((TOKEN, PRESENT), ((b"x-token", b"secret"),), False),
    ],
)
def test_every_header_of_a_rule_must_match(
    matches: tuple[HeaderMatch, ...], headers: tuple[tuple[bytes, bytes], ...], expected: bool
) -> None:
    assert passes(HttpRule(headers=matches), headers=headers) is expected


def test_fields_of_one_rule_must_all_match_and_one_rule_is_enough() -> None:
    rules = HttpRules(
        [HttpRule(method="GET", path="/a"), HttpRule(method="POST", path="/b", headers=(TOKEN,)), HttpRule(path="/c")]
    )
    token = ((b"x-token", b"secret"),)
    assert rules.match(b"GET", b"/a", b"", ())
    assert not rules.match(b"GET", b"/b", b"", token)
    assert rules.match(b"POST", b"/b", b"", token)
    assert not rules.match(b"POST", b"/b", b"", ())
    assert rules.match(b"PUT", b"/c", b"", ())
    # Asked again, the memory gives the same answers, and still looks at the headers.
    assert rules.match(b"POST", b"/b", b"", token)
    assert not rules.match(b"POST", b"/b", b"", ())


def test_a_request_too_long_to_remember_is_judged_all_the_same() -> None:
    rules = HttpRules([HttpRule(path="/a+")])
    assert rules.match(b"GET", b"/" + b"a" * 20000, b"", ())
    assert not rules.match(b"GET", b"/" + b"a" * 20000 + b"b", b"", ())


def test_matching_takes_linear_time_where_backtracking_would_not_end() -> None:
    assert not passes(HttpRule(path="/(a|a)*(a|a)*(a|a)*b"), path=b"/" + b"a" * 20000)


@pytest.mark.parametrize(
    "text", ["(", "a(?=b)", r"(a)\1", "[z-a]", "a{2,1}", "\ud800", "((((a{100}){100}){100}){100})"]
)
def test_an_expression_that_re2_refuses_says_so_when_it_is_built(text: str) -> None:
    with pytest.raises(PatternError, match=r"RE2 refuses|cannot be written"):
        http.pattern(text)
    with pytest.raises(PatternError):
        HttpRules([HttpRule(host=text)])


def test_equal_lists_share_one_compilation() -> None:
    assert http.http_rules((HttpRule(path="/a"),)) is http.http_rules((HttpRule(path="/a"),))


@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_a_long_list_finds_the_rule_that_a_short_one_finds(count: int) -> None:
    """From some length on, expressions are asked all at once."""
    rules = HttpRules(
        HttpRule(method="GET|HEAD", path=f"/{number}/.*", host=f"h{number}[.]example") for number in range(count)
    )
    for number in range(count):
        path, host = f"/{number}/x".encode(), f"h{number}.example".encode()
        assert rules.match(b"GET", path, host, ())
        assert not rules.match(b"PUT", path, host, ())
        assert not rules.match(b"GET", path, host + b"x", ())
        assert not rules.match(b"GET", b"/" + path, host, ())
    assert not rules.match(b"GET", b"/\xff/x", b"h0.example", ())


def test_expressions_too_large_to_be_asked_at_once_are_asked_one_by_one() -> None:
    texts = [rf"/{number}\pL{{40}}" for number in range(4)]
    assert http._set(texts) is None
    rules = HttpRules(HttpRule(path=text) for text in texts)
    assert rules.match(b"GET", b"/3" + b"a" * 40, b"", ())
    assert not rules.match(b"GET", b"/4" + b"a" * 40, b"", ())
