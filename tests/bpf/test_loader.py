# SPDX-License-Identifier: Apache-2.0
"""Compiling, loading and pinning, and what goes wrong there."""

import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from l7bpf import compiler, libbpf, loader
from l7bpf.errors import DatapathError
from l7bpf.layouts import LAYOUT
from l7bpf.maps import Maps
from l7bpf.programs import PROGRAMS


@pytest.fixture
def own_pins(bpf_folder, request):
    folder = bpf_folder / request.node.name.replace("[", "_").replace("]", "_")
    yield folder / LAYOUT
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """The sources to change as a test likes."""
    copy = tmp_path / "programs"
    shutil.copytree(compiler.programs_folder(), copy)
    monkeypatch.setattr(compiler, "programs_folder", lambda: copy)
    return copy


def break_file(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


SMALL = loader.Constants(max_conntrack=64, max_ipcache=16, max_policy=16, max_fqdn_identities=16, max_event_bytes=4096)


def program_ids(pins: Path) -> dict[str, int]:
    found = {}
    for name in PROGRAMS:
        fd = libbpf.obj_get(pins / "programs" / name)
        found[name] = libbpf.program_id(fd)
        os.close(fd)
    return found


def walked(pins: Path, name: str) -> int:
    """How many instructions the verifier looked at, over all paths through the program. It gives up at a million."""
    fd = libbpf.obj_get(pins / "programs" / name)
    try:
        said = dict(line.split(":", 1) for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines())
    finally:
        os.close(fd)
    return int(said["verified_insns"])


def test_programs_stay_far_below_the_verifiers_limits(own_pins):
    """The kernel pays for the paths through a program, not for its length: at most a twentieth of its limit."""
    loaded = loader.load(own_pins, SMALL)
    assert set(loaded.instructions) == set(PROGRAMS)
    assert max(loaded.instructions.values()) < 2600
    assert max(walked(own_pins, name) for name in PROGRAMS) < 50_000
    assert loaded.kept_sizes == {}


def test_a_second_load_replaces_the_programs_and_keeps_the_tables(own_pins):
    loader.load(own_pins, SMALL)
    before = program_ids(own_pins)
    with Maps.open(own_pins) as maps:
        maps.config.update(9)
    loaded = loader.load(own_pins, loader.Constants(max_conntrack=128, max_ipcache=16, max_event_bytes=4096))
    with Maps.open(own_pins) as maps:
        assert maps.config.revision == 9
    assert loaded.kept_sizes["conntrack"] == (64, 128)
    assert "ipcache" not in loaded.kept_sizes
    after = program_ids(own_pins)
    assert all(before[name] != after[name] for name in PROGRAMS)
    assert sorted(path.name for path in (own_pins / "programs").iterdir()) == sorted(PROGRAMS)


def test_a_mistake_in_the_sources_is_named_with_its_file_and_line(own_pins, sources):
    break_file(sources / "policy.h", "*cookie = v->cookie;", "*cookie = v->cooky;")
    before, _, _ = (sources / "policy.h").read_text().partition("cooky")
    where = rf"policy\.h:{before.count(chr(10)) + 1}:\d+"
    with pytest.raises(DatapathError, match=rf"does not compile: .*{where}: error: no member named 'cooky'"):
        loader.load(own_pins, SMALL)


def test_a_program_that_the_kernel_refuses_is_named_and_replaces_nothing(own_pins, sources):
    loader.load(own_pins, SMALL)
    before = program_ids(own_pins)
    break_file(sources / "policy.h", "return id ? *id : 0", "return *id")
    with pytest.raises(DatapathError, match=r"the kernel refuses from_endpoint: .*invalid mem access"):
        loader.load(own_pins, SMALL)
    assert program_ids(own_pins) == before
    assert sorted(path.name for path in (own_pins / "programs").iterdir()) == sorted(PROGRAMS)


def test_a_table_of_another_layout_is_refused(own_pins, sources):
    break_file(sources / "maps.h", "u64 observe_until_ns;", "u64 observe_until_ns, more[2];")
    for _ in range(2):  # whether it was just made or was there before
        with pytest.raises(DatapathError, match=r"config is pinned with another layout.*use another folder"):
            loader.load(own_pins, SMALL)
    with pytest.raises(DatapathError, match="another layout"):
        Maps.open(own_pins)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 3", "the compiler ended with 3: no message"),
        ("echo \"ModuleNotFoundError: No module named 'bcc'\" >&2; exit 1", "has no bcc: install python3-bpfcc"),
        ("echo one >&2; echo two >&2; kill -9 $$", "ended with -9: two"),
    ],
)
def test_a_compiler_that_fails_is_explained(own_pins, tmp_path, script, message):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ncat >/dev/null\n{script}\n")
    python.chmod(0o755)
    with pytest.raises(DatapathError, match=message):
        loader.load(own_pins, SMALL, python=python)


def test_a_missing_interpreter_is_explained(own_pins, tmp_path):
    with pytest.raises(DatapathError, match=r"python3-bpfcc"):
        loader.load(own_pins, SMALL, python=tmp_path / "none")


def test_pins_must_be_on_a_bpf_file_system(tmp_path):
    with pytest.raises(DatapathError, match="not on a bpf file system"):
        loader.load(tmp_path, SMALL)


def test_tables_that_cannot_be_made_are_an_error(own_pins):
    with pytest.raises(DatapathError, match="the table events of 16 cannot be made: Invalid argument"):
        loader.load(own_pins, loader.Constants(max_event_bytes=16))


class TestCache:
    """What was compiled once is loaded from then on, wherever the pins are and however large the tables."""

    @pytest.fixture
    def compiler_runs(self, monkeypatch):
        runs = []
        real = compiler.subprocess.run
        monkeypatch.setattr(compiler.subprocess, "run", lambda *given, **named: runs.append(1) or real(*given, **named))
        return runs

    def test_bytecode_serves_other_pins_and_sizes(self, own_pins, tmp_path, compiler_runs):
        cache = tmp_path / "new" / "cache"
        loader.load(own_pins.parent / "other", SMALL, cache=cache)
        assert len(compiler_runs) == 1
        assert cache.stat().st_mode & 0o777 == 0o700
        loader.load(own_pins, loader.Constants(max_conntrack=128), cache=cache)
        assert len(compiler_runs) == 1
        with Maps.open(own_pins) as maps:
            assert maps.conntrack.capacity == 128
            fd = libbpf.obj_get(own_pins / "maps/config")
            assert libbpf.map_info(fd).flags == 1 << 10  # BPF_F_MMAPABLE: bcc's flags are kept
            os.close(fd)

    def test_what_went_into_it_tells_it_apart(self, own_pins, tmp_path, sources, compiler_runs):
        loader.load(own_pins, SMALL, cache=tmp_path)
        loader.load(own_pins, dataclasses.replace(SMALL, events_per_second=7), cache=tmp_path)
        break_file(sources / "l7gate.c", "#include", "/* another */\n#include")
        loader.load(own_pins, SMALL, cache=tmp_path)
        assert len(compiler_runs) == len(list(tmp_path.glob("datapath-*.json"))) == 3

    def test_a_file_that_is_not_whole_is_made_again(self, own_pins, tmp_path, compiler_runs):
        loader.load(own_pins, SMALL, cache=tmp_path)
        (kept,) = tmp_path.glob("datapath-*.json")
        whole = kept.read_bytes()
        for damaged in (whole[: len(whole) // 2], b'{"maps": {}, "programs": {}}'):
            kept.write_bytes(damaged)
            loader.load(own_pins, SMALL, cache=tmp_path)
            assert kept.read_bytes() == whole
        assert len(compiler_runs) == 3

    @pytest.mark.parametrize("how", ["writable", "another's", "a link"])
    def test_a_folder_that_others_can_write_to_is_not_believed(self, own_pins, tmp_path, compiler_runs, caplog, how):
        cache = tmp_path / "cache"
        cache.mkdir()
        loader.load(own_pins, SMALL, cache=cache)
        if how == "writable":
            cache.chmod(0o777)
        elif how == "another's":
            os.chown(cache, 65534, -1)
        else:
            cache.rename(tmp_path / "elsewhere")
            cache.symlink_to(tmp_path / "elsewhere")
        loader.load(own_pins, SMALL, cache=cache)
        assert len(compiler_runs) == 2
        assert "others can write to it" in caplog.text

    def test_a_draft_that_a_killed_process_left_is_taken_away(self, own_pins, tmp_path):
        left, begun = tmp_path / ".draft-old", tmp_path / ".draft-new"
        for draft in (left, begun):
            draft.touch()
        os.utime(left, (0, 0))
        loader.load(own_pins, SMALL, cache=tmp_path)
        assert not left.exists()
        assert begun.exists()

    def test_only_some_are_kept(self, own_pins, tmp_path):
        for number in range(compiler.KEPT + 3):
            file = tmp_path / f"datapath-{number}.json"
            file.touch()
            os.utime(file, (number, number))
        loader.load(own_pins, SMALL, cache=tmp_path)
        assert len(list(tmp_path.glob("datapath-*.json"))) == compiler.KEPT
        assert not (tmp_path / "datapath-3.json").exists()
