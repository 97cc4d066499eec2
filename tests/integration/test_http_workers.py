# SPDX-License-Identifier: Apache-2.0
"""Workers of the HTTP proxy that end, are killed, or have no file left, while requests are under way."""

import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from l7lab import traffic
from l7lab.gate import Gate
from l7lab.process import wait_until
from l7lab.traffic import Stream

API = "198.51.100.1"
PUBLIC, SECRET = "http://api.example.com/public/x", "http://api.example.com/secret"
CONNECTIONS = 16
POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: public}
spec:
  endpointSelector: {}
  egress:
    - toPorts:
        - ports: [{port: "80", protocol: TCP}]
          rules: {http: [{path: /public/.*}, {method: PUT, path: /upload/.*}]}
"""
UPLOAD = r"""
exec 3<>/dev/tcp/198.51.100.1/80
printf 'PUT /upload/late HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\nContent-Length: 8\r\n\r\nhalf' >&3
sleep 1.5
printf 'rest' >&3
head -1 <&3
"""


@pytest.fixture(scope="module")
def gate(module_gate: Callable[..., Gate]) -> Gate:
    return module_gate({"public.yaml": POLICY})


def workers(gate: Gate) -> dict[str, int]:
    """Pids of the workers of the HTTP proxy."""
    return {name: pid for name, pid in gate.workers().items() if name.startswith("http-")}


def wait_for_others(gate: Gate, gone: set[int]) -> None:
    wait_until(lambda: not gone & {*workers(gate).values(), 0}, "other workers", 10.0)
    wait_until(gate.ready, "the new workers to be ready", 10.0)


@contextmanager
def no_file_left(pids: list[int]) -> Iterator[None]:
    """The processes can open nothing within."""
    before = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in pids}
    for pid, (_, hard) in before.items():
        used = {int(one.name) for one in Path(f"/proc/{pid}/fd").iterdir()}
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(set(range(len(used) + 1)) - used), hard))
    try:
        yield
    finally:
        for pid, limits in before.items():
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


def test_workers_that_are_told_to_end_finish_what_is_under_way(gate: Gate) -> None:
    before = {*workers(gate).values()}
    argv = gate.lab.frontend.namespace.inside(["bash", "-c", UPLOAD])
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as client:
        time.sleep(0.5)
        for worker in before:
            os.kill(worker, signal.SIGTERM)
        said, _ = client.communicate(timeout=10)
    assert said.startswith("HTTP/1.1 20"), said
    wait_for_others(gate, before)


def test_a_worker_that_is_killed_under_load_costs_what_was_on_it_and_nothing_denied_passes(gate: Gate) -> None:
    frontend = gate.lab.frontend.namespace
    victim = workers(gate)["http-0"]
    wrk = ["wrk", "-t1", f"-c{CONNECTIONS}", "-d2s", "-H", "Host: api.example.com", f"http://{API}:80/public/x"]
    denied: list[int] = []
    with subprocess.Popen(frontend.inside(wrk), stdout=subprocess.PIPE, text=True) as load:
        for number in range(6):
            if number == 2:
                os.kill(victim, signal.SIGKILL)
            denied.append(traffic.http(frontend, SECRET, address=API, timeout=2.0).status)
        said, _ = load.communicate(timeout=20)
    done = re.search(r"(\d+) requests in", said)
    assert done is not None, said
    assert int(done[1]) > 10 * CONNECTIONS, said
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    counted = [int(one) for one in errors.groups()] if errors is not None else [0]
    assert sum(counted) <= CONNECTIONS, said
    assert "Non-2xx" not in said, said
    assert set(denied) <= {403, 0}, denied
    assert denied.count(403) >= 5, denied
    assert not [one for one in gate.lab.web.seen() if "/secret" in one.uri]
    wait_for_others(gate, {victim})


def test_workers_with_no_file_left_keep_what_they_have_follow_reloads_and_recover(gate: Gate, tmp_path: Path) -> None:
    frontend, before = gate.lab.frontend.namespace, workers(gate)
    with Stream.http(frontend, tmp_path / "log", PUBLIC, address=API) as stream:
        stream.wait_count(2)
        with no_file_left([*before.values()]):
            assert traffic.http(frontend, PUBLIC, address=API, timeout=0.5).status in (0, 503)
            assert traffic.http(frontend, SECRET, address=API, timeout=0.5).status in (0, 403)
            for path, outcome in (("/closed/.*", "403"), ("/public/.*", "200")):
                gate.write("public.yaml", POLICY.replace("/public/.*", path))
                gate.must("rules", "reload")
                mark = stream.mark() + 1
                assert {step.outcome for step in stream.wait_count(3, mark=mark)} == {outcome}
        wait_until(lambda: traffic.http(frontend, PUBLIC, address=API, timeout=1.0).status == 200, "new connections")
        assert {step.connection for step in stream.outcomes()} == {1}
    assert workers(gate) == before
    assert not [one for one in gate.lab.web.seen() if "/secret" in one.uri]
