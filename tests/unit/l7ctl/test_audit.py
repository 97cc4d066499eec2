# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.audit."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from l7observe import record
from l7observe.flow import DnsSummary, Flow, FlowPeer, HttpSummary
from l7policy.verdict import Direction, Protocol, Reason, Verdict

Run = Callable[..., Result]
WEB, DB = FlowPeer("192.0.2.1", 40000, 256, (), 1, "web"), FlowPeer("192.0.2.2", 40000, 257, (), 2, "db")
WORLD = FlowPeer("198.51.100.7", 443, 2)
SHAPES = {
    "packet": (Reason.POLICY_DENIED, None, None),
    "http": (Reason.HTTP_DENIED, HttpSummary("GET", "api.example.com", "/", 403), None),
    "dns": (Reason.DNS_DENIED, None, DnsSummary("forbidden.example", "A", "REFUSED")),
}


def _line(layer: str, source: FlowPeer, number: int) -> bytes:
    reason, http, dns = SHAPES[layer]
    flow = Flow(
        time=1767225600.0 + number,
        layer=layer,
        verdict=Verdict.DROPPED,
        reason=reason,
        direction=Direction.EGRESS,
        protocol=Protocol.TCP,
        source=source,
        destination=WORLD,
        endpoint=source.endpoint,
        http=http,
        dns=dns,
        detail=str(number),
    )
    return record.encode(record.from_flow(flow, "node-1"))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Records 0 to 3 in a rotated file, 4 and 5 in the current one, and something torn between."""
    path = tmp_path / "audit.jsonl"
    lines = [
        _line(layer, source, number)
        for number, (layer, source) in enumerate(
            [("packet", WEB), ("http", WEB), ("dns", WEB), ("packet", DB), ("http", DB), ("dns", DB)]
        )
    ]
    path.with_name("audit.jsonl.1").write_bytes(b"".join(lines[:4]))
    path.write_bytes(b'{"torn\n' + b"".join(lines[4:]))
    return path


def _details(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return [json.loads(line)["detail"] for line in result.stdout.splitlines()]


@pytest.mark.parametrize(
    ("options", "details"),
    [
        ([], "012345"),
        (["-n", "3"], "345"),
        (["-n", "0"], ""),
        (["--layer", "http"], "14"),
        (["--layer", "http", "--layer", "dns"], "1245"),
        (["--endpoint", "web"], "012"),
        (["--endpoint", "2"], "345"),
        (["--reason", "policy_denied"], "03"),
        (["--endpoint", "web", "--layer", "dns"], "2"),
        (["--endpoint", "nobody"], ""),
        (["--endpoint", "web", "-n", "1"], "2"),
    ],
)
def test_the_wanted_records_are_shown_oldest_first(run: Run, log: Path, options: list[str], details: str) -> None:
    assert _details(run("audit", "tail", "--file", str(log), "-o", "json", *options)) == list(details)


def test_people_get_a_line_per_record(run: Run, log: Path) -> None:
    lines = run("audit", "tail", "--file", str(log), "-n", "1").stdout.splitlines()
    (line,) = lines
    assert line == (
        "2026-01-01T00:00:05.000000Z: db:40000 (ID:257) -> 198.51.100.7:443 (world) dns-request proxy EGRESS DROPPED "
        "(DNS Query forbidden.example. A => REFUSED; DNS_DENIED: No DNS rule allows the name; 5)"
    )
    assert "Z [node-1]: " in run("audit", "tail", "--file", str(log), "--node").stdout


def test_people_can_have_a_table(run: Run, log: Path) -> None:
    lines = run("audit", "tail", "--file", str(log), "-o", "table").stdout.splitlines()
    assert lines[0].split() == ["TIME", "LAYER", "SOURCE", "DESTINATION", "WHAT", "VERDICT", "REASON", "RULE"]
    assert len(lines) == 7


@pytest.mark.parametrize(("verdicts", "records"), [(["audit"], 1), (["DROPPED"], 6), (["AUDIT", "DROPPED"], 7)])
def test_what_was_only_audited_can_be_told_from_what_was_denied(
    run: Run, log: Path, verdicts: list[str], records: int
) -> None:
    with log.open("ab") as file:
        file.write(_line("packet", WEB, 6).replace(b'"DROPPED"', b'"AUDIT"'))
    options = [part for verdict in verdicts for part in ("--verdict", verdict)]
    assert len(run("audit", "tail", "--file", str(log), *options).stdout.splitlines()) == records


def test_the_configuration_says_where_the_log_is(run: Run, log: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"audit: {{path: {log}}}\n")
    assert len(run("--config", str(config), "audit", "tail").stdout.splitlines()) == 6


def test_a_daemon_named_by_its_socket_says_where_its_log_is(l7ctl: Run, agent: Any, log: Path) -> None:
    agent.answers["GET /v1/status"] = {"audit": {"path": str(log)}}
    assert len(l7ctl("audit", "tail").stdout.splitlines()) == 6


def test_a_log_that_is_not_there_is_one_line(run: Run, tmp_path: Path) -> None:
    result = run("audit", "tail", "--file", str(tmp_path / "none"))
    assert result.exit_code == 1
    assert result.stderr.startswith(f"l7ctl: {tmp_path}/none does not exist\nhint: ")


def test_a_log_that_cannot_be_read_is_one_line(run: Run, tmp_path: Path) -> None:
    result = run("audit", "tail", "--file", str(tmp_path))
    assert result.exit_code == 1
    assert result.stderr == f"l7ctl: cannot read {tmp_path}: Is a directory\n"


def test_a_reason_that_does_not_exist_is_wrong_use(run: Run, log: Path) -> None:
    assert run("audit", "tail", "--file", str(log), "--reason", "BECAUSE").exit_code == 2


def test_following_and_a_table_do_not_go_together(run: Run, log: Path) -> None:
    assert run("audit", "tail", "--file", str(log), "-f", "-o", "table").exit_code == 2


def test_following_crosses_a_rotation_and_ends_quietly_on_ctrl_c(log: Path) -> None:
    command = [sys.executable, "-m", "l7ctl.main", "audit", "tail", "--file", str(log), "-f", "-n", "1", "-o", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as follower:
        assert follower.stdout is not None
        assert json.loads(follower.stdout.readline())["detail"] == "5"
        with log.open("ab") as file:
            file.write(_line("http", WEB, 6))
        log.replace(log.with_name("audit.jsonl.1"))
        log.write_bytes(_line("http", WEB, 7))
        assert [json.loads(follower.stdout.readline())["detail"] for _ in range(2)] == ["6", "7"]
        follower.send_signal(signal.SIGINT)
        _, errors = follower.communicate(timeout=10)
    assert follower.returncode == 130
    assert errors.strip() == b""


def test_a_reader_that_goes_away_is_no_error(log: Path) -> None:
    log.write_bytes(b"".join(_line("http", WEB, number) for number in range(2000)))
    command = [sys.executable, "-m", "l7ctl.main", "audit", "tail", "--file", str(log), "-n", "2000"]
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stderr == b""
