# SPDX-License-Identifier: Apache-2.0
"""The programs of a cgroup, on sockets of processes that live in it, in a network namespace with one way out.

A process is a child that runs what a test tells it. Nothing can be given to these programs by BPF_PROG_TEST_RUN: whose
packet it is, they know from where they are attached, and a test run is attached nowhere.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute

from l7agent.evictions import Evictions
from l7bpf import attach, cgroups, routing
from l7bpf.flows import ConntrackKey
from l7bpf.layouts import (
    MARK_TO_CLIENT,
    Endpoint,
    IpcacheEntry,
    ListenerKey,
    PolicyEntry,
    PolicyKey,
)

TCP, UDP, ICMP = 6, 17, 1
ALLOW, DENY, REDIRECT = 0, 1, 2
HTTP, DNS = 1, 2
NODE = {4: "198.51.100.1", 6: "2001:db8:1::1"}
SERVER = {4: "198.51.100.5", 6: "2001:db8:1::5"}
LOCAL = {4: "127.0.0.1", 6: "::1"}
HOST_IDENTITY, SERVER_IDENTITY = 1, 50
OWN, OTHER = 9, 10
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
TRANSPARENT = {4: (socket.SOL_IP, 19), 6: (socket.IPPROTO_IPV6, 75)}

PROCESS = """
import ctypes, json, os, socket, struct, sys, time
os.setns = getattr(os, "setns", None) or (lambda fd, kind: ctypes.CDLL(None).setns(fd, kind))
os.setns(int(sys.argv[1]), 0x40000000)
names = globals()
print("ready", flush=True)
for line in sys.stdin:
    source, wanted = json.loads(line)
    try:
        exec(source, names)
        print(json.dumps([eval(wanted, names) if wanted else None, ""]), flush=True)
    except Exception as error:
        print(json.dumps([None, type(error).__name__]), flush=True)
"""


class Process:
    """A child in a cgroup and a network namespace. What goes wrong in it is raised here as `Failed`."""

    class Failed(Exception):
        """The name of the exception in the child."""

    def __init__(self, folder: Path, namespace: int) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", PROCESS, str(namespace)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[namespace],
        )
        assert self._child.stdout
        assert self._child.stdin
        assert self._child.stdout.readline() == "ready\n"
        (folder / "cgroup.procs").write_text(str(self._child.pid))

    @property
    def pid(self) -> int:
        return self._child.pid

    def __call__(self, source: str, wanted: str = "") -> Any:
        """Runs statements, then gives back an expression."""
        assert self._child.stdout
        assert self._child.stdin
        print(json.dumps([source, wanted]), file=self._child.stdin, flush=True)
        value, failed = json.loads(self._child.stdout.readline())
        if failed:
            raise self.Failed(failed)
        return value

    def connect(self, address: str, port: int, timeout: float = 5, name: str = "s", before: str = "") -> None:
        family = "AF_INET6" if ":" in address else "AF_INET"
        self(f"{name} = socket.socket(socket.{family}); {name}.settimeout({timeout})")
        self(f"{before}\n{name}.connect(({address!r}, {port}))")

    def close(self) -> None:
        assert self._child.stdout
        assert self._child.stdin
        self._child.stdin.close()
        self._child.wait(5)
        self._child.stdout.close()


class Echo:
    """A server that tells each client the address it sees, then sends back what it gets; by UDP at once."""

    def __init__(self, namespace, address: str, port: int) -> None:
        kind = FAMILY[6 if ":" in address else 4]
        self.tcp, self.udp = namespace(lambda: (socket.socket(kind), socket.socket(kind, socket.SOCK_DGRAM)))
        self.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for each in (self.tcp, self.udp):
            each.bind((address, port))
        self.tcp.listen(64)
        self._peers: list[socket.socket] = []
        self._threads = [threading.Thread(target=serve, daemon=True) for serve in (self._accept, self._answer)]
        for thread in self._threads:
            thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, address = self.tcp.accept()
                self._peers.append(peer)
                threading.Thread(target=self._echo, args=(peer, address[0]), daemon=True).start()

    @staticmethod
    def _echo(peer: socket.socket, address: str) -> None:
        with peer, contextlib.suppress(OSError):
            peer.sendall(f"server sees {address}\n".encode())
            while data := peer.recv(4096):
                peer.sendall(data)

    def _answer(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                data, peer = self.udp.recvfrom(4096)
                if not peer:  # shut down
                    return
                self.udp.sendto(b"echo " + data, peer)

    def close(self) -> None:
        self.tcp.shutdown(socket.SHUT_RDWR)
        for peer in self._peers:
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):  # not connected, but its reader wakes up
            self.udp.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        self.tcp.close()
        self.udp.close()


def sysctl(name: str, value: int) -> None:
    Path("/proc/sys/net", name).write_text(str(value))


def set_up(server_fd: int) -> int:
    sysctl("ipv6/conf/default/accept_dad", 0)
    for name in ("all", "default"):
        sysctl(f"ipv4/conf/{name}/rp_filter", 1)
    with IPRoute() as netlink:
        netlink.link("set", index=1, state="up")
        netlink.link("add", ifname="ext", kind="veth", index=100, peer={"ifname": "eth0", "net_ns_fd": server_fd})
        netlink.addr("add", index=100, address=NODE[4], prefixlen=24)
        netlink.addr("add", index=100, address=NODE[6], prefixlen=64)
        netlink.link("set", index=100, state="up")
    return 100


def set_up_server() -> None:
    sysctl("ipv6/conf/default/accept_dad", 0)
    sysctl("ipv6/conf/eth0/accept_dad", 0)
    with IPRoute() as netlink:
        index = netlink.link_lookup(ifname="eth0")[0]
        netlink.link("set", index=1, state="up")
        netlink.link("set", index=index, state="up")
        netlink.addr("add", index=index, address=SERVER[4], prefixlen=24)
        netlink.addr("add", index=index, address=SERVER[6], prefixlen=64)


class Host:
    """A node with one uplink, the datapath's tables, and cgroups of this test's own."""

    def __init__(self, node, server, tables, folder: Path) -> None:
        self.node, self.server, self.folder = node, server, folder
        self.pins, self.maps, self.events = tables.pins, tables.maps, tables.reader
        self.ext = node(set_up, server.fd)
        server(set_up_server)
        self.attacher = attach.Attacher(self.pins)
        self.processes: list[Process] = []
        for family in (4, 6):
            for address in (NODE[family], LOCAL[family]):
                self.maps.ipcache.update(address, IpcacheEntry(HOST_IDENTITY))
            self.maps.ipcache.update(SERVER[family], IpcacheEntry(SERVER_IDENTITY))
        self.maps.ipcache.update("127.0.0.0/8", IpcacheEntry(HOST_IDENTITY))
        self.maps.config.update(1)
        node(self.attacher.attach_uplink, self.ext)
        node(self.attacher.attach_steer)
        self.maps.uplinks.add(self.ext)
        self.saved = node(routing.add)

    def endpoint(self, number: int, flags: int = 1) -> None:
        self.maps.endpoints.update(number, Endpoint(number * 10, 1000 + number, 0, flags))

    def attach(self, number: int) -> cgroups.Cgroup:
        cgroup = self.cgroup(number)
        self.attacher.attach_cgroup(cgroup, number, self.maps.cgroup_endpoints)
        return cgroup

    def cgroup(self, number: int) -> cgroups.Cgroup:
        folder = self.folder / str(number)
        folder.mkdir(exist_ok=True)
        return cgroups.find("/" + str(folder.relative_to(cgroups.root())))

    def process(self, number: int = OWN) -> Process:
        process = Process(self.cgroup(number).folder, self.node.fd)
        self.processes.append(process)
        return process

    def rule(
        self,
        number: int,
        direction: int,
        identity: int,
        protocol: int = 0,
        port: int = 0,
        verdict: int = ALLOW,
        proxy: int = 0,
    ) -> None:
        key = PolicyKey(number * 10, identity, direction, protocol, port, 16 if port else 0)
        self.maps.policy.update(key, PolicyEntry(verdict, proxy, 1))

    def revise(self) -> None:
        self.maps.config.update(self.maps.config.revision + 1)

    def drops(self) -> list[tuple[int, int]]:
        """Endpoint and reason of each."""
        return [(event.endpoint_id, event.reason) for event in self.events.drain()]

    def close(self) -> None:
        for process in self.processes:
            process.close()
        for number in (OWN, OTHER):
            self.attacher.detach_cgroup(number)
            with contextlib.suppress(FileNotFoundError):
                (self.folder / str(number)).rmdir()
        self.folder.rmdir()
        self.node(routing.remove, self.saved)
        for pin in (self.pins / "links").iterdir():
            pin.unlink()
        self.maps.uplinks.discard(self.ext)


@pytest.fixture
def host(new_namespace, live_node) -> Iterator[Host]:
    folder = cgroups.root() / f"l7test-{os.getpid()}"
    folder.mkdir()
    host = Host(new_namespace(), new_namespace(), live_node, folder)
    host.endpoint(OWN)
    host.attach(OWN)
    yield host
    host.close()


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def echo(host, family) -> Iterator[Echo]:
    server = Echo(host.server, SERVER[family], 80)
    yield server
    server.close()


def udp(process: Process, address: str, port: int, how: str = "connected", before: str = "") -> str:
    """What came back, or the name of the exception."""
    family = "AF_INET6" if ":" in address else "AF_INET"
    send = (
        f"u.connect(({address!r}, {port})); u.send(b'x')"
        if how == "connected"
        else f"u.sendto(b'x', ({address!r}, {port}))"
    )
    try:
        return process(
            f"u = socket.socket(socket.{family}, socket.SOCK_DGRAM); u.settimeout(1)\n{before}\n{send}",
            "u.recv(100).decode()",
        )
    except Process.Failed as failed:
        return str(failed)


def test_what_policy_allows_passes_and_the_rest_is_dropped_with_the_endpoints_name(host, echo, family):
    process = host.process()
    with pytest.raises(Process.Failed, match="Timeout"):
        process.connect(SERVER[family], 80, timeout=0.3)
    assert udp(process, SERVER[family], 80) == "PermissionError"
    assert set(host.drops()) == {(OWN, 133)}
    host.rule(OWN, 0, SERVER_IDENTITY, TCP, 80)
    host.rule(OWN, 0, SERVER_IDENTITY, UDP, 80)
    process.connect(SERVER[family], 80)
    assert process("", "s.recv(100).decode()") == f"server sees {NODE[family]}\n"
    for how in ("connected", "unconnected"):
        assert udp(process, SERVER[family], 80, how) == "echo x"
    assert host.drops() == []


@pytest.fixture
def proxy(host, family) -> Iterator[socket.socket]:
    """A listener in the proxy's place."""

    def make() -> socket.socket:
        new = socket.socket(FAMILY[family])
        new.setsockopt(*TRANSPARENT[family], 1)
        new.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK_TO_CLIENT)
        new.bind((LOCAL[family], 0))
        new.listen(16)
        new.settimeout(5)
        return new

    listener = host.node(make)
    host.maps.listeners.update(ListenerKey(HTTP, family, TCP), listener.fileno())
    yield listener
    listener.close()


def test_the_proxy_stands_between_unseen(host, echo, proxy, family):
    host.rule(OWN, 0, SERVER_IDENTITY, TCP, 80, REDIRECT, HTTP)
    process = host.process()
    process.connect(SERVER[family], 80)
    accepted, peer = proxy.accept()
    with accepted:
        assert accepted.getsockname()[:2] == (SERVER[family], 80)
        assert list(peer[:2]) == process("", "s.getsockname()[:2]")
        assert process("", "s.getpeername()[:2]") == [SERVER[family], 80]
        flow = host.maps.host_flows.get(ConntrackKey(peer[0], SERVER[family], peer[1], 80, TCP))
        assert flow is not None
        assert (flow.began.endpoint_id, flow.proxy) == (OWN, HTTP)
        process("s.sendall(b'ping')")
        assert accepted.recv(100) == b"ping"
        accepted.sendall(b"pong" * 50_000)
        assert process("n = 0\nwhile n < 200000: n += len(s.recv(65536))", "n") == 200_000
    assert host.drops() == []


def test_flows_that_a_process_pushes_out_of_a_full_table_are_counted_and_judged_again(host, echo, family):
    table, evictions = host.maps.host_flows, Evictions(host.maps)
    host.rule(OWN, 0, SERVER_IDENTITY, UDP, 80)
    process = host.process()
    assert udp(process, SERVER[family], 80) == "echo x"
    flood = f"""
for _ in range({table.capacity + 500}):
    with socket.socket(u.family, socket.SOCK_DGRAM) as s:
        s.sendto(b"x", ({SERVER[family]!r}, 9))
"""
    host.rule(OWN, 0, SERVER_IDENTITY, UDP, 9)
    process(flood)
    evictions.count("host_flows", len(table))
    assert len(table) <= table.capacity
    assert evictions.evicted["host_flows"] > 400  # some flows have the port of another
    assert process("u.send(b'again')", "u.recv(100).decode()") == "echo again"
