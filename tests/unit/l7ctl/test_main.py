# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.main: what holds for every command."""

from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from l7ctl.main import COMMANDS, main

Run = Callable[..., Result]


def _commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from _commands(child, (*path, name))
    else:
        yield path, command


LEAVES = list(_commands(main))
CLIENTS = [
    "status",
    "endpoint list",
    "endpoint add --netns blue",
    "endpoint remove 1",
    "rules list",
    "rules diff",
    "rules reload",
    "rules rollback",
    "rules revisions",
    "identity list",
    "fqdn cache list",
    "bpf policy get",
    "bpf ipcache list",
]


@pytest.mark.parametrize("path", [path for path, _ in LEAVES], ids=" ".join)
def test_every_command_has_help_with_an_example(run: Run, path: tuple[str, ...]) -> None:
    result = run(*path, "--help")
    assert result.exit_code == 0
    assert "Example" in result.stdout
    assert f"l7ctl {path[0]}" in result.stdout


def test_every_list_has_the_same_formats() -> None:
    for path, command in LEAVES:
        if path[-1] in ("list", "get", "revisions") and path != ("endpoint", "get"):  # one thing is no list
            (output,) = [option for option in command.params if option.name == "output"]
            assert isinstance(output.type, click.Choice), path
            assert tuple(output.type.choices) == ("table", "wide", "json", "yaml"), path


@pytest.mark.parametrize("command", CLIENTS)
def test_without_a_daemon_every_command_exits_with_three_and_a_hint(run: Run, tmp_path: Path, command: str) -> None:
    result = run("--socket", str(tmp_path / "none.sock"), *command.split())
    assert result.exit_code == 3
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "l7ctl: cannot reach l7d: the socket does not exist",
        f"hint: is l7d running? socket {tmp_path}/none.sock, `systemctl status l7d`; by hand: `l7d agent`",
    ]


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["--nonsense"], ["rules", "nonsense"], ["status", "-o", "xml"], ["--timeout", "0", "status"]],
)
def test_wrong_use_exits_with_two(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_no_colour_reaches_a_pipe(l7ctl: Run) -> None:
    for command in ("status", "endpoint list", "rules reload", "bpf policy get"):
        assert "\x1b" not in l7ctl(*command.split()).output


def test_the_configuration_comes_from_the_environment_too(agent: Any, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"api: {{socket: {agent.path}}}\n")
    result = CliRunner(env={"L7_CONFIG": str(config), "L7_SOCKET": None}).invoke(main, ["status"])
    assert result.exit_code == 0


def test_help_lists_every_command(run: Run) -> None:
    shown = run("--help").stdout
    assert all(f"\n  {name} " in shown for name in COMMANDS)


def test_the_version_is_the_packages(run: Run) -> None:
    assert run("--version").stdout == f"l7ctl, version {metadata.version('l7gate')}\n"
