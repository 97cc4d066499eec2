# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.client."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from l7ctl.client import Client
from l7ctl.errors import ExitCode, Failure, Unreachable


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "broken.sock"


@pytest.fixture
def says(path: Path) -> Iterator[list[bytes]]:
    """A listener that answers every connection with these bytes, and then closes it; with nothing, never answers."""
    answer: list[bytes] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    kept = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            if not answer:
                kept.append(connection)
                continue
            with connection:
                connection.recv(65536)
                connection.sendall(answer[0])

    thread = threading.Thread(target=serve)
    thread.start()
    yield answer
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    listener.close()
    for connection in kept:
        connection.close()


def test_an_answer_comes_as_plain_values(agent: Any) -> None:
    assert Client(agent.path, 5).get("/status")["revision"] == 7


def test_a_query_and_a_key_are_quoted(agent: Any) -> None:
    client = Client(agent.path, 5)
    client.get("/bpf/policy", endpoint="a b&c")
    agent.answers["DELETE /v1/endpoints/a/b c"] = None
    client.delete("/endpoints", "a/b c")
    assert [what for what, _ in agent.asked] == ["GET /v1/bpf/policy?endpoint=a+b%26c", "DELETE /v1/endpoints/a/b c"]


def test_an_error_brings_its_hint_and_problems(agent: Any) -> None:
    problem = {"path": "a.yaml", "line": 1, "column": 2, "message": "m", "hint": "h"}
    agent.errors["GET /v1/status"] = (422, {"error": "invalid", "hint": "fix it", "problems": [problem]})
    with pytest.raises(Failure) as caught:
        Client(agent.path, 5).get("/status")
    failure = caught.value
    assert (failure.message, failure.hint, failure.problems) == ("invalid", "fix it", (problem,))
    assert failure.code == ExitCode.FAILED


@pytest.mark.parametrize("body", [{}, [], "text", {"error": None, "problems": "none"}])
def test_an_error_without_a_sentence_shows_the_status(agent: Any, body: object) -> None:
    agent.errors["GET /v1/status"] = (500, body)
    with pytest.raises(Failure, match="HTTP status 500"):
        Client(agent.path, 5).get("/status")


def test_an_answer_that_is_no_json_is_a_failure(agent: Any) -> None:
    agent.errors["GET /v1/status"] = (200, b"<html>")
    with pytest.raises(Failure, match="not what l7d would say") as caught:
        Client(agent.path, 5).get("/status")
    assert str(agent.path) in caught.value.hint


def test_no_socket_is_unreachable_with_a_hint(path: Path) -> None:
    with pytest.raises(Unreachable, match="does not exist") as caught:
        Client(path, 5).get("/status")
    assert caught.value.code == ExitCode.UNREACHABLE
    assert caught.value.hint.startswith(f"is l7d running? socket {path}")


def test_a_socket_nobody_listens_on_is_unreachable(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    with pytest.raises(Unreachable, match="nobody listens"):
        Client(path, 5).get("/status")


def test_a_file_that_is_no_socket_is_unreachable(path: Path) -> None:
    path.write_text("")
    with pytest.raises(Unreachable):
        Client(path, 5).get("/status")


def test_a_path_too_long_for_a_socket_is_unreachable(path: Path) -> None:
    with pytest.raises(Unreachable, match="too long"):
        Client(path / ("x" * 200), 5).get("/status")


def test_silence_is_unreachable_after_the_timeout(path: Path, says: list[bytes]) -> None:
    with pytest.raises(Unreachable, match=r"within 0\.1 s"):
        Client(path, 0.1).get("/status")


@pytest.mark.parametrize(
    "answer",
    [
        b" ",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_a_broken_answer_is_unreachable(path: Path, says: list[bytes], answer: bytes) -> None:
    says.append(answer)
    with pytest.raises(Unreachable):
        Client(path, 5).get("/status")


@pytest.fixture
def nobody() -> Iterator[None]:
    """The rest of the test without root's rights."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_no_permission_says_what_to_do(agent: Any, nobody: None) -> None:
    if os.geteuid() == os.getuid():
        agent.path.chmod(0)
    with pytest.raises(Unreachable, match="no permission") as caught:
        Client(agent.path, 5).get("/status")
    assert "group l7" in caught.value.hint
