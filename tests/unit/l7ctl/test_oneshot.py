# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.oneshot: leftovers. Its daemon is used in tests/integration/test_run.py."""

import subprocess
from pathlib import Path

import pytest

from l7ctl import oneshot
from l7ctl.confinement import PREFIX


def test_folders_whose_makers_are_gone_are_swept_and_no_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(oneshot, "FOLDER", tmp_path)
    gone = subprocess.Popen(["true"])
    gone.wait()
    names = (f"{PREFIX}{gone.pid}", f"{PREFIX}1", f"{PREFIX}other", "l7d")
    for name in names:
        (tmp_path / name / "policies").mkdir(parents=True)
    oneshot.sweep()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])
