# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
from pathlib import Path

import pytest

from l7lab import registry
from l7lab.registry import Owner


@pytest.fixture(autouse=True)
def labs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(registry, "LABS", tmp_path / "labs")
    monkeypatch.setattr(registry, "NAMESPACES", tmp_path / "netns")
    return tmp_path / "labs"


def dead_owner() -> int:
    gone = subprocess.Popen(["true"])
    gone.wait()
    return gone.pid


def test_a_lab_belongs_to_the_process_that_registered_it() -> None:
    identifier, folder = registry.register()
    assert registry.labs() == {identifier: Owner(os.getpid(), registry.started(os.getpid()))}
    assert registry.labs()[identifier].alive
    assert folder.is_dir()


def test_a_living_owners_lab_is_not_swept() -> None:
    identifier, _ = registry.register()
    assert registry.sweep(kept=True) == []
    assert identifier in registry.labs()


def test_a_dead_owners_lab_is_swept(labs: Path) -> None:
    identifier, folder = registry.register()
    (folder / registry.RECORD).write_text(f'{{"pid": {dead_owner()}, "started": "1"}}')
    assert registry.sweep() == [identifier]
    assert not labs.exists()


def test_a_pid_given_to_another_process_is_not_the_owner() -> None:
    assert not Owner(os.getpid(), "1").alive


def test_a_kept_lab_is_swept_only_on_request() -> None:
    identifier, folder = registry.register()
    registry.keep(folder)
    text = (folder / registry.RECORD).read_text()
    (folder / registry.RECORD).write_text(text.replace(str(os.getpid()), str(dead_owner())))
    assert registry.sweep() == []
    assert registry.sweep(kept=True) == [identifier]


@pytest.mark.parametrize("record", ["", "{", "[]", '{"pid": 1}', '{"pid": 1, "started": "", "more": 1}'])
def test_a_lab_with_an_unreadable_record_is_nobodys(record: str) -> None:
    identifier, folder = registry.register()
    (folder / registry.RECORD).write_text(record)
    assert registry.sweep() == [identifier]
    assert not folder.exists()
