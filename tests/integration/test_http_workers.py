# SPDX-License-Identifier: Apache-2.0
"""Workers of the HTTP proxy that end while requests are under way."""

import os
import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from l7lab.gate import Gate
from l7lab.process import wait_until

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: open}
spec:
  endpointSelector: {}
  egress:
    - toPorts:
        - ports: [{port: "80", protocol: TCP}]
          rules: {http: [{}]}
"""
UPLOAD = r"""
exec 3<>/dev/tcp/198.51.100.1/80
printf 'PUT /upload/late HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\nContent-Length: 8\r\n\r\nhalf' >&3
sleep 1.5
printf 'rest' >&3
head -1 <&3
"""


@pytest.fixture
def gate(make_gate: Callable[..., Gate]) -> Gate:
    return make_gate({"open.yaml": POLICY}, {"http_workers": 1})


def test_a_worker_that_is_told_to_end_finishes_what_is_under_way(gate: Gate) -> None:
    worker = gate.workers()["http-0"]
    argv = gate.lab.frontend.namespace.inside(["bash", "-c", UPLOAD])
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as client:
        time.sleep(0.5)
        os.kill(worker, signal.SIGTERM)
        said, _ = client.communicate(timeout=10)
    assert said.startswith("HTTP/1.1 20"), said
    wait_until(lambda: gate.workers().get("http-0") not in (worker, 0, None), "another worker", 10.0)
    wait_until(gate.ready, "the new worker to be ready", 10.0)
