# SPDX-License-Identifier: Apache-2.0
"""`l7ctl metrics`: what Prometheus would see, for people."""

import re

import click

from l7ctl import tables
from l7ctl.output import items, output_option
from l7ctl.session import Session, pass_session


@click.group()
def metrics() -> None:
    """Show counters and gauges of the datapath, the proxies and the agent.

    \b
    Examples:
      l7ctl metrics list
      l7ctl metrics list -p drop
    """


@metrics.command("list")
@click.option(
    "-p", "--match-pattern", "pattern", default="", help="Only names in which this regular expression is found."
)
@click.option("--buckets", is_flag=True, help="Show the buckets of histograms, too, in a table.")
@output_option()
@pass_session
def list_(session: Session, pattern: str, buckets: bool, output: str) -> None:
    """List all metrics with their labels and values.

    \b
    Examples:
      l7ctl metrics list -p drop
      l7ctl metrics list -o json | jq '.[] | select(.name == "l7gate_bpf_map_pressure")'
    """
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise click.BadParameter(f"{pattern!r} is no regular expression: {error}", param_hint="-p") from error
    found = [one for one in session.client.get("/metrics") if wanted.search(one["name"])]
    if output in ("table", "wide") and not buckets:
        found = [one for one in found if not one["name"].endswith("_bucket")]
    items(tables.METRICS, found, output)
