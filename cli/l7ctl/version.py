# SPDX-License-Identifier: Apache-2.0
"""`l7ctl version`: of this program and of the daemon."""

from importlib import metadata

import click

from l7ctl.errors import Failure
from l7ctl.output import line, output_option, value
from l7ctl.session import Session, pass_session


@click.command()
@output_option(("table", "json", "yaml"))
@pass_session
def version(session: Session, output: str) -> None:
    """Show the versions of l7ctl and of the running daemon.

    \b
    Examples:
      l7ctl version
      l7ctl version -o json
    """
    own = metadata.version("l7gate")
    try:
        daemon = str(session.client.get("/status").get("version", ""))
    except Failure:
        # A missing daemon is no reason not to tell one's own version.
        daemon = ""
    if output == "table":
        line(f"l7ctl {own}\nl7d {daemon or 'not reachable'}")
    else:
        value({"l7ctl": own, "l7d": daemon}, output)
