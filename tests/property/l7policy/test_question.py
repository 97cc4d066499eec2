# SPDX-License-Identifier: Apache-2.0
"""Properties of l7policy.question: whatever is written, it is a question or a QuestionError."""

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l7policy import question
from l7policy.cluster import Cluster
from l7policy.question import QuestionError
from l7policy.verdict import Protocol

WORDS = st.sampled_from(
    [
        "app=a",
        "k8s:",
        "reserved:",
        "host",
        "fqdn:",
        "*.a.b",
        "192.0.2.1",
        "/24",
        "2001:db8::",
        "%eth0",
        ",",
        "=",
        "/",
        ":",
        "icmp:",
        "echo-request",
        "80",
        "/TCP",
        "65536",
        "-1",
        "GET ",
        "/a?b",
        " ",
        "X: 1",
        "\x00",
        "\u017f",
        "²",
        ".",
        "default/a",
    ]
)
TEXTS = st.lists(WORDS, max_size=5).map("".join) | st.text(max_size=40)
ANYWHERE = question.side("192.0.2.1", Cluster())


@pytest.mark.parametrize(
    "read",
    [
        lambda text: question.side(text, Cluster()).identity({"192.0.2.0/24", "2001:db8::/32"}, ()),
        lambda text: question.port(text, ANYWHERE),
        lambda text: question.request(text, text, [text]).fields,
    ],
)
@given(text=TEXTS)
def test_any_text_is_read_or_refused(read: Callable[[str], object], text: str) -> None:
    with contextlib.suppress(QuestionError):
        assert read(text)


@given(st.sampled_from(["TCP", "UDP", "SCTP"]), st.integers(1, 65535))
def test_every_port_is_read_as_it_is_written(protocol: str, port: int) -> None:
    assert question.port(f"{port}/{protocol}", ANYWHERE) == ((Protocol[protocol],), port)
    assert question.ask(ANYWHERE, ANYWHERE, f"{port}/{protocol}").where == f"{port}/{protocol}"
