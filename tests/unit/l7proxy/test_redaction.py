# SPDX-License-Identifier: Apache-2.0
import pytest

from l7proxy.redaction import Redaction


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("/a?b=c", "/a?b=c"),
        ("/@scope/name", "/@scope/name"),
        ("/a/b@c", "/a/b@c"),
        ("http://joe:pw@a.example/x", "http://a.example/x"),
        ("http://joe:p@w@a.example/x", "http://a.example/x"),
        ("http:\\\\joe:pw@a.example/x", "http:\\\\a.example/x"),
        ("joe:pw@db.example.com:5432", "db.example.com:5432"),
        ("//joe@a.example//joe@b", "//a.example//b"),
        ("/login?next=https://joe:pw@a.example/", "/login?next=https://a.example/"),
    ],
)
def test_users_and_passwords_are_left_out(target: str, shown: str) -> None:
    assert Redaction().target(target) == shown
    assert Redaction(userinfo=False).target(target) == target


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("/a", "/a"),
        ("/a?", "/a?[redacted]"),
        ("/a?key=s3cret?more#x", "/a?[redacted]"),
        ("http://joe:pw@a.example/?key=s3cret", "http://a.example/?[redacted]"),
        ("*", "*"),
    ],
)
def test_a_query_is_left_out_on_demand(target: str, shown: str) -> None:
    assert Redaction(query=True).target(target) == shown


def test_a_host_is_shown_without_its_user() -> None:
    assert Redaction().host("joe:pw@a.example:80") == "a.example:80"
    assert Redaction(userinfo=False).host("joe:pw@a.example:80") == "joe:pw@a.example:80"


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ((), ("AUTHORIZATION: Basic eA==", "X-Team: a: b", "X-Token")),
        (("authorization",), ("AUTHORIZATION: [redacted]", "X-Team: a: b", "X-Token")),
        (("x-TEAM", "x-token"), ("AUTHORIZATION: Basic eA==", "X-Team: [redacted]", "X-Token")),
        (("*",), ("AUTHORIZATION: [redacted]", "X-Team: [redacted]", "X-Token")),
    ],
)
def test_values_of_named_headers_are_left_out(names: tuple[str, ...], shown: tuple[str, ...]) -> None:
    fields = ("AUTHORIZATION: Basic eA==", "X-Team: a: b", "X-Token")
    assert Redaction(headers=names).fields(fields) == shown


def test_what_authenticates_is_left_out_unless_told_otherwise() -> None:
    assert Redaction().fields(("Authorization: x", "Cookie: x", "Proxy-Authorization: x")) == (
        "Authorization: [redacted]",
        "Cookie: [redacted]",
        "Proxy-Authorization: [redacted]",
    )
