# SPDX-License-Identifier: Apache-2.0
"""How mistakes of operators become answers, and what the socket is."""

import contextlib
import grp
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from l7agent import api
from l7agent.api import Problem, SocketInUse
from l7agent.endpoints import Conflict, EndpointError
from l7agent.history import UnknownRevision
from l7agent.reload import ReloadFailed
from l7agent.workload import WorkloadError
from l7bpf.errors import DatapathError, MapFull
from l7policy.errors import PolicyError, PolicyErrors

POLICY_ERRORS = PolicyErrors([PolicyError("a.yaml", 3, 5, "unknown field egres", "did you mean egress?")])


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (POLICY_ERRORS, 422),
        (Conflict("taken"), 409),
        (EndpointError("bad"), 400),
        (WorkloadError("not there", missing=True), 404),
        (WorkloadError("not possible"), 400),
        (UnknownRevision("unknown"), 404),
        (ReloadFailed("dns-0 did not answer"), 503),
        (DatapathError("cannot attach"), 503),
        (MapFull("policy", 10), 503),
    ],
)
def test_a_mistake_becomes_an_answer_with_its_sentence(error: Exception, status: int) -> None:
    with pytest.raises(Problem) as raised, api.problems():
        raise error
    assert raised.value.status == status
    assert raised.value.body["error"]
    if not isinstance(error, PolicyErrors):
        assert raised.value.body["error"] == str(error)


def test_policy_errors_are_told_by_place() -> None:
    with pytest.raises(Problem) as raised, api.problems():
        raise POLICY_ERRORS
    assert raised.value.body["problems"] == [
        {"path": "a.yaml", "line": 3, "column": 5, "message": "unknown field egres", "hint": "did you mean egress?"}
    ]


def test_a_bug_stays_an_exception() -> None:
    with pytest.raises(KeyError), api.problems():
        raise KeyError("x")


@contextlib.contextmanager
def listening(path: Path, group: str = "no such group") -> Iterator[socket.socket]:
    server = api.listen(path, group)
    try:
        yield server
    finally:
        server.close()


def test_the_socket_is_for_root_and_its_group(tmp_path: Path) -> None:
    path = tmp_path / "run" / "agent.sock"
    name = grp.getgrall()[-1].gr_name
    with listening(path, name):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert grp.getgrgid(path.stat().st_gid).gr_name == name
    with listening(path):
        assert path.stat().st_gid == os.getgid()


def test_a_socket_that_a_dead_agent_left_is_replaced_and_one_of_a_live_agent_is_not(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with listening(path):
        with pytest.raises(SocketInUse, match="another l7d agent is running"):
            api.listen(path, "l7")
        assert path.exists()
    with listening(path), contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(str(path))
