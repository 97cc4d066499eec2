# SPDX-License-Identifier: Apache-2.0
"""What this machine must have, for `l7d` at start and for `l7ctl doctor`: one list of checks for both."""

from l7bpf.preflight import Check, checks

__all__ = ["Check", "checks", "first_missing"]


def first_missing() -> Check | None:
    """The first required thing that is not there."""
    return next((check for check in checks() if check.required and not check.ok), None)
