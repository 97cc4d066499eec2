# SPDX-License-Identifier: Apache-2.0
"""What this machine must have, for `l7d` at start and for `l7ctl doctor`: one list of checks for both."""

from l7agent import dataplane
from l7agent.config import Config
from l7bpf import preflight
from l7bpf.preflight import Check as Check  # noqa: PLC0414 - for who asks


def checks(config: Config) -> list[Check]:
    """All that l7d needs, and what it found."""
    return preflight.checks(dataplane.pins(config))


def first_missing(config: Config) -> Check | None:
    """The first required thing that is not there."""
    return next((check for check in checks(config) if check.required and not check.ok), None)
