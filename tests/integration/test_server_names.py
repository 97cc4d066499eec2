# SPDX-License-Identifier: Apache-2.0
"""TLS by server name, end to end: curl, openssl and Python's ssl as clients, nginx as the server, nothing opened."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from l7lab import traffic
from l7lab.gate import Gate, Json
from l7lab.process import wait_until
from l7lab.topology import Workload

API, API_V6 = "198.51.100.1", "2001:db8:100::1"
RESET = ("Connection reset by peer", "SSL_ERROR_SYSCALL", "Recv failure")
POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: frontend-egress, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress:
    - toCIDR: [198.51.100.0/24, "2001:db8:100::/64"]
      toPorts:
        - ports: [{port: "443", protocol: TCP}]
          serverNames: [api.example.com, "*.cdn.example.com"]
        - ports: [{port: "8080", protocol: TCP}]
          rules: {http: [{}]}
    - toEndpoints: [{matchLabels: {app: backend}}]
      toPorts: [{ports: [{port: "8443", protocol: TCP}]}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: backend-ingress, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress:
    - fromEndpoints: [{matchLabels: {app: frontend}}]
      toPorts:
        - ports: [{port: "8443", protocol: TCP}]
          serverNames: [orders.example.com]
"""


@pytest.fixture(scope="module")
def tls(module_gate: Callable[[dict[str, str]], Gate]) -> Gate:
    return module_gate({"tls.yaml": POLICY})


def get(workload: Workload, url: str, address: str, **options: Any) -> traffic.HttpResult:
    return traffic.http(workload.namespace, url, address=address, timeout=5.0, **options)


def was_reset(result: traffic.HttpResult) -> bool:
    return result.status == 0 and any(text in result.error for text in RESET)


def record_of(gate: Gate, reason: str, sni: str | None = None) -> Json:
    """The audit record of a refused connection."""

    def fits(one: Json) -> bool:
        right = one["reason"] == reason and one["layer"] == "tls"
        return right and (sni is None or one["tls"]["sni"] == sni)

    return gate.wait_audit(fits, f"{reason} {sni}")


@contextmanager
def python_client(gate: Gate, script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Python's ssl in the frontend: a conversation by lines."""
    argv = gate.lab.frontend.namespace.inside([sys.executable, "-I", "-c", script, *arguments])
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("address", [API, API_V6], ids=["IPv4", "IPv6"])
def test_an_allowed_name_reaches_the_server_and_proves_its_certificate(tls: Gate, address: str) -> None:
    result = get(tls.lab.frontend, "https://api.example.com/items", address, certificate=tls.lab.web.certificate)
    assert (result.status, result.error) == (200, "")
    seen = [one for one in tls.lab.web.seen() if one.server_name == "api.example.com"][-1]
    assert seen.remote in (tls.lab.frontend.v4, tls.lab.frontend.v6)


@pytest.mark.parametrize("address", [API, API_V6], ids=["IPv4", "IPv6"])
def test_another_name_at_the_same_address_is_reset_and_never_gets_there(tls: Gate, address: str) -> None:
    assert was_reset(get(tls.lab.frontend, "https://tracker.example.net/", address))
    record = record_of(tls, "SNI_DENIED", "tracker.example.net")
    assert record["endpoint"]["name"] == "frontend"
    assert record["rule"] == "shop/frontend-egress egress[0].toPorts[0]"
    assert record["tls"]["version"] == "TLS 1.3"
    assert not [one for one in tls.lab.web.seen() if one.server_name == "tracker.example.net"]


def test_a_pattern_is_one_label(tls: Gate) -> None:
    assert get(tls.lab.frontend, "https://img.cdn.example.com/", API).status == 200
    assert was_reset(get(tls.lab.frontend, "https://a.img.cdn.example.com/", API))


def test_a_client_without_a_name_is_reset(tls: Gate) -> None:
    assert was_reset(get(tls.lab.frontend, f"https://{API}/", API))
    record = tls.wait_audit(lambda one: one["detail"] == "no server name", "the nameless")
    assert (record["reason"], record["tls"]["sni"]) == ("SNI_DENIED", "")


def test_what_is_not_tls_is_reset(tls: Gate) -> None:
    result = traffic.tcp(tls.lab.frontend.namespace, API, 443, b"GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
    assert (result.received, result.error) == (b"", "reset")
    assert record_of(tls, "TLS_MALFORMED")["detail"] == "not TLS: text, perhaps HTTP"


def test_tls_where_http_must_be_is_refused_and_says_what_would_help(tls: Gate) -> None:
    assert get(tls.lab.frontend, "https://api.example.com:8080/", API).status == 0
    record = tls.wait_audit(lambda one: one["detail"].startswith("TLS ClientHello"), "TLS on the HTTP port")
    assert (record["reason"], "serverNames" in record["detail"]) == ("HTTP_MALFORMED", True)


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_ingress_is_judged_by_the_name_too(tls: Gate, family: str) -> None:
    backend = tls.lab.backend
    address = getattr(backend, family)
    assert get(tls.lab.frontend, "https://orders.example.com:8443/", address).status == 200
    assert was_reset(get(tls.lab.frontend, "https://admin.example.com:8443/", address))
    assert record_of(tls, "SNI_DENIED", "admin.example.com")["endpoint"]["name"] == "backend"


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_connects_and_resumes_in_either_version(tls: Gate, version: str) -> None:
    argv = ["openssl", "s_client", "-connect", f"{API}:443", "-servername", "api.example.com", version, "-brief"]
    done = tls.lab.frontend.namespace.run([*argv, "-reconnect"], stdin="Q\n")
    assert "CONNECTION ESTABLISHED" in done.stderr, done.stderr


# A hello made by Python's ssl, sent a byte in each segment.
BYTE_BY_BYTE = """
import socket, ssl, sys, time
context, into, out = ssl.create_default_context(), ssl.MemoryBIO(), ssl.MemoryBIO()
try:
    context.wrap_bio(into, out, server_hostname=sys.argv[2]).do_handshake()
except ssl.SSLWantReadError:
    hello = out.read()
with socket.create_connection((sys.argv[1], 443), timeout=5) as sock:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        for byte in hello:
            sock.send(bytes([byte]))
            time.sleep(0.0005)
        print("answered" if sock.recv(1) == b"\\x16" else "closed", flush=True)
    except ConnectionError:
        print("reset", flush=True)
"""


@pytest.mark.parametrize(("name", "outcome"), [("api.example.com", "answered"), ("tracker.example.net", "reset")])
def test_a_hello_in_a_segment_for_each_byte_is_one_hello(tls: Gate, name: str, outcome: str) -> None:
    with python_client(tls, BYTE_BY_BYTE, API, name) as client:
        assert client.communicate(timeout=10)[0] == f"{outcome}\n"


# Chrome's hello: reserved values everywhere, a dummy of Encrypted Client Hello, a key share that takes two segments.
CHROME = """
import sys
from curl_cffi import CurlOpt, requests
from curl_cffi.requests.exceptions import RequestException
address, name = sys.argv[1:]
try:
    answer = requests.get(  # it also asks for records of type HTTPS, which nobody has to answer here
        f"https://{name}/", impersonate="chrome", verify=False, timeout=5,
        curl_options={CurlOpt.RESOLVE: [f"{name}:443:{address}"], CurlOpt.DNS_SERVERS: b"127.0.0.1"},
    )
    print(answer.status_code, flush=True)
except RequestException as error:
    print(error, flush=True)
"""


@pytest.mark.parametrize("address", [API, API_V6], ids=["IPv4", "IPv6"])
def test_a_browsers_hello_is_judged_by_its_name_and_said_to_offer_an_encrypted_one(tls: Gate, address: str) -> None:
    with python_client(tls, CHROME, address, "api.example.com") as client:
        assert client.communicate(timeout=10)[0] == "200\n"
    name = f"browser{address.count(':')}.example.net"
    with python_client(tls, CHROME, address, name) as client:
        assert any(text in client.communicate(timeout=10)[0] for text in RESET)
    seen = record_of(tls, "SNI_DENIED", name)["tls"]
    assert (seen["version"], seen["ech"], "h2" in seen["alpn"]) == ("TLS 1.3", True, True)


def test_under_audit_another_name_and_none_at_all_pass_and_are_recorded(tls: Gate) -> None:
    frontend, mark = tls.lab.frontend, len(tls.audit())
    tls.must("endpoint", "config", "frontend", "PolicyAuditMode=Enabled")
    try:
        assert get(frontend, "https://audited.example.net/", API).status == 200
        record = tls.wait_audit(lambda one: one["verdict"] == "AUDIT", "the audited name", mark=mark)
        assert (record["layer"], record["reason"], record["tls"]["sni"]) == ("tls", "SNI_DENIED", "audited.example.net")
        assert record["rule"] == "shop/frontend-egress egress[0].toPorts[0]"
        assert traffic.tcp(frontend.namespace, API, 443, b"GET / HTTP/1.1\r\n\r\n").received.startswith(b"HTTP/1.1 400")
        tls.wait_audit(lambda one: (one["verdict"], one["reason"]) == ("AUDIT", "TLS_MALFORMED"), "no TLS", mark=mark)
    finally:
        tls.must("endpoint", "config", "frontend", "PolicyAuditMode=Disabled")
    assert was_reset(get(frontend, "https://audited.example.net/", API))


def test_a_second_hello_after_a_retry_request_passes(tls: Gate) -> None:
    """The client offers a key share of a curve that the server is not set to: it must ask again."""
    argv = ["openssl", "s_client", "-connect", f"{API}:443", "-servername", "api.example.com", "-tls1_3"]
    done = tls.lab.frontend.namespace.run([*argv, "-groups", "X448:P-256", "-msg"], stdin="Q\n")
    assert done.stdout.count(", ClientHello") == 2, done.stdout[-2000:]
    assert "Verification" in done.stdout


def test_large_bodies_pass_both_ways(tls: Gate, tmp_path: Path) -> None:
    big = get(tls.lab.frontend, "https://api.example.com/big", API)
    assert (big.status, big.size) == (200, 8 << 20)
    upload = tmp_path / "upload"
    upload.write_bytes(bytes(range(256)) * 40_000)
    sent = get(tls.lab.frontend, "https://api.example.com/upload/tls", API, method="PUT", upload=upload)
    assert sent.status in (201, 204)
    assert tls.lab.web.uploaded("tls") == upload.read_bytes()


HELD = """\
import socket, ssl, sys
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
plain = socket.create_connection((sys.argv[1], 443), 5)
sock = context.wrap_socket(plain, server_hostname=sys.argv[2])
for line in sys.stdin:
    try:
        sock.sendall(b"GET /held HTTP/1.1\\r\\nHost: held\\r\\n\\r\\n")
        print(sock.recv(65536).split()[1].decode() if sock.recv else "", flush=True)
    except (OSError, IndexError) as error:
        print(type(error).__name__, flush=True)
"""


def test_a_reload_reaches_a_connection_that_is_open(tls: Gate) -> None:
    with python_client(tls, HELD, API, "api.example.com") as client:

        def ask() -> str:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write("go\n")
            client.stdin.flush()
            return client.stdout.readline().strip()

        assert ask() == "200"
        tls.write("tls.yaml", POLICY.replace("8443", "8444"))  # another revision, the same names
        tls.must("rules", "reload")
        assert ask() == "200"
        tls.write("tls.yaml", POLICY.replace("api.example.com", "other.example.com"))
        tls.must("rules", "reload")
        try:
            record = tls.wait_audit(
                lambda one: one["layer"] == "tls" and one["reason"] == "POLICY_CHANGED", "the broken-off connection"
            )
            assert record["tls"]["sni"] == "api.example.com"
            assert ask() in ("ConnectionResetError", "IndexError", "SSLEOFError", "BrokenPipeError")
        finally:
            tls.restore()
            tls.must("rules", "reload")
    wait_until(lambda: get(tls.lab.frontend, "https://api.example.com/", API).status == 200, "the old rules")


def test_status_and_json_name_the_reason(tls: Gate) -> None:
    get(tls.lab.frontend, "https://tracker.example.net/", API)
    record_of(tls, "SNI_DENIED", "tracker.example.net")
    listed = json.loads(tls.must("audit", "tail", "--reason", "SNI_DENIED", "-o", "json").out.splitlines()[0])
    found = listed if isinstance(listed, dict) else listed[0]
    assert found["reason_text"] == "No rule allows the TLS server name"
