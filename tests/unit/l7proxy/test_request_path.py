# SPDX-License-Identifier: Apache-2.0
import pytest

from l7proxy.request_path import fault, normalised, settled


@pytest.mark.parametrize(
    "target",
    [
        b"/",
        b"/a/b.c/.well-known/x",
        b"/...",
        b"/a..b/.c",
        b"/a%20b%C3%A4",
        b"/%40scope",
        b"/x?redirect=http://a//b/../c%2f%5c\\%zz",
        b"/~user;v=1/",
    ],
)
def test_paths_that_are_spelt_in_one_way_pass(target: bytes) -> None:
    assert fault(target) == ""


@pytest.mark.parametrize(
    ("target", "detail"),
    [
        (b"//", "empty path segment"),
        (b"/a//b", "empty path segment"),
        (b"/a/./b", "dot segment in path"),
        (b"/a/..", "dot segment in path"),
        (b"/a/../b?x", "dot segment in path"),
        (b"/..?x", "dot segment in path"),
        (b"/a/..;x=1/b", "dot segment in path"),
        (b"/a\\b", "backslash in path"),
        (b"/a%2Fb", "encoded slash or backslash in path"),
        (b"/a%5cb", "encoded slash or backslash in path"),
        (b"/%2e%2E/b", "needless encoding in path"),
        (b"/%61dmin", "needless encoding in path"),
        (b"/%7euser", "needless encoding in path"),
        (b"/a%00", "encoded control character in path"),
        (b"/a%0d%0ab", "encoded control character in path"),
        (b"/a%7F", "encoded control character in path"),
        (b"/a%", "invalid percent-encoding in path"),
        (b"/a%4", "invalid percent-encoding in path"),
        (b"/a%u002f", "invalid percent-encoding in path"),
        (b"/a#b", "fragment in request target"),
        (b"/a?b#c", "fragment in request target"),
    ],
)
def test_paths_that_a_server_could_read_differently_are_faults(target: bytes, detail: str) -> None:
    assert fault(target) == detail


def test_every_unreserved_character_must_be_plain_and_no_reserved_one_need_be() -> None:
    unreserved = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
    for code in range(0x21, 0x7F):
        encoded = fault(b"/x%%%02X" % code)
        if code in unreserved:
            assert encoded == "needless encoding in path"
        else:
            assert encoded == ("encoded slash or backslash in path" if code in b"/\\" else "")


@pytest.mark.parametrize(
    ("target", "written"),
    [
        (b"/", b"/"),
        (b"/a/b/", b"/a/b/"),
        (b"/a%20b%C3%A4%25?x", b"/a%20b%C3%A4%25?x"),
        (b"//", b"/"),
        (b"/a//b///c", b"/a/b/c"),
        (b"/a/./b", b"/a/b"),
        (b"/a/.", b"/a/"),
        (b"/a/b/..", b"/a/"),
        (b"/a/../b?x=/../y", b"/b?x=/../y"),
        (b"/../../a", b"/a"),
        (b"/..", b"/"),
        (b"/public/..%2fadmin", b"/admin"),
        (b"/public/%2e%2E/admin", b"/admin"),
        (b"/public/.%2e%5Cadmin", b"/admin"),
        (b"/public\\..\\admin", b"/admin"),
        (b"/a/%2e%2e/%2e%2e%2fb//./c\\", b"/b/c/"),
        (b"/%61dmin/%7euser", b"/admin/~user"),
        (b"/a%252e%252e", b"/a%252e%252e"),
        (b"/.../a..b/.c", b"/.../a..b/.c"),
    ],
)
def test_a_path_is_written_in_its_one_spelling(target: bytes, written: bytes) -> None:
    assert normalised(target) == written
    assert fault(written) == ""


@pytest.mark.parametrize("target", [b"/a/..;x=1/b", b"/%2e%2e;/b", b"/a%00", b"/a%0d%0ab", b"/a%", b"/a%zz", b"/a#b"])
def test_a_path_without_a_certain_meaning_stays_a_fault(target: bytes) -> None:
    assert fault(normalised(target)) != ""


@pytest.mark.parametrize(
    ("target", "normalise", "expected"),
    [
        (b"/a/b", True, (b"/a/b", "")),
        (b"/a//b", False, (b"/a//b", "empty path segment")),
        (b"/a//b", True, (b"/a/b", "")),
        (b"/a/..;/b", True, (b"/a/..;/b", "dot segment in path")),
    ],
)
def test_a_path_is_settled_as_the_node_is_configured(
    target: bytes, normalise: bool, expected: tuple[bytes, str]
) -> None:
    assert settled(target, normalise=normalise) == expected
