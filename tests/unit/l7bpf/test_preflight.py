# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from l7bpf import preflight

PINS = Path("/nonexistent/pins")


def test_every_check_has_an_answer_and_what_fails_a_remedy():
    rows = preflight.checks(PINS, Path("/nonexistent/python3"))
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        assert row.found
        assert row.needed
        assert bool(row.remedy) != row.ok
    failed = {row.name: row for row in rows if not row.ok}
    assert "python3-bpfcc" in failed["bcc"].remedy


@pytest.mark.parametrize(
    ("release", "ok"),
    [
        ("5.15.0-100-generic", True),
        ("6.1.0", True),
        ("10.0", True),
        ("5.14.21", False),
        ("4.19.0", False),
        ("odd", False),
    ],
)
def test_the_kernel_must_be_new_enough(monkeypatch, release, ok):
    monkeypatch.setattr(preflight.platform, "release", lambda: release)
    (row,) = (row for row in preflight.checks(PINS, Path("/nonexistent")) if row.name == "kernel")
    assert (row.ok, row.found) == (ok, release)


def test_a_system_without_the_library_gets_rows_and_no_traceback(monkeypatch):
    monkeypatch.setattr(preflight.libbpf, "available", lambda: False)
    rows = {row.name: row for row in preflight.checks(PINS, Path("/nonexistent"))}
    assert rows["libbpf"].remedy == "apt-get install libbpf1"
    assert "tcx links" not in rows
