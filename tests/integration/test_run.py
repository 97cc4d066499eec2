# SPDX-License-Identifier: Apache-2.0
"""`l7ctl run`: one command under policy, with a private daemon or the one that runs, on a lab's node."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from l7lab import Lab
from l7lab.cgroup import root
from l7lab.gate import Gate, program
from l7lab.process import wait_until
from l7lab.topology import RESOLVER_V4

ASK = f"dig +short +tries=1 +time=2 @{RESOLVER_V4}"
GET = "curl -s -o /dev/null -m 2 -w %{http_code} --resolve api.example.com:80:198.51.100.1 http://api.example.com"
ELSEWHERE = "curl -s -o /dev/null -m 1 -w %{http_code} http://198.51.100.200/"
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: job}
spec:
  endpointSelector: {matchLabels: {app: sh}}
  egress:
    - toCIDR: [192.0.2.10/32]
      toPorts:
        - ports: [{port: "53", protocol: ANY}]
          rules: {dns: [{matchName: api.example.com}]}
    - toFQDNs: [{matchName: api.example.com}]
      toPorts:
        - ports: [{port: "80", protocol: TCP}]
          rules: {http: [{path: "/public/.*"}]}
"""


@dataclass(frozen=True)
class Node:
    """Where l7ctl runs: the lab's node, with a folder for files, and perhaps a daemon."""

    lab: Lab
    folder: Path
    config: Path | None = None

    def argv(self, *arguments: str) -> list[str]:
        chosen = ["--config", str(self.config)] if self.config is not None else []
        return ["nsenter", f"--net={self.lab.node.namespace.path}", program("l7ctl"), *chosen, "run", *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.argv(*arguments), capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Lab() as lab:
        yield Node(lab, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def joined(gate: Gate, node: Node) -> Node:
    """Where a daemon runs already."""
    return Node(gate.lab, node.folder, gate.config)


@pytest.fixture(scope="module")
def policy(node: Node) -> str:
    path = node.folder / "job.yaml"
    path.write_text(POLICY)
    return str(path)


def left_of(pid: int) -> list[Path]:
    """What a run of that process has, while it lasts."""
    name = f"l7ctl-run-{pid}"
    places = (root() / name, Path("/run") / name, Path("/sys/fs/bpf") / name)
    return [path for path in places if path.exists()]


def test_audit_lets_everything_pass_and_suggests_the_policy_that_then_allows_just_that(node: Node) -> None:
    suggested, report = node.folder / "suggested.yaml", node.folder / "report.json"
    script = f"{ASK} api.example.com; {GET}/public/; exit 7"
    watched = node.run("--audit", "--suggest", str(suggested), "--report", str(report), "--", "sh", "-c", script)
    assert (watched.returncode, watched.stdout) == (7, "198.51.100.1\n200"), watched.stderr
    assert "AUDIT      api.example.com:80/TCP" in watched.stderr
    found = json.loads(report.read_text())
    assert (found["exit_code"], found["names"], found["denied"]) == (7, ["api.example.com"], 1)

    script = f"{ASK} api.example.com; {GET}/public/; {ASK} evil.example.com; {ELSEWHERE}"
    limited = node.run("--policy", str(suggested), "--", "sh", "-c", script)
    assert (limited.returncode, limited.stdout) == (28, "198.51.100.1\n200000"), limited.stderr
    lines = [line.split()[:3] for line in limited.stderr.splitlines()]
    assert ["DROPPED", "198.51.100.200:80/TCP"] in [line[:2] for line in lines]
    assert ["DROPPED", "DNS", "evil.example.com"] in lines


def test_a_policys_requests_are_judged_and_told_by_their_rule(node: Node, policy: str) -> None:
    done = node.run("-p", policy, "--", "sh", "-c", f"{ASK} api.example.com; {GET}/public/; {GET}/private")
    assert (done.returncode, done.stdout) == (0, "198.51.100.1\n200403"), done.stderr
    told = [line.split() for line in done.stderr.splitlines()]
    assert ["DROPPED", "GET", "api.example.com/private", "1", "job", "egress[1].toPorts[0]"] in told


def test_nothing_is_left_of_a_run(node: Node, policy: str) -> None:
    with subprocess.Popen(node.argv("-q", "-p", policy, "--", "sleep", "0.1"), stderr=subprocess.PIPE) as running:
        wait_until(lambda: len(left_of(running.pid)) == 3, "the run to begin", 30.0)
        assert running.wait(30) == 0
        assert running.stderr is not None
        assert running.stderr.read() == b""
    assert left_of(running.pid) == []
    assert "fwmark" not in node.lab.node.namespace.run(["ip", "rule"]).stdout


@pytest.mark.parametrize(
    ("script", "code"), [("exit 3", 3), ("kill -KILL $$", 137), ("nosuch-command", 127), ("test $(id -u) = 0", 0)]
)
def test_the_exit_code_is_the_commands(joined: Node, script: str, code: int) -> None:
    assert joined.run("-q", "--", "sh", "-c", script).returncode == code


def test_it_runs_as_another_user_and_cannot_leave(joined: Node) -> None:
    leave = f"echo $$ > {root()}/cgroup.procs; mount -o remount,bind,rw {root()}"
    for options, name in ((["--user", "nobody"], "nobody"), ([], "root")):
        script = f"id -un; {leave}; grep -c l7ctl-run /proc/self/cgroup"
        done = joined.run("-q", *options, "--", "sh", "-c", script)
        assert done.stdout.split() == [name, "1"], done.stderr
    assert "no user 'nosuch'" in joined.run("--user", "nosuch", "--", "true").stderr


def test_signals_are_the_commands(joined: Node) -> None:
    script = "trap 'echo heard; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen(joined.argv("-q", "--", "sh", "-c", script), stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        running.send_signal(signal.SIGTERM)
        assert running.stdout.read() == b"heard\n"
        assert running.wait(30) == 9


def test_what_a_crash_leaves_goes_on_under_policy_until_the_next_run_takes_it_away(node: Node, policy: str) -> None:
    with subprocess.Popen(
        node.argv("-q", "-p", policy, "--", "sh", "-c", f"echo ready; while :; do {ELSEWHERE}; done"),
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        running.kill()
        running.wait()
        time.sleep(2.5)
        (survivor, *_) = (left_of(running.pid)[0] / "cgroup.procs").read_text().split()
        assert len(left_of(running.pid)) == 3
        assert node.run("-q", "-p", policy, "--", "true").returncode == 0
        assert left_of(running.pid) == []
        assert not Path("/proc", survivor).exists()
        assert set(os.read(running.stdout.fileno(), 4096)) <= set(b"0")  # no request got an answer


def test_without_a_daemon_a_policy_is_needed_and_a_wrong_one_is_told(node: Node) -> None:
    done = node.run("--", "true")
    assert (done.returncode, done.stdout) == (2, "")
    assert "give --policy FILE, or --audit" in done.stderr
    broken = node.folder / "broken.yaml"
    broken.write_text(POLICY.replace("toCIDR", "toCIDDR"))
    done = node.run("-p", str(broken), "--", "touch", str(node.folder / "ran"))
    assert done.returncode == 2
    assert "broken.yaml:8:" in done.stderr
    assert not (node.folder / "ran").exists()
    assert node.run("--audit", "--", "no-such-command").returncode == 127


def test_with_a_daemon_the_command_is_one_of_its_endpoints(gate: Gate, joined: Node, policy: str) -> None:
    labels = ("-l", "app=batch", "-l", "io.kubernetes.pod.namespace=shop")
    allowed = "curl -s -o /dev/null -m 2 -w %{http_code} http://198.51.100.70/"
    done = joined.run(*labels, "--", "sh", "-c", f"{allowed}; {ELSEWHERE}")
    assert (done.returncode, done.stdout) == (28, "200000"), done.stderr
    assert "batch-egress" in done.stderr
    assert [one["name"] for one in gate.endpoints() if one["name"].startswith("l7ctl-run")] == []
    refused = joined.run("-p", policy, "--", "true")
    assert (refused.returncode, "--policy is for a machine where no l7d runs" in refused.stderr) == (2, True)


@pytest.mark.parametrize("option", ["--report", "--suggest"])
def test_a_command_that_puts_a_link_in_place_of_the_report_has_root_write_to_no_other_file(
    node: Node, tmp_path: Path, option: str
) -> None:
    victim, told = tmp_path / "victim", tmp_path / "told"
    victim.write_text("mine")
    found = node.run("--audit", option, str(told), "--", "sh", "-c", f"ln -sf {victim} {told}")
    assert found.returncode == 0, found.stderr
    assert told.is_symlink()
    assert victim.read_text() == "mine"
