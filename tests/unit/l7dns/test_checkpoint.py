# SPDX-License-Identifier: Apache-2.0
"""What was learnt is found again, whatever moment the process was killed at."""

from pathlib import Path

from l7dns.checkpoint import Checkpoint, NameState
from l7policy.ids import Revision
from l7policy.model import Snapshot

ONE = NameState("a.example.com.", "192.0.2.53", 53, 7, [(bytes([192, 0, 2, 1]), 100.0)])
TWO = NameState("b.example.com.", "", 0, 0, [(bytes(15) + b"\1", 200.5)])
SNAPSHOT = Snapshot(Revision(3), {}, {}, {}, ())


def test_an_empty_folder_or_none_is_an_empty_state(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        assert list(Checkpoint(folder).load().names) == []


def test_names_and_journal_are_read_back(tmp_path: Path) -> None:
    first = Checkpoint(tmp_path / "new")
    assert first.save_rules([SNAPSHOT])
    assert first.save_names([ONE], 25165900)
    assert first.append(TWO)  # and then it is killed
    state = Checkpoint(tmp_path / "new").load()
    assert (list(state.names), state.next_identity, state.snapshots) == ([ONE, TWO], 25165900, [SNAPSHOT])


def test_a_record_cut_short_is_ignored_and_those_before_it_are_not(tmp_path: Path) -> None:
    first = Checkpoint(tmp_path)
    first.save_names([], 0)
    first.append(ONE)
    first.append(TWO)
    journal = next(tmp_path.glob("dns-journal.*"))
    journal.write_bytes(journal.read_bytes()[:-3])
    assert list(Checkpoint(tmp_path).load().names) == [ONE]


def test_a_restart_goes_on_with_the_journal_behind_its_last_whole_record(tmp_path: Path) -> None:
    first = Checkpoint(tmp_path)
    first.save_names([ONE], 0)
    first.append(TWO)
    journal = next(tmp_path.glob("dns-journal.*"))
    journal.write_bytes(journal.read_bytes() + b"\0\0\0\xffcut short")
    second = Checkpoint(tmp_path)
    assert list(second.load().names) == [ONE, TWO]
    assert not second.due
    assert second.append(ONE)
    assert list(Checkpoint(tmp_path).load().names) == [ONE, TWO, ONE]


def test_without_its_journal_the_cache_is_due_to_be_written(tmp_path: Path) -> None:
    first = Checkpoint(tmp_path)
    first.save_names([ONE], 0)
    next(tmp_path.glob("dns-journal.*")).unlink()
    second = Checkpoint(tmp_path)
    assert list(second.load().names) == [ONE]
    assert second.due


def test_a_new_cache_file_begins_a_new_journal(tmp_path: Path) -> None:
    first = Checkpoint(tmp_path)
    first.save_names([], 0)
    first.append(ONE)
    first.save_names([TWO], 0)
    assert list(Checkpoint(tmp_path).load().names) == [TWO]
    assert len(list(tmp_path.glob("dns-journal.*"))) == 1


def test_killed_while_the_cache_file_is_replaced_the_old_one_and_its_journal_count(tmp_path: Path) -> None:
    first = Checkpoint(tmp_path)
    first.save_names([ONE], 0)
    first.append(TWO)
    (tmp_path / "dns-journal.2").write_bytes(b"")
    (tmp_path / "dns-names.msgpack.new").write_bytes(b"half")
    assert list(Checkpoint(tmp_path).load().names) == [ONE, TWO]


def test_damaged_files_and_files_of_another_boot_are_as_if_there_were_none(tmp_path: Path) -> None:
    first = Checkpoint(tmp_path)
    first.save_rules([SNAPSHOT])
    first.save_names([ONE], 5)
    names, rules = tmp_path / "dns-names.msgpack", tmp_path / "dns-rules.msgpack"
    whole = names.read_bytes(), rules.read_bytes()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().encode()
    for damage in (lambda data: data[:-4], lambda data: b"\xff" + data, lambda data: data.replace(boot, b"x" * 36)):
        names.write_bytes(damage(whole[0]))
        rules.write_bytes(damage(whole[1]))
        state = Checkpoint(tmp_path).load()
        assert (list(state.names), state.snapshots, state.next_identity) == ([], [], 0)


def test_a_folder_that_cannot_be_written_is_counted_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    broken = Checkpoint(tmp_path / "file")
    assert not broken.save_names([ONE], 0)
    assert not broken.append(ONE)
    assert broken.errors == 1
    assert broken.error
    assert broken.due
