# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.session."""

from pathlib import Path
from typing import Any

import pytest

from l7ctl.errors import ExitCode, Failure, Unreachable
from l7ctl.session import Session


def test_the_socket_option_needs_no_configuration(agent: Any) -> None:
    session = Session(Path("/no/such/config.yaml"), agent.path, 5)
    assert session.client.get("/status")["revision"] == 7


def test_the_configuration_names_the_socket(agent: Any, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"api: {{socket: {agent.path}}}\n")
    assert Session(config, None, 5).client.get("/status")["revision"] == 7


def test_a_configuration_that_is_wrong_names_the_line(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("api:\n  sokket: /run/l7/agent.sock\n")
    with pytest.raises(Failure, match=f"{config}:2:3: ") as caught:
        _ = Session(config, None, 5).client
    assert caught.value.code == ExitCode.USAGE


def test_a_configuration_that_was_named_must_be_there() -> None:
    with pytest.raises(Failure, match="no such file"):
        _ = Session(Path("/no/such/config.yaml"), None, 5).config


def test_the_audit_log_of_a_silent_daemon_needs_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(Unreachable):
        _ = Session(None, tmp_path / "none.sock", 5).audit_path
