# SPDX-License-Identifier: Apache-2.0
"""Kept rule sets: the newest is active, the oldest go."""

from pathlib import Path

import pytest

from l7agent.history import KEPT, History, Kept, UnknownRevision


def kept(revision: int) -> Kept:
    return Kept(revision, time=float(revision), sources=[("a.yaml", f"# {revision}")])


def test_nothing_is_active_at_first(tmp_path: Path) -> None:
    assert History(tmp_path).active is None


def test_the_newest_is_active_after_a_restart(tmp_path: Path) -> None:
    history = History(tmp_path)
    for revision in (1, 2, 10):
        history.add(kept(revision))
    assert History(tmp_path).active == kept(10)


def test_only_the_last_ones_are_kept(tmp_path: Path) -> None:
    history = History(tmp_path)
    for revision in range(1, KEPT + 4):
        history.add(kept(revision))
    assert [one.revision for one in History(tmp_path)] == list(range(4, KEPT + 4))
    assert len(list(tmp_path.iterdir())) == KEPT


def test_a_text_that_does_not_change_is_held_once(tmp_path: Path) -> None:
    history = History(tmp_path)
    for revision in (1, 2):
        history.add(Kept(revision, time=0.0, sources=[("a.yaml", "".join(["same"])), ("b.yaml", f"# {revision}")]))
    for one in (history, History(tmp_path)):
        first, second = one
        assert second.sources == [("a.yaml", "same"), ("b.yaml", "# 2")]
        assert first.sources[0][1] is second.sources[0][1]


def test_no_revision_means_the_one_before(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.add(kept(3))
    with pytest.raises(UnknownRevision, match="no revision before"):
        history.find(None)
    history.add(kept(7))
    assert history.find(None).revision == 3
    assert history.find(7).revision == 7
    with pytest.raises(UnknownRevision, match="kept: 3, 7"):
        history.find(5)
