# SPDX-License-Identifier: Apache-2.0
"""`l7d`: one program for the agent and its data-plane processes."""

import asyncio
import functools
import logging
import os
import sys
from collections.abc import Callable, Coroutine
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


def _config_option(envvar: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        "--config", "path", type=click.Path(path_type=Path), envvar=envvar, help="Default: /etc/l7/config.yaml"
    )


def _configured(function: Callable[..., None]) -> Callable[..., None]:
    """Gives a command its configuration, whether `--config` stands before or behind its name."""

    @_config_option()
    @click.pass_obj
    @functools.wraps(function)
    def command(before: Path | None, /, path: Path | None, **options: Any) -> None:
        chosen = path or before
        try:
            config = configuration.load(chosen)
        except ConfigError as error:
            fail(str(error), 2)
        function(chosen, config, **options)

    return command


def _require_root() -> None:
    if os.geteuid() != 0:
        fail("needs root: run it with sudo", 2)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@_config_option(envvar="L7_CONFIG")
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
    context.obj = path


@main.command()
@click.option("--print-config", is_flag=True, help="Print the configuration with every default, and exit.")
@_configured
def agent(path: Path | None, config: Config, print_config: bool) -> None:
    """Run the agent: load the datapath, compile policy, serve the API.

    Enforcement, HTTP and DNS go on when it stops or dies; `l7d cleanup` ends them.
    """
    from l7agent import preflight
    from l7agent.agent import StartFailed
    from l7agent.daemon import run

    if print_config:
        click.echo(yaml.safe_dump(msgspec.to_builtins(config), sort_keys=False), nl=False)
        return
    missing = preflight.first_missing(config)
    if missing is not None:
        fail(f"{missing.name}: found {missing.found}, need {missing.needed}. {missing.remedy}", 2)
    _logging(config, "agent")
    try:
        _run(run(config, path))
    except StartFailed as error:
        fail(str(error))


@main.command()
@click.option("--slot", type=click.IntRange(0, 7), default=0, show_default=True, help="Which of the workers this is.")
@_configured
def http(_: Path | None, config: Config, slot: int) -> None:
    """Run one HTTP proxy worker. The agent starts it; by hand only to debug."""
    from l7agent import http_process

    _data_plane(config, f"http-{slot}", http_process.serve(config, slot))


@main.command()
@click.option("--slot", type=click.IntRange(0, 0), default=0, hidden=True)
@click.option("--replace", is_flag=True, help="Take over from the one that runs, without losing a query.")
@_configured
def dns(_: Path | None, config: Config, slot: int, replace: bool) -> None:
    """Run the DNS proxy. The agent starts it; by hand to debug, or with --replace to renew it."""
    from l7agent import dns_process
    from l7agent.guardian import guard

    name = f"dns-{slot}"
    _require_root()
    _logging(config, name)
    try:
        made = dns_process.listen(beside=replace)
    except OSError as error:
        fail(f"{name}: {error.strerror or error}")

    def work() -> int:
        _data_plane(config, name, dns_process.serve(config, made, replace=replace))
        return 0

    sys.exit(guard(work))


def _data_plane(config: Config, name: str, process: Coroutine[Any, Any, None]) -> None:
    from l7agent.control_port import AlreadyRunning
    from l7agent.single import HeldError
    from l7bpf.errors import DatapathError

    _require_root()
    _logging(config, name)
    try:
        _run(process)
    except (AlreadyRunning, HeldError, DatapathError) as error:
        fail(f"{name}: {error}")
    except OSError as error:
        fail(f"{name}: {error.strerror or error}")


@main.command()
@click.option("--force", is_flag=True, help="Stop a running agent first, unless a service manager starts it again.")
@_configured
def cleanup(_: Path | None, config: Config, force: bool) -> None:
    """Stop the data plane and remove programs, maps, links, rules and routes.

    Workloads are NOT judged any more afterwards. Declared endpoints and kept revisions stay in the state directory.

    \b
    Examples:
      systemctl stop l7d && l7d cleanup
      l7d cleanup --force
    """
    from l7agent.cleanup import AgentRunning
    from l7agent.cleanup import cleanup as take_down
    from l7bpf.errors import DatapathError

    _require_root()
    _logging(config, "cleanup")
    try:
        for line in take_down(config, force=force):
            click.echo(line)
    except (AgentRunning, DatapathError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or 'cleanup'}: {error.strerror}")


if __name__ == "__main__":
    main(prog_name="l7d")
