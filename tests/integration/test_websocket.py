# SPDX-License-Identifier: Apache-2.0
"""A real WebSocket client and server: the handshake is judged, what follows is carried, and a reload ends it."""

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from l7lab.gate import Gate
from l7lab.topology import IN_CIDR

PORT = 9000
POLICY = f"""\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: chat, namespace: shop}}
spec:
  endpointSelector: {{matchLabels: {{app: frontend}}}}
  egress:
    - toCIDR: [{IN_CIDR}/32]
      toPorts:
        - ports: [{{port: "{PORT}", protocol: TCP}}]
          rules: {{http: [{{method: GET, path: "/chat(\\\\?.*)?"}}]}}
"""
SERVER = """
import asyncio, sys, websockets
async def echo(connection):
    async for message in connection:
        await connection.send(message)
async def main():
    async with websockets.serve(echo, "0.0.0.0", int(sys.argv[1]), max_size=None):
        print("ready", flush=True)
        await asyncio.Future()
asyncio.run(main())
"""
# Says what came of it: the messages as they came back, then how it ended.
CLIENT = """
import asyncio, sys, websockets
async def main(url, wait):
    async with websockets.connect(url, max_size=None, open_timeout=5, proxy=None) as connection:
        for message in ("hello", b"\\0\\1" * 100, "x" * 3_000_000):
            await connection.send(message)
            assert await asyncio.wait_for(connection.recv(), 10) == message
        await asyncio.wait_for(await connection.ping(), 5)
        print("echoed", flush=True)
        if wait:
            try:
                await asyncio.wait_for(connection.recv(), 10)
            except websockets.ConnectionClosed as ended:
                print("ended", ended.rcvd, flush=True)
                return
    print("closed", connection.close_code, flush=True)
try:
    asyncio.run(main(sys.argv[1], len(sys.argv) > 2))
except websockets.InvalidStatus as refused:
    print("refused", refused.response.status_code)
"""


@pytest.fixture(scope="module")
def gate(module_gate: Callable[..., Gate]) -> Iterator[Gate]:
    gate = module_gate({"chat.yaml": POLICY})
    server = gate.lab.start(gate.lab.outside, [sys.executable, "-c", SERVER, str(PORT)], "chat")
    server.wait(lambda: "ready" in server.log.read_text(), "ready", 10.0)
    return gate


def url(path: str) -> str:
    return f"ws://{IN_CIDR}:{PORT}{path}"


def talk(gate: Gate, path: str) -> str:
    return gate.lab.frontend.namespace.run([sys.executable, "-c", CLIENT, url(path)]).stdout


def test_messages_of_every_kind_and_size_come_back_and_it_ends_in_order(gate: Gate) -> None:
    assert talk(gate, "/chat?room=1") == "echoed\nclosed 1000\n"


def test_a_handshake_that_no_rule_allows_is_refused_and_recorded(gate: Gate) -> None:
    mark = len(gate.audit())
    assert talk(gate, "/admin") == "refused 403\n"
    record = gate.wait_audit(lambda one: one["reason"] == "HTTP_DENIED", "the handshake", mark=mark)
    assert record["http"]["path"] == "/admin"


def test_one_that_is_open_ends_with_the_rule_that_allowed_it(gate: Gate) -> None:
    argv = gate.lab.frontend.namespace.inside([sys.executable, "-c", CLIENT, url("/chat"), "wait"])
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "echoed\n"
        gate.edit("chat.yaml", "/chat", "/other")
        gate.must("rules", "reload")
        assert client.stdout.readline() == "ended None\n"
    gate.restore()
    gate.must("rules", "reload")
