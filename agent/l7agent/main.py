# SPDX-License-Identifier: Apache-2.0
"""`l7d`: one program for the agent and its data-plane processes."""

import asyncio
import logging
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec
import uvloop
import yaml

from l7agent import config as configuration
from l7agent.config import Config, ConfigError


def fail(message: str, status: int = 1) -> NoReturn:
    """One clear line, and out."""
    click.echo(f"l7d: {message}", err=True)
    sys.exit(status)


def _logging(config: Config, process: str) -> None:
    logging.basicConfig(
        level=config.log_level.upper(),
        format=f"%(asctime)s {process} %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    # A log that has gone away is no reason to print tracebacks into it.
    logging.raiseExceptions = False


def _run(process: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(process)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config", "path", type=click.Path(path_type=Path), envvar="L7_CONFIG", help="Default: /etc/l7/config.yaml"
)
@click.version_option(package_name="l7gate", prog_name="l7d")
@click.pass_context
def main(context: click.Context, path: Path | None) -> None:
    """Enforces HTTP and FQDN policy on the workloads of this node.

    \b
    l7d agent      the control plane; starts and keeps the other two
    l7d http       one worker of the HTTP proxy
    l7d dns        the DNS proxy
    l7d cleanup    takes everything down that the others leave standing
    """
    try:
        context.obj = (path, configuration.load(path))
    except ConfigError as error:
        fail(str(error), 2)


@main.command()
@click.option("--print-config", is_flag=True, help="Print the configuration with every default, and exit.")
@click.pass_obj
def agent(obj: tuple[Path | None, Config], print_config: bool) -> None:
    """Run the agent: load the datapath, compile policy, serve the API.

    Enforcement, HTTP and DNS go on when it stops or dies; `l7d cleanup` ends them.
    """
    from l7agent import preflight
    from l7agent.agent import StartFailed
    from l7agent.daemon import run

    path, config = obj
    if print_config:
        click.echo(yaml.safe_dump(msgspec.to_builtins(config), sort_keys=False), nl=False)
        return
    missing = preflight.first_missing()
    if missing is not None:
        fail(f"{missing.name}: found {missing.found}, need {missing.needed}. {missing.remedy}", 2)
    _logging(config, "agent")
    try:
        _run(run(config, path))
    except StartFailed as error:
        fail(str(error))


@main.command()
@click.option("--slot", type=click.IntRange(0, 7), default=0, show_default=True, help="Which of the workers this is.")
@click.pass_obj
def http(obj: tuple[Path | None, Config], slot: int) -> None:
    """Run one HTTP proxy worker. The agent starts it; by hand only to debug."""
    from l7agent import http_process

    _data_plane(obj[1], f"http-{slot}", http_process.serve(obj[1], slot))


@main.command()
@click.option("--slot", type=click.IntRange(0, 0), default=0, hidden=True)
@click.pass_obj
def dns(obj: tuple[Path | None, Config], slot: int) -> None:
    """Run the DNS proxy. The agent starts it; by hand only to debug."""
    from l7agent import dns_process

    _data_plane(obj[1], f"dns-{slot}", dns_process.serve(obj[1]))


def _data_plane(config: Config, name: str, process: Coroutine[Any, Any, None]) -> None:
    from l7agent.control_port import AlreadyRunning
    from l7bpf.errors import DatapathError

    _logging(config, name)
    try:
        _run(process)
    except (AlreadyRunning, DatapathError) as error:
        fail(f"{name}: {error}")
    except OSError as error:
        fail(f"{name}: {error.strerror or error}")


@main.command()
@click.pass_obj
def cleanup(obj: tuple[Path | None, Config]) -> None:
    """Stop the data plane and remove programs, maps, links, rules and routes.

    Workloads are NOT judged any more afterwards. Declared endpoints and kept revisions stay in the state directory.
    """
    from l7agent.cleanup import AgentRunning
    from l7agent.cleanup import cleanup as take_down
    from l7bpf.errors import DatapathError

    _logging(obj[1], "cleanup")
    try:
        for line in take_down(obj[1]):
            click.echo(line)
    except (AgentRunning, DatapathError) as error:
        fail(str(error))


if __name__ == "__main__":
    main(prog_name="l7d")
