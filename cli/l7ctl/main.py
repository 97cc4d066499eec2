# SPDX-License-Identifier: Apache-2.0
"""`l7ctl`: the command line. Talks to the agent over its socket; reads only the audit log and policy files itself."""

from pathlib import Path

import click

from l7ctl.application import Application
from l7ctl.session import Session

COMMANDS = {
    "status": "l7ctl.status:status",
    "doctor": "l7ctl.doctor:doctor",
    "demo": "l7ctl.demo:demo",
    "run": "l7ctl.run:run",
    "observe": "l7ctl.observe:observe",
    "monitor": "l7ctl.monitor:monitor",
    "endpoint": "l7ctl.endpoint:endpoint",
    "rules": "l7ctl.rules:rules",
    "identity": "l7ctl.identity:identity",
    "fqdn": "l7ctl.fqdn:fqdn",
    "bpf": "l7ctl.bpf:bpf",
    "metrics": "l7ctl.metrics:metrics",
    "audit": "l7ctl.audit:audit",
    "completion": "l7ctl.completion:completion",
    "version": "l7ctl.version:version",
}


@click.group(
    cls=Application,
    commands_at=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    envvar="L7_CONFIG",
    show_envvar=True,
    help="The daemon's configuration.  [default: /etc/l7/config.yaml]",
)
@click.option(
    "--socket",
    "socket_path",
    type=click.Path(path_type=Path),
    envvar="L7_SOCKET",
    show_envvar=True,
    help="The agent's socket.  [default: the configuration's]",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, 3600, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds to wait for the agent.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an internal error.")
@click.version_option(package_name="l7gate", prog_name="l7ctl")
@click.pass_context
def main(
    context: click.Context, config_path: Path | None, socket_path: Path | None, timeout: float, debug: bool
) -> None:
    """Who may talk to whom, by which name, and with which HTTP request.

    \b
    Examples:
      l7ctl status
      l7ctl endpoint add --netns blue --label app=web
      l7ctl rules check policy.yaml
      l7ctl rules reload
      l7ctl audit tail -f

    Exit codes: 0 done, 1 denied, failed or invalid, 2 wrong use or something missing on this machine, 3 the daemon
    does not answer.
    """
    del debug  # Read by Application, which must know it even when the arguments are wrong.
    context.obj = Session(config_path, socket_path, timeout)


if __name__ == "__main__":
    main(prog_name="l7ctl")
