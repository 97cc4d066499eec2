# SPDX-License-Identifier: Apache-2.0
"""Bytes made to be read in two ways, sent through the real proxy to a real server, and what they leave behind."""

import re
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from l7lab import Lab, traffic
from l7lab.gate import Gate
from l7lab.scenario import API_V4

HOST = b"Host: api.example.com\r\n"
HIDDEN = b"GET /admin HTTP/1.1\r\n" + HOST + b"\r\n"
GET = b"GET /public/x HTTP/1.1\r\n" + HOST
POST = b"POST /post/x HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: attacked, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress:
  - toCIDR: [198.51.100.1/32]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules:
        http:
        - {method: GET, path: "/public/.*"}
        - {method: POST, path: "/post/.*"}
        - {method: GET, path: "/reports", headers: ["X-Team: shop"]}
"""

SMUGGLED = {
    "CL.TE": POST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "TE.CL": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n2e\r\n" + HIDDEN + b"\r\n0\r\n\r\n",
    "TE.TE": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + HIDDEN,
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 0\r\n\r\n" + HIDDEN,
    "a list of lengths": POST + b"Content-Length: 0, 46\r\n\r\n" + HIDDEN,
    "a signed length": POST + b"Content-Length: +0\r\n\r\n" + HIDDEN,
    "a length over 64 bits": POST + b"Content-Length: 18446744073709551616\r\n\r\n" + HIDDEN,
    "an underscore": POST + b"Content_Length: 46\r\n\r\n" + HIDDEN,
    "a blank before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a folded line": POST + b"X:\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a bare LF": GET + b"X: a\n\nGET /admin HTTP/1.1\r\n\r\n",
    "a bare CR": GET + b"X: a\rGET /admin HTTP/1.1\r\n\r\n",
    "a NUL": GET + b"X: \0\r\n\r\n" + HIDDEN,
    "a chunk size with LF": CHUNKED + b"0\n\r\n" + HIDDEN,
    "a chunk extension with LF": CHUNKED + b"2;\nxx\r\n4c\r\n0\r\n\r\n" + HIDDEN + b"\r\n0\r\n\r\n",
    "a signed chunk size": CHUNKED + b"+0\r\n\r\n" + HIDDEN,
    "a chunk longer than its size": CHUNKED + b"1\r\nabc\r\n0\r\n\r\n" + HIDDEN,
    "a trailer that frames": CHUNKED + b"0\r\nContent-Length: 46\r\n\r\n" + HIDDEN,
    "HTTP/1.0 with chunks": POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "pipelined": GET + b"\r\n" + HIDDEN,
    "after an expectation": POST + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\na" + HIDDEN,
    "after an upgrade": GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + HIDDEN,
    "after h2c": GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAAA\r\n\r\n" + HIDDEN,
    "after close": GET + b"Connection: close\r\n\r\n" + HIDDEN,
    "two request targets": b"GET /admin HTTP/1.1 /public/x HTTP/1.1\r\n" + HOST + b"\r\n",
    "an absolute target of elsewhere": b"GET http://other.example/public/x HTTP/1.1\r\n" + HOST + b"\r\n",
    "a dot segment": b"GET /public/..%2fadmin HTTP/1.1\r\n" + HOST + b"\r\n",
    "a path parameter": b"GET /public/..;/admin HTTP/1.1\r\n" + HOST + b"\r\n",
    "a backslash": b"GET /public/..\\admin HTTP/1.1\r\n" + HOST + b"\r\n",
    "the wanted header twice": b"GET /reports HTTP/1.1\r\nX-Team: shop\r\nX-Team: admin\r\n" + HOST + b"\r\n",
}

# Sends a request, one byte at a time or whole, and waits for what comes back.
SEND = """\
import socket, sys, time
cut, payload = sys.argv[2], bytes.fromhex(sys.argv[3])
with socket.create_connection((sys.argv[1], 80), 5) as sock:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        for start in range(0, len(payload), 1 if cut == "bytes" else len(payload)):
            sock.sendall(payload[start:start + (1 if cut == "bytes" else len(payload))])
        sock.settimeout(0.3)
        while sock.recv(65536):
            pass
    except OSError:
        pass
"""

# Connections with a broken body, others that begin while those are still open, and the statuses that both get.
SPOIL = """\
import collections, socket, sys, time

def connected():
    sock = socket.create_connection((sys.argv[1], 80), 5)
    sock.settimeout(3)
    return sock

def status(sock):
    try:
        return sock.recv(65536)[9:12].decode() or "closed"
    except OSError as error:
        return type(error).__name__

def send(sock, payload):
    try:
        sock.sendall(bytes.fromhex(payload))
    except OSError:
        pass

seen = collections.Counter()
for _ in range(60):
    broken = [connected() for _ in range(5)]
    for sock in broken:
        send(sock, sys.argv[2])
    seen.update("broken " + status(sock) for sock in broken)
    others = [connected() for _ in range(5)]
    time.sleep(0.01)
    for sock in broken:
        sock.close()
    time.sleep(0.02)
    for sock in others:
        send(sock, sys.argv[3])
    for sock in others:
        seen["other " + status(sock)] += 1
        sock.close()
print(*(f"{count} {what}" for what, count in sorted(seen.items())), sep=", ")
"""

PERMITTED = re.compile(r"GET /public/[!-~]*|POST /post/[!-~]*|GET /reports")


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """The daemon with a policy that lets some requests pass on one address."""
    policies = tmp_path_factory.mktemp("policies")
    (policies / "a.yaml").write_text(POLICY)
    with Lab() as lab:
        gate = Gate(lab, policies, {"http_workers": 1})
        gate.start()
        gate.add_all()
        yield gate


@pytest.mark.parametrize("cut", ["whole", "bytes"])
@pytest.mark.parametrize("name", SMUGGLED)
def test_no_hidden_request_reaches_a_real_server(attacked: Gate, name: str, cut: str) -> None:
    namespace = attacked.lab.frontend.namespace
    before = len(attacked.lab.web.seen())
    done = namespace.run([sys.executable, "-I", "-S", "-c", SEND, API_V4, cut, SMUGGLED[name].hex()])
    assert done.returncode == 0, done.stderr
    time.sleep(0.05)
    for seen in attacked.lab.web.seen()[before:]:
        assert PERMITTED.fullmatch(f"{seen.method} {seen.uri}"), seen


def test_a_broken_body_does_no_harm_to_the_connections_after_it(make_gate: Callable[..., Gate]) -> None:
    """The connection to the server is given up in the moment it is made; its descriptor must be closed only once."""
    gate = make_gate({"a.yaml": POLICY}, {"http_workers": 1})
    namespace = gate.lab.frontend.namespace
    whole = (GET + b"\r\n").hex()
    done = namespace.run(
        [sys.executable, "-I", "-S", "-c", SPOIL, API_V4, (CHUNKED + b"+0\r\n\r\n").hex(), whole],
        timeout=120.0,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "300 broken 400, 300 other 200"
    # One descriptor for two connections: the proxy's own answer went to the server.
    assert {seen.method for seen in gate.lab.web.seen()} <= {"GET", "POST"}


@pytest.mark.parametrize(
    "field",
    [
        pytest.param("Connection: X-Team", id="it is dropped on the way"),
        pytest.param("X_Team: admin", id="another spelling of the same name"),
    ],
)
def test_a_header_that_a_rule_demands_is_the_one_the_server_acts_on(attacked: Gate, field: str) -> None:
    """A server may drop what Connection names, and CGI knows no difference between ``-`` and ``_``."""
    sent = traffic.http(
        attacked.lab.frontend.namespace,
        "http://api.example.com/reports",
        address=API_V4,
        headers=["X-Team: shop", field],
    )
    assert sent.status in (400, 403)
