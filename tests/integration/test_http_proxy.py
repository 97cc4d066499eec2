# SPDX-License-Identifier: Apache-2.0
"""The HTTP proxy in real namespaces: curl - node - nginx, with the proxy in the node and neither end aware of it.

Two routing rules deliver the connection's packets to the node itself, so the listener can have the server's address
and the connection to the server the client's: what the datapath does by redirection, without it. Run as a program,
this file is the proxy process.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
import uvloop

from l7observe.demand import Demand
from l7policy.enforcement import EndpointRow, Enforcement
from l7policy.ids import EndpointId, IdentityId, PolicyId, Revision
from l7policy.model import EndpointPolicy, HttpRule, Origin, Port, Rule, Snapshot
from l7policy.verdict import Direction, Protocol
from l7proxy import foreign
from l7proxy.server import HttpServer
from l7proxy.sockets import listener

T = TypeVar("T")

CLIENTS = ("192.0.2.10", "2001:db8:1::10")
SERVERS = ("198.51.100.7", "2001:db8:2::7")
MEGABYTE = 1 << 20

RULES = (HttpRule(method="GET|HEAD", path="/public/.*"), HttpRule(method="PUT", path="/upload/.*"))


# The proxy process


class Tables:
    """The client is the one workload, as the kernel's tables would say."""

    def __init__(self) -> None:
        self.number = 0

    def revision(self) -> int:
        return self.number

    def endpoint(self, address: str) -> EndpointRow | None:
        return EndpointRow(EndpointId(7), PolicyId(1), IdentityId(1000), 1) if address in CLIENTS else None

    def process(self, client: str, client_port: int, destination: str, port: int, protocol: int) -> None:
        return None

    def identity(self, address: str, established: bool) -> int:
        return 2

    def fqdn_labels(self, identity: int) -> None:
        return None


def load(enforcement: Enforcement, tables: Tables, rules: tuple[HttpRule, ...]) -> None:
    rule = Rule(Direction.EGRESS, Origin("shop/web", "egress[0]"), None, (Port(Protocol.TCP, 80, 81),), http=rules)
    policy = EndpointPolicy(rules=(rule,), enforce_egress=True, selected_by=("shop/web",))
    revision = Revision(tables.number + 1)
    identities = {IdentityId(1000): ("k8s:app=web",), IdentityId(2): ("reserved:world",)}
    enforcement.prepare(Snapshot(revision, {PolicyId(1): policy}, identities, {}, ()))
    enforcement.commit(revision)
    tables.number = revision


async def proxy() -> None:
    """Serves until stdin ends. A line on stdin is a new list of rules; flows are lines on stdout."""
    tables = Tables()
    enforcement = Enforcement(tables)
    load(enforcement, tables, RULES)
    encode = msgspec.json.Encoder().encode
    server = HttpServer(enforcement, lambda flow: print(encode(flow).decode(), flush=True), demand=Demand(True))
    families = (socket.AF_INET, socket.AF_INET6)
    await server.start([listener(f, port, a) for f, a in zip(families, SERVERS, strict=True) for port in (80, 81)])
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        load(enforcement, tables, msgspec.json.decode(line, type=tuple[HttpRule, ...]))
        print("loaded", flush=True)
    await server.close(drain=1.0)


# The namespaces


def entering(namespace: str) -> tuple[str, ...]:
    """Runs what follows in the namespace. Not `ip -n`: that mounts a /sys of its own, which a container may forbid."""
    return ("nsenter", f"--net=/run/netns/{namespace}")


def run(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, **options)


class Net:
    """Client, node and server, the proxy between them, and what it reported."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        unique = uuid.uuid4().hex[:6]
        self.client, self.node, self.server = (f"l7p-{kind}-{unique}" for kind in "cns")
        self.flows: list[dict[str, Any]] = []
        self._said: list[str] = []
        self._changed = threading.Condition()

    def build(self) -> None:
        for name in (self.client, self.node, self.server):
            run("ip", "netns", "add", name)
            run(*entering(name), "ip", "link", "set", "lo", "up")
        links = ((self.client, "client0", CLIENTS), (self.server, "server0", SERVERS))
        for name, device, addresses in links:
            run(
                *entering(self.node), "ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", name
            )
            run(*entering(self.node), "ip", "link", "set", device, "up")
            run(*entering(name), "ip", "link", "set", "eth0", "up")
            for address in addresses:
                v6 = ":" in address
                network, length = address.rsplit(":" if v6 else ".", 1)[0] + (":" if v6 else "."), "64" if v6 else "24"
                gateway, options = network + "1", ["nodad"] if v6 else []
                run(*entering(name), "ip", "address", "add", f"{address}/{length}", "dev", "eth0", *options)
                run(*entering(self.node), "ip", "address", "add", f"{gateway}/{length}", "dev", device, *options)
                run(*entering(name), "ip", "route", "add", "default", "via", gateway)
        for setting in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
            run(*entering(self.node), "sysctl", "-qw", f"net.{setting}=1")
        for family in ("-4", "-6"):
            ip = (*entering(self.node), "ip", family)
            run(*ip, "route", "add", "local", "default", "dev", "lo", "table", "2004")
            run(*ip, "rule", "add", "iif", "client0", "ipproto", "6", "dport", "80-81", "lookup", "2004")
            run(*ip, "rule", "add", "iif", "server0", "ipproto", "6", "sport", "80-81", "lookup", "2004")

    def serve(self) -> None:
        root = self.directory / "html"
        (root / "public").mkdir(parents=True)
        (root / "upload").mkdir()
        (root / "public" / "hello").write_text("hello\n")
        (root / "secret").write_text("secret\n")
        with (root / "public" / "large").open("wb") as large:
            large.truncate(200 * MEGABYTE)
        paths = {
            f"{kind}_temp_path": self.directory / kind for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        }
        config = self.directory / "nginx.conf"
        config.write_text(
            f"user root; worker_processes 1; daemon off;\n"
            f"pid {self.directory}/pid; error_log {self.directory}/error.log;\n"
            "events { worker_connections 256; }\n"
            "http {\n"
            + "".join(f"  {name} {path};\n" for name, path in paths.items())
            + '  log_format seen "$remote_addr $remote_port $request";\n'
            f"  access_log {self.directory}/access.log seen;\n"
            "  client_max_body_size 0;\n"
            "  server { listen 80; listen [::]:80; root " + str(root) + ";\n"
            "    location /upload/ { dav_methods PUT; } } }\n"
        )
        self._nginx = self._spawn(self.server, "nginx", "-p", str(self.directory), "-c", str(config))
        self._proxy = self._spawn(self.node, sys.executable, __file__)
        threading.Thread(target=self._listen, daemon=True).start()
        self.wait(lambda: "ready" in self._said)
        self.wait((self.directory / "access.log").exists)

    def _spawn(self, namespace: str, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            (*entering(namespace), *command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def _listen(self) -> None:
        assert self._proxy.stdout is not None
        for line in self._proxy.stdout:
            with self._changed:
                if line.startswith("{"):
                    self.flows.append(json.loads(line))
                else:
                    self._said.append(line.strip())
                self._changed.notify_all()

    def wait(self, condition: Callable[[], bool]) -> None:
        """Until the condition holds, or this is a failure."""
        deadline = time.monotonic() + 20
        with self._changed:
            while not condition():
                assert time.monotonic() < deadline, "waited in vain"
                self._changed.wait(0.1)

    def load(self, rules: tuple[HttpRule, ...]) -> None:
        assert self._proxy.stdin is not None
        before = len(self._said)
        self._proxy.stdin.write(msgspec.json.encode(rules).decode() + "\n")
        self._proxy.stdin.flush()
        self.wait(lambda: len(self._said) > before)

    def curl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """curl in the client's namespace, its failure a value."""
        return subprocess.run(
            (*entering(self.client), "curl", "-sg", "-m", "60", *arguments),
            capture_output=True, text=True, check=False, timeout=90,
        )  # fmt: skip

    def connect(self, port: int = 80) -> socket.socket:
        """A connection of the client to the server's address."""

        def opened() -> socket.socket:
            return socket.create_connection((SERVERS[0], port), timeout=10)

        return within(self.client, opened)

    def seen(self) -> list[str]:
        """What nginx answered: client's address and port, and the request line."""
        return (self.directory / "access.log").read_text().splitlines()

    def memory(self) -> int:
        """Most bytes the proxy ever had in memory."""
        status = Path(f"/proc/{self._proxy.pid}/status").read_text()
        found = re.search(r"VmHWM:\s*(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def remove(self) -> None:
        for process in (getattr(self, "_proxy", None), getattr(self, "_nginx", None)):
            if process is not None:
                process.send_signal(signal.SIGTERM)
                process.wait(10)
                process.stdin.close()
                process.stdout.close()
        for name in (self.client, self.node, self.server):
            with contextlib.suppress(subprocess.CalledProcessError):
                run("ip", "netns", "delete", name)


def within(namespace: str, function: Callable[[], T]) -> T:
    """Calls the function on a thread that is in the namespace; a socket it makes stays there."""
    result: list[T] = []

    def enter() -> None:
        with Path(f"/run/netns/{namespace}").open("rb") as file:
            assert ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0) == 0, os.strerror(ctypes.get_errno())
        result.append(function())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    return result[0]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    assert shutil.which("nginx") is not None
    net = Net(tmp_path_factory.mktemp("http"))
    try:
        net.build()
        net.serve()
        yield net
    finally:
        net.remove()


@pytest.mark.parametrize(("client", "server"), list(zip(CLIENTS, SERVERS, strict=True)), ids=["ipv4", "ipv6"])
def test_an_allowed_request_reaches_the_server_from_the_clients_own_address(net: Net, client: str, server: str) -> None:
    host = f"[{server}]" if ":" in server else server
    answer = net.curl(
        "-w", "%{http_code} %{local_ip} %{local_port} %{remote_ip}", f"http://{host}/public/hello?v={client}"
    )
    status, address, port, remote = answer.stdout.removeprefix("hello\n").split()
    assert (status, address, remote) == ("200", client, server)
    assert f"{client} {port} GET /public/hello?v={client} HTTP/1.1" in net.seen()


def test_a_denied_request_is_answered_recorded_and_never_seen_by_the_server(net: Net) -> None:
    answer = net.curl("-i", f"http://{SERVERS[0]}/secret?denied=1")
    assert answer.stdout.startswith("HTTP/1.1 403 Forbidden")
    assert answer.stdout.endswith("\n\nAccess denied\n")
    assert not any("denied=1" in line for line in net.seen())
    net.wait(lambda: any(flow.get("http", {}).get("path") == "/secret?denied=1" for flow in net.flows))
    flow = next(flow for flow in net.flows if flow["http"]["path"] == "/secret?denied=1")
    assert (flow["verdict"], flow["reason"], flow["http"]["status"]) == (2, 210, 403)
    assert (flow["source"]["address"], flow["destination"]["address"]) == (CLIENTS[0], SERVERS[0])
    assert (flow["destination"]["port"], flow["rule"], flow["policies"]) == (80, "shop/web egress[0]", ["shop/web"])


@pytest.mark.parametrize(
    "options", [["-I"], ["--http1.0"], ["--http2"], ["-H", "Connection: close"], ["-H", "X: J\xf6rg"]]
)
def test_clients_of_every_kind_are_served(net: Net, options: list[str]) -> None:
    answer = net.curl(
        *options, "-o", os.devnull, "-w", "%{http_code} %{size_download}", f"http://{SERVERS[0]}/public/hello"
    )
    assert answer.stdout == ("200 0" if "-I" in options else "200 6")


@pytest.mark.parametrize(
    ("command", "path", "told"),
    [
        ("ab -q -k -n 400 -c 8", "/public/hello", (r"Complete requests: +400", r"Failed requests: +0\n")),
        ("ab -q -n 100 -c 8", "/public/hello", (r"Complete requests: +100", r"Failed requests: +0\n")),
        ("ab -q -k -n 100 -c 8", "/secret", (r"Non-2xx responses: +100\n",)),
        ("h2load --h1 -n 400 -c 8 -m 4", "/public/hello", (r"400 succeeded, 0 failed", r"status codes: 400 2xx")),
        ("h2load --h1 -n 100 -c 8", "/secret", (r"status codes: 0 2xx, 0 3xx, 100 4xx",)),
        ("wrk -t1 -c8 -d1s", "/public/hello", (r"\d{2,} requests in",)),
    ],
    ids=["ab", "ab without keep-alive", "ab, denied", "h2load", "h2load, denied", "wrk"],
)
def test_load_generators_find_no_fault(net: Net, command: str, path: str, told: tuple[str, ...]) -> None:
    before = sum("/secret" in line for line in net.seen())
    # With its port: a bare system has no /etc/services, where wrk looks http up.
    said = run(*entering(net.client), *command.split(), f"http://{SERVERS[0]}:80{path}").stdout
    for pattern in told:
        assert re.search(pattern, said), said
    assert "Socket errors" not in said, said
    assert sum("/secret" in line for line in net.seen()) == before


def test_pipelined_requests_are_answered_in_order(net: Net) -> None:
    with net.connect() as sock:
        line = "GET {} HTTP/1.1\r\nHost: a.example.com\r\n\r\n"
        sock.sendall("".join(line.format(p) for p in ("/public/hello", "/secret", "/public/none")).encode())
        sock.shutdown(socket.SHUT_WR)
        answers = sock.makefile("rb").read()
    assert re.findall(rb"HTTP/1\.1 (\d+)", answers) == [b"200", b"403", b"404"]


def test_a_reload_reaches_a_kept_alive_connection(net: Net) -> None:
    request = b"GET /public/hello HTTP/1.1\r\nHost: a.example.com\r\n\r\n"
    with net.connect() as sock:
        sock.sendall(request)
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")
        net.load((HttpRule(path="/other"),))
        try:
            sock.sendall(request)
            assert sock.recv(65536).startswith(b"HTTP/1.1 403")
        finally:
            net.load(RULES)
        sock.sendall(request)
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")


def test_tls_on_an_http_port_is_refused_and_audited(net: Net) -> None:
    before = len(net.seen())
    assert net.curl("-k", f"https://{SERVERS[0]}:80/").returncode == 35
    net.wait(lambda: any(flow.get("detail") == foreign.TLS for flow in net.flows))
    assert len(net.seen()) == before


def test_a_server_that_refuses_is_a_503(net: Net) -> None:
    answer = net.curl("-i", f"http://{SERVERS[0]}:81/public/hello")
    assert answer.stdout.startswith("HTTP/1.1 503 Service Unavailable")
    net.wait(lambda: any(flow.get("detail") == "connection refused" for flow in net.flows))


def test_a_chunked_upload_with_expect_arrives_whole(net: Net, tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.write_bytes(os.urandom(MEGABYTE) * 5)
    url = f"http://{SERVERS[0]}/upload/chunked"
    answer = net.curl(
        "-T", str(source), "-H", "Transfer-Encoding: chunked", "-H", "Expect: 100-continue", "-w", "%{http_code}", url
    )
    assert answer.stdout.endswith("201")
    assert (net.directory / "html" / "upload" / "chunked").read_bytes() == source.read_bytes()


def test_the_memory_does_not_grow_with_the_bodies(net: Net, tmp_path: Path) -> None:
    net.curl(f"http://{SERVERS[0]}/public/hello")
    before = net.memory()
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(200 * MEGABYTE)
    status = ("-o", os.devnull, "-w", "%{http_code} %{size_download} %{size_upload}")
    down = net.curl(*status, f"http://{SERVERS[0]}/public/large")
    assert down.stdout == f"200 {200 * MEGABYTE} 0"
    up = net.curl(*status, "-T", str(large), f"http://{SERVERS[0]}/upload/large")
    assert up.stdout.endswith(f" {200 * MEGABYTE}")
    assert (net.directory / "html" / "upload" / "large").stat().st_size == 200 * MEGABYTE
    slow = net.curl("--limit-rate", "20M", "-m", "2", *status, f"http://{SERVERS[0]}/public/large")
    assert slow.returncode == 28
    assert net.memory() - before < 16 * MEGABYTE


if __name__ == "__main__":
    uvloop.run(proxy())
