# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.version."""

import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from click.testing import Result

OWN = metadata.version("l7gate")


def test_both_versions_are_shown(l7ctl: Callable[..., Result]) -> None:
    assert l7ctl("version").stdout == f"l7ctl {OWN}\nl7d 0.1.0\n"
    assert json.loads(l7ctl("version", "-o", "json").stdout) == {"l7ctl": OWN, "l7d": "0.1.0"}


def test_a_missing_daemon_is_no_error(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run("--socket", str(tmp_path / "none.sock"), "version")
    assert (result.exit_code, result.stdout) == (0, f"l7ctl {OWN}\nl7d not reachable\n")
