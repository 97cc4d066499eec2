# SPDX-License-Identifier: Apache-2.0
"""The smuggling corpus against the two servers that every test run has. `make smuggling` asks five, and all of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"

CHECK = """
from smuggling import Case, Seen, compare
case = Case("x", b"", ((b"GET", b"/ok/c1000x"),))
hidden = Seen("GET", "/hidden/c1000x", "/hidden/c1000x", "")
dots = Seen("GET", "/ok/c1000x/..%2f../hidden", "/ok/c1000x/..%2f../hidden", "")
print([[len(found) for found in compare([(1000, case)], [], seen, strict=True)] for seen in ([hidden], [dots], [])])
"""


def test_a_hole_and_a_false_alarm_would_be_noticed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHECK], cwd=BENCH, capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout) == [[1, 1], [1, 1], [0, 1]]


@pytest.mark.parametrize(("origin", "cuts", "share"), [("nginx", "whole,random", 1), ("python", "whole,bytes", 5)])
def test_nothing_passes_with_another_meaning_and_nothing_well_formed_is_refused(
    origin: str, cuts: str, share: int
) -> None:
    done = subprocess.run(
        [sys.executable, "smuggling.py", "--origins", origin, "--cuts", cuts, "--share", str(share)],
        cwd=BENCH, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["holes"], found["false_alarms"]) == (0, 0)
    assert found["sent"] > 1000
