# SPDX-License-Identifier: Apache-2.0
"""Tests of l7observe.audit."""

import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from l7observe import record
from l7observe.audit import AuditLog
from l7observe.flow import DnsSummary, Flow
from l7policy.verdict import Verdict

Denies = Callable[[int], list[Flow]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def _details(*paths: Path) -> list[int]:
    """The numbers of the records in the files; every line must be a whole record."""
    numbers = []
    for path in paths:
        for line in path.read_bytes().splitlines(keepends=True):
            assert line.endswith(b"\n")
            found = record.decode(line)
            assert found is not None, line
            numbers.append(int(found.detail))
    return numbers


def test_every_deny_is_one_line(path: Path, denies: Denies) -> None:
    log = AuditLog(path, node="node-1")
    for flow in denies(100):
        log.write(flow)
    assert log.flush()
    assert _details(path) == list(range(100))
    assert (log.written, log.lost, log.error) == (100, 0, "")
    log.close()


def test_what_was_let_through_is_not_recorded(path: Path, packet_deny: Flow) -> None:
    log = AuditLog(path)
    packet_deny.verdict = Verdict.FORWARDED
    log.write(packet_deny)
    log.close()
    assert path.read_bytes() == b""


def test_a_busy_audited_endpoint_leaves_room_for_denies(path: Path, denies: Denies) -> None:
    log = AuditLog(path, audited_per_second=5)
    audited, denied = denies(40)[:20], denies(40)[20:]
    for passing, refused in zip(audited, denied, strict=True):
        passing.verdict = Verdict.AUDIT
        log.write(passing)
        log.write(refused)
    log.close()
    found = [record.decode(line) for line in path.read_bytes().splitlines()]
    assert sum(one is not None and one.verdict == "DROPPED" for one in found) == 20
    assert sum(one is not None and one.verdict == "AUDIT" for one in found) == 20 - log.left_out
    assert 5 <= 20 - log.left_out < 20


def test_the_next_audited_record_says_how_many_were_left_out(path: Path, denies: Denies) -> None:
    log = AuditLog(path, audited_per_second=1)
    for passing in denies(4):
        passing.verdict = Verdict.AUDIT
        log.write(passing)
    time.sleep(1.1)
    passing.verdict = Verdict.AUDIT
    log.write(passing)
    log.close()
    found = [record.decode(line) for line in path.read_bytes().splitlines()]
    assert [one.left_out for one in found if one is not None] == [msgspec.UNSET, 3]


def test_a_flood_of_refused_questions_is_counted_and_takes_nothing_from_others(path: Path, denies: Denies) -> None:
    log = AuditLog(path, refused_names_per_second=3)
    flood, others = denies(40)[:20], denies(40)[20:]
    for question, other in zip(flood, others, strict=True):
        question.dns = DnsSummary("tracker.example.net", "A", "REFUSED")
        log.write(question)
        log.write(other)
    time.sleep(0.4)
    log.write(question)
    log.close()
    found = [one for line in path.read_bytes().splitlines() if (one := record.decode(line)) is not None]
    asked = [one for one in found if one.dns]
    assert len(found) - len(asked) == 20
    assert 4 <= len(asked) == 21 - log.left_out < 21
    assert sum(one.left_out or 0 for one in asked) == log.left_out


def test_every_refused_question_has_a_record_unless_told_otherwise(path: Path, denies: Denies) -> None:
    log = AuditLog(path)
    for question in denies(500):
        question.dns = DnsSummary("tracker.example.net", "A", "REFUSED")
        log.write(question)
    log.close()
    assert len(path.read_bytes().splitlines()) == 500


def test_the_node_is_the_host_unless_told(path: Path, packet_deny: Flow) -> None:
    log = AuditLog(path)
    log.write(packet_deny)
    log.close()
    found = record.decode(path.read_bytes())
    assert found is not None
    assert found.node == os.uname().nodename


def test_close_writes_what_waits(path: Path, denies: Denies) -> None:
    log = AuditLog(path)
    for flow in denies(2000):
        log.write(flow)
    log.close()
    assert _details(path) == list(range(2000))


def test_rotation_loses_nothing_that_is_kept(path: Path, denies: Denies) -> None:
    log = AuditLog(path, max_bytes=20_000, backups=3)
    for flow in denies(100):
        log.write(flow)
    log.close()
    names = [path.with_name(f"audit.jsonl.{number}") for number in (3, 2, 1)]
    kept = _details(*[name for name in names if name.exists()], path)
    assert kept == list(range(100))[-len(kept) :]
    assert len(kept) > 50
    assert all(name.stat().st_size <= 20_000 for name in path.parent.iterdir())


def test_reopen_follows_the_name(path: Path, denies: Denies) -> None:
    log = AuditLog(path)
    first, second = denies(2)
    log.write(first)
    assert log.flush()
    path.rename(path.with_name("moved"))
    log.reopen()
    assert log.flush()
    assert path.exists()
    log.write(second)
    log.close()
    assert _details(path.with_name("moved")) == [0]
    assert _details(path) == [1]


def test_a_full_disk_is_reported_and_forgotten_when_there_is_space(
    path: Path, denies: Denies, caplog: pytest.LogCaptureFixture
) -> None:
    path.symlink_to("/dev/full")
    with caplog.at_level(logging.WARNING):
        log = AuditLog(path, retry_seconds=0.02)
        flows = denies(3)
        log.write(flows[0])
        assert not log.flush(timeout=0.2)
        assert log.error == f"{path}: no space left on the disk"
        assert (log.written, log.lost, log.waiting) == (0, 0, 1)
        log.write(flows[1])
        path.unlink()
        log.write(flows[2])
        assert log.flush()
        assert log.error == ""
        log.close()
    assert _details(path) == [0, 1, 2]
    assert "cannot be written" in caplog.text
    assert "is written again" in caplog.text


def test_what_a_full_disk_outlasts_is_counted_with_the_reason(path: Path, denies: Denies) -> None:
    path.symlink_to("/dev/full")
    log = AuditLog(path, queue_bytes=2000, retry_seconds=0.02)
    assert log.flush()
    flows = denies(100)
    for flow in flows:
        log.write(flow)
    assert not log.flush(timeout=0.2)
    waiting = log.waiting
    assert 0 < waiting < 10
    assert log.lost == 100 - waiting
    path.unlink()
    assert log.flush()
    assert log.written == waiting
    assert log.error in {f"{path}: no space left on the disk", "records came faster than the disk took them"}
    log.close()
    assert _details(path) == list(range(waiting))


def test_close_on_a_full_disk_counts_the_rest_as_lost(path: Path, denies: Denies) -> None:
    path.symlink_to("/dev/full")
    log = AuditLog(path, retry_seconds=60)
    for flow in denies(5):
        log.write(flow)
    log.close()
    assert (log.written, log.lost) == (0, 5)
    assert log.error == f"{path}: no space left on the disk"


def test_after_close_records_are_lost_and_counted(path: Path, packet_deny: Flow) -> None:
    log = AuditLog(path)
    log.close()
    log.write(packet_deny)
    assert log.lost == 1


def test_a_folder_that_cannot_be_made_is_reported_and_retried(path: Path, packet_deny: Flow) -> None:
    path.write_text("in the way")
    log = AuditLog(path / "audit.jsonl", retry_seconds=0.02)
    log.write(packet_deny)
    assert not log.flush(timeout=0.2)
    assert "exists" in log.error or "directory" in log.error.lower()
    path.unlink()
    assert log.flush()
    assert log.written == 1
    log.close()


def test_a_flow_that_cannot_be_written_down_never_raises(path: Path, denies: Denies) -> None:
    log = AuditLog(path)
    broken, fine = denies(2)
    broken.time = float("nan")
    log.write(broken)
    log.write(fine)
    log.close()
    assert (log.written, log.lost) == (1, 1)
    assert "could not be encoded" in log.error


def test_several_threads_may_write(path: Path, denies: Denies) -> None:
    log = AuditLog(path)
    flows = denies(400)

    def write(part: list[Flow]) -> None:
        for flow in part:
            log.write(flow)

    threads = [threading.Thread(target=write, args=(flows[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert sorted(_details(path)) == list(range(400))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid():
        pytest.skip("mounting a small disk needs root")
    mount = tmp_path / "disk"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "l7-test", mount], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", mount], check=True)


def test_a_real_disk_fills_and_gets_space_again(small_disk: Path, denies: Denies) -> None:
    path = small_disk / "audit.jsonl"
    log = AuditLog(path, retry_seconds=0.02)
    flows = denies(200)
    for flow in flows:
        log.write(flow)
    assert not log.flush(timeout=0.3)
    assert log.error == f"{path}: no space left on the disk"
    before = _details(path)
    assert before == list(range(len(before)))
    subprocess.run(["mount", "-o", "remount,size=1m", small_disk], check=True)
    assert log.flush()
    assert (log.written, log.lost, log.error) == (200, 0, "")
    log.close()
    assert _details(path) == list(range(200))
