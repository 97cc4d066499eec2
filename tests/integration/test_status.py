# SPDX-License-Identifier: Apache-2.0
"""`l7ctl status` says what keeps the node from enforcing, and ends with 1 then."""

import os
import signal
from collections.abc import Callable

from l7lab.gate import Gate
from l7lab.process import wait_until
from l7lab.topology import UPLINK


def degraded(gate: Gate) -> list[str]:
    """What `l7ctl status` says, which must fit its exit code."""
    shown = gate.ctl("status", "-o", "json")
    problems: list[str] = shown.json["problems"]
    assert shown.code == (1 if problems else 0), shown
    return problems


def test_a_node_that_enforces_has_no_problems(gate: Gate) -> None:
    assert degraded(gate) == []
    rows = {row["name"]: row for row in gate.status()["enforced"]}
    assert set(rows) == {"frontend", "batch", "backend"}
    for row in rows.values():
        assert (row["programs"], row["missing"]) == (["from_endpoint", "to_endpoint"], [])
        assert row["revision"] == gate.status()["revision"]


def test_a_program_that_somebody_took_away_is_missed(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate()
    links = gate.lab.bpffs / "l7"
    assert degraded(gate) == []
    number = next(one["id"] for one in gate.endpoints() if one["name"] == "batch")
    (pin,) = links.glob(f"*/links/endpoint_{number}_from")
    pin.unlink()  # the kernel detaches with the last name
    assert degraded(gate) == ["endpoint batch: not attached: from_endpoint"]
    shown = gate.ctl("status", "--verbose")
    assert shown.code == 1
    assert "endpoint batch: not attached: from_endpoint" in shown.out
    # The uplink's loss is told by the interface's name.
    for path in links.glob("*/links/uplink_*_to"):
        path.unlink()
    assert f"uplink {UPLINK}: not attached: to_uplink" in degraded(gate)
    # What a restart does mends both.
    gate.kill_agent()
    gate.start()
    assert degraded(gate) == []


def test_a_process_that_stands_still_and_a_wrong_file_are_told(gate: Gate) -> None:
    bad = gate.policies / "bad.yaml"
    bad.write_text("kind: Nothing")
    try:
        assert gate.ctl("rules", "reload").code == 1
        assert degraded(gate) == ["the policy files were not loaded"]
    finally:
        bad.unlink()
        gate.must("rules", "reload")
    assert degraded(gate) == []
    os.kill(gate.workers()["http-0"], signal.SIGKILL)
    wait_until(lambda: gate.ready() and not degraded(gate), "the worker to be back")


def test_a_table_that_is_nearly_full_is_told_before_it_refuses(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate(settings={"maps": {"endpoints": 3}})
    # A count may be five seconds old.
    wait_until(lambda: bool(degraded(gate)), "the next count", 10.0)
    assert degraded(gate) == ["kernel table endpoints holds 3 of 3 entries (config key maps.endpoints)"]
