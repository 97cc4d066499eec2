# SPDX-License-Identifier: Apache-2.0
import pytest

from l7policy import scalars
from l7policy.model import FqdnPeer, HeaderMatch


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Example.COM", "example.com."),
        (" example.com. ", "example.com."),
        ("_srv._tcp.example.com", "_srv._tcp.example.com."),
        ("localhost", "localhost."),
        ("a" * 255, "a" * 255 + "."),
    ],
)
def test_a_match_name_is_canonical(text: str, expected: str) -> None:
    assert scalars.match_name(text) == FqdnPeer(match_name=expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("*.Example.COM", "*.example.com."), ("*", "*"), ("**.example.com.", "**.example.com."), ("a*b.c", "a*b.c.")],
)
def test_a_match_pattern_is_canonical_and_stars_alone_stay(text: str, expected: str) -> None:
    assert scalars.match_pattern(text) == FqdnPeer(match_pattern=expected)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not a DNS name"),
        (".", "is not a DNS name"),
        ("a..b", "is not a DNS name"),
        (".example.com", "is not a DNS name"),
        ("a b", "is not a DNS name"),
        ("example.com/x", "is not a DNS name"),
        ("*.example.com", "a name with * is a matchPattern"),
        ("bücher.example", "xn--"),
        ("\u212aelvin.example", "xn--"),
        ("a" * 256, "256 characters are more than the 255"),
        ("a-" * 120 + "!", "is not a DNS name"),
    ],
)
def test_what_is_no_name_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        scalars.match_name(text)
    assert reason in str(caught.value)


@pytest.mark.parametrize("text", ["", "*..com", ".*", "a?b", "[a-z].com", "*" * 256, "*.bücher.example"])
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        scalars.match_pattern(text)


@pytest.mark.parametrize("text", ["/public/.*", "GET|HEAD", "^a$|b", r"\d{3}", "(?i)x", "foo.bar.com(:80)?", "é+"])
def test_expressions_of_re2_are_accepted_as_they_are(text: str) -> None:
    assert scalars.expression(text) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("(", "missing ): ("),
        ("a(?=b)", "invalid perl operator: (?="),
        (r"(a)\1", r"invalid escape sequence: \1"),
        ("[z-a]", "invalid character class range: z-a"),
        ("a{1001}", "invalid repetition size"),
        ("a" * 2049, "at most 2048"),
    ],
)
def test_what_re2_refuses_is_refused_in_its_words(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        scalars.expression(text)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("X-Key: true", HeaderMatch("X-Key", "true")),
        ("X-Key true", HeaderMatch("X-Key", "true")),
        ("X-Key: a b: c", HeaderMatch("X-Key", "a b: c")),
        ("X-Key", HeaderMatch("X-Key")),
    ],
)
def test_a_header_is_split_at_the_first_space(text: str, expected: HeaderMatch) -> None:
    assert scalars.header(text) == expected


@pytest.mark.parametrize(
    "text", ["", " ", ":", "X-Key:", "X-Key:true", "X-Key: ", "X-Key:  a", "X-Key: a ", "Ä: b", "a: b\nc", ":path /"]
)
def test_a_header_that_no_request_can_have_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        scalars.header(text)


@pytest.mark.parametrize(("text", "lowest", "expected"), [("1", 1, 1), ("65535", 1, 65535), ("0", 0, 0)])
def test_ports_are_decimal(text: str, lowest: int, expected: int) -> None:
    assert scalars.port_number(text, lowest=lowest) == expected


@pytest.mark.parametrize("text", ["", "0", "65536", "-1", "+1", "080", "0x50", "8_0", "٨", "1e3", "99999999999"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        scalars.port_number(text)


def test_names_of_ports_are_told_from_numbers() -> None:
    assert all(map(scalars.is_port_name, ("http", "HTTPS", "0x50", "a-b", "a")))
    assert not any(map(scalars.is_port_name, ("80", "a--b", "-a", "a" * 16, "", "http_x")))
