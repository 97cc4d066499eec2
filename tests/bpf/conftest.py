# SPDX-License-Identifier: Apache-2.0
"""Datapaths of the session, on a bpffs and in network namespaces that nobody else sees, and packets made by hand.

A namespace belongs to a thread: it vanishes with it, whatever happens. `node.run` gives a packet to a program with
BPF_PROG_TEST_RUN, so that nothing needs to be attached. Tests that do attach programs use `live_node`: interfaces and
links are still there for a moment after their test, and what passes them then would be in the tables of the next.
"""

import ctypes
import os
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pyroute2 import IPRoute

from l7bpf import bpffs, events, libbpf, loader
from l7bpf.layouts import (
    AUDIT,
    LAYOUT,
    MARK_JUDGED,
    MARK_MASK,
    U32,
    Config,
    Endpoint,
    Event,
    IpcacheEntry,
    PolicyEntry,
    PolicyKey,
)
from l7bpf.maps import Maps
from l7bpf.programs import PROGRAMS

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
CONTEXT_BYTES = 192
PASS = 0xFFFFFFFF
DROP = 2
AUDIT_VERDICT = 4
ETHERTYPES = {4: 0x0800, 6: 0x86DD}


class Namespace:
    """A network namespace that lives as long as its one thread."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, initializer=self._unshare)
        self.fd = self(lambda: os.open("/proc/thread-self/ns/net", os.O_RDONLY))

    @staticmethod
    def _unshare() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) < 0:
            raise OSError(ctypes.get_errno(), "unshare")

    def __call__(self, work: Callable[..., T], *arguments: Any, **named: Any) -> T:
        return self._thread.submit(work, *arguments, **named).result()

    def close(self) -> None:
        os.close(self.fd)
        self._thread.shutdown()


@dataclass(frozen=True)
class Result:
    """What a program did with a packet."""

    passed: bool
    mark: int
    """Without MARK_JUDGED."""
    handed_over: bool
    """Whether it has that mark: its receiver's program need not judge it."""
    events: tuple[Event, ...]
    nanoseconds: int

    @property
    def reason(self) -> int:
        """Of the one event, or 0."""
        assert len(self.events) == (0 if self.passed else 1)
        return self.events[0].reason if self.events else 0

    @property
    def audited(self) -> int:
        """Why it would have been dropped, by the one event of a packet that passed."""
        assert self.passed
        assert [event.verdict for event in self.events] == [AUDIT_VERDICT]
        return self.events[0].reason


class Packets:
    """Frames as they cross an interface. Checksums are left out: no program looks at them."""

    SYN, ACK, SYN_ACK, FIN, RST = 0x02, 0x10, 0x12, 0x11, 0x04

    @staticmethod
    def frame(ethertype: int, payload: bytes) -> bytes:
        return bytes.fromhex("020000000002020000000001") + struct.pack(">H", ethertype) + payload

    @staticmethod
    def packet(source: str, destination: str, protocol: int, payload: bytes, *, fragment: int = 0) -> bytes:
        """IP header and payload. `fragment` is the raw flags-and-offset field of IPv4."""
        if ":" in source:
            head = struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64)
            family = socket.AF_INET6
            return head + socket.inet_pton(family, source) + socket.inet_pton(family, destination) + payload
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, fragment, 64, protocol, 0)
        return head + socket.inet_aton(source) + socket.inet_aton(destination) + payload

    def ip(self, source: str, destination: str, protocol: int, payload: bytes, *, fragment: int = 0) -> bytes:
        ethertype = ETHERTYPES[6 if ":" in source else 4]
        return self.frame(ethertype, self.packet(source, destination, protocol, payload, fragment=fragment))

    @staticmethod
    def tcp_header(sport: int, dport: int, flags: int) -> bytes:
        return struct.pack(">HHIIBBHHH", sport, dport, 1, 0, 5 << 4, flags, 65535, 0, 0)

    def tcp(self, source: str, destination: str, sport: int, dport: int, flags: int = SYN) -> bytes:
        return self.ip(source, destination, 6, self.tcp_header(sport, dport, flags))

    def udp(self, source: str, destination: str, sport: int, dport: int, data: bytes = b"data") -> bytes:
        return self.ip(source, destination, 17, struct.pack(">HHHH", sport, dport, 8 + len(data), 0) + data)

    @staticmethod
    def with_options(frame: bytes, options: bytes) -> bytes:
        """The same IPv4 packet with options, which are filled up to whole words."""
        options += bytes(-len(options) % 4)
        head = struct.pack(">BBH", 0x45 + len(options) // 4, 0, len(frame) - 14 + len(options))
        return frame[:14] + head + frame[18:34] + options + frame[34:]

    def icmp(self, source: str, destination: str, kind: int, id_: int = 0, data: bytes = b"data") -> bytes:
        protocol = 58 if ":" in source else 1
        return self.ip(source, destination, protocol, struct.pack(">BBHHH", kind, 0, 0, id_, 1) + data)

    def arp(self) -> bytes:
        return self.frame(0x0806, bytes(28))


class Node:
    """The datapath under test, with the tables of a small node.

    web (endpoint 7, policy 70) and db (endpoint 8, policy 80) are workloads, `server` a peer with an identity, `node`
    the node itself, `stranger` a host of the world.
    """

    WEB, DB = 7, 8
    WEB_IDENTITY, DB_IDENTITY, SERVER_IDENTITY, NODE_IDENTITY, WORLD = 1007, 1008, 50, 1, 2
    web, db, server, node, stranger = "192.0.2.10", "192.0.2.11", "198.51.100.5", "192.0.2.1", "203.0.113.9"
    web6, db6, server6, node6, stranger6 = (
        "2001:db8::10",
        "2001:db8::11",
        "2001:db8:1::5",
        "2001:db8::1",
        "2001:db8:ffff::9",
    )

    def __init__(self, namespace: Namespace, pins: Path) -> None:
        self.namespace = namespace
        self.pins = pins
        self.maps = Maps.open(pins)
        self.reader = events.EventReader(pins)
        self.programs = {name: libbpf.obj_get(pins / "programs" / name) for name in PROGRAMS}
        self.web_ifindex, self.db_ifindex = namespace(_make_veth)

    def close(self) -> None:
        self.maps.close()
        self.reader.close()
        for fd in self.programs.values():
            os.close(fd)

    def clear(self) -> None:
        """Nothing is known: no endpoint, identity, policy or flow; revision 1."""
        maps = self.maps
        for table in (
            maps.endpoints,
            maps.endpoint_by_ifindex,
            maps.endpoint_by_address,
            maps.ipcache,
            maps.policy,
            maps.conntrack,
            maps.host_flows,
            maps.fragments,
            maps.listeners,
            maps.fqdn_identities,
        ):
            for key, _ in list(table.items()):
                table.delete(key)  # type: ignore[arg-type]
        maps.config.update(1)
        maps.config.observe(0, 0)
        self.allow_events()
        self.reader.drain(1 << 20)

    def allow_events(self) -> None:
        """Nothing counts against the events' rate so far."""
        fd = libbpf.obj_get(self.pins / "maps/event_budget")
        for row in (0, 1):
            libbpf.update(fd, U32(row).pack(), bytes(8 * libbpf.possible_cpus()))
        os.close(fd)

    def reset(self) -> None:
        """The tables of the docstring, nothing enforced, revision 1, no flow."""
        self.clear()
        maps = self.maps
        self.enforce(web="", db="")
        for ifindex, endpoint, addresses in (
            (self.web_ifindex, self.WEB, (self.web, self.web6)),
            (self.db_ifindex, self.DB, (self.db, self.db6)),
        ):
            maps.endpoint_by_ifindex.update(ifindex, endpoint)
            for address in addresses:
                maps.endpoint_by_address.update(address, endpoint)
        for identity, addresses in (
            (self.WEB_IDENTITY, (self.web, self.web6)),
            (self.DB_IDENTITY, (self.db, self.db6)),
            (self.SERVER_IDENTITY, (self.server, self.server6)),
            (self.NODE_IDENTITY, (self.node, self.node6)),
        ):
            for address in addresses:
                maps.ipcache.update(address, IpcacheEntry(identity))

    def enforce(self, web: str | None = None, db: str | None = None) -> None:
        """``"egress"``, ``"ingress"``, ``"both"`` or ``""``; of an audited endpoint with `` audit`` behind it."""
        flags = {"": 0, "egress": 1, "ingress": 2, "both": 3}
        for endpoint, policy, identity, ifindex, wanted in (
            (7, 70, self.WEB_IDENTITY, self.web_ifindex, web),
            (8, 80, self.DB_IDENTITY, self.db_ifindex, db),
        ):
            if wanted is not None:
                directions, _, audit = wanted.partition(" ")
                row = Endpoint(policy, identity, ifindex, flags[directions] | (AUDIT if audit else 0))
                self.maps.endpoints.update(endpoint, row)

    def policy(
        self,
        policy_id: int,
        direction: str,
        identity: int,
        protocol: int = 0,
        port: int = 0,
        *,
        bits: int | None = None,
        verdict: str = "allow",
        precedence: int | None = None,
        cookie: int = 0,
    ) -> PolicyKey:
        """Writes one entry. Verdicts: allow, deny, http, dns."""
        code, proxy, low = {"allow": (0, 0, 1), "deny": (1, 0, 255), "http": (2, 1, 154), "dns": (2, 2, 134)}[verdict]
        port_bits = (16 if port else 0) if bits is None else bits
        key = PolicyKey(policy_id, identity, {"egress": 0, "ingress": 1}[direction], protocol, port, port_bits)
        self.maps.policy.update(key, PolicyEntry(code, proxy, low if precedence is None else precedence, cookie))
        return key

    def revision(self, number: int) -> None:
        self.maps.config.update(Config(number).revision)

    def feed(
        self,
        program: str,
        packet: bytes,
        *,
        ifindex: int | None = None,
        ingress_ifindex: int = 0,
        mark: int = 0,
        repeat: int = 1,
    ) -> libbpf.ProgramRun:
        """Gives the packet to the program. By default it crosses web's interface."""
        context = bytearray(CONTEXT_BYTES)
        struct.pack_into("=I", context, 8, mark)
        struct.pack_into("=II", context, 36, ingress_ifindex, self.web_ifindex if ifindex is None else ifindex)
        return self.namespace(libbpf.run_program, self.programs[program], packet, bytes(context), repeat)

    def run(self, program: str, packet: bytes, **options: int) -> Result:
        """The same, and what came of it."""
        ran = self.feed(program, packet, **options)
        assert ran.value in {PASS, DROP}
        (mark,) = struct.unpack_from("=I", ran.context, 8)
        handed_over = mark & MARK_MASK == MARK_JUDGED
        return Result(
            passed=ran.value == PASS,
            mark=mark & ~MARK_MASK if handed_over else mark,
            handed_over=handed_over,
            events=tuple(self.reader.drain(1 << 20)),
            nanoseconds=ran.nanoseconds,
        )


def _make_veth() -> tuple[int, int]:
    with IPRoute() as netlink:
        netlink.link("add", ifname="l7web", kind="veth", peer={"ifname": "l7db"})
        return netlink.link_lookup(ifname="l7web")[0], netlink.link_lookup(ifname="l7db")[0]


@pytest.fixture(scope="session")
def bpf_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bpffs of this session's own."""
    folder = tmp_path_factory.mktemp("bpffs")
    assert bpffs.ensure(folder) == folder
    yield folder
    bpffs.unmount(folder)


def _load(pins: Path, cache: Path) -> Path:
    sizes = loader.Constants(
        max_conntrack=4096,
        max_host_flows=1024,
        max_ipcache=4096,
        max_policy=4096,
        max_fqdn_identities=256,
        max_fragments=256,
    )
    loader.load(pins, sizes, cache=cache)
    return pins


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled programs, of all processes of this test run."""
    return tmp_path_factory.getbasetemp().parent / "compiled"


@pytest.fixture(scope="session")
def pins(bpf_folder: Path, cache: Path) -> Path:
    """A loaded datapath, attached nowhere."""
    return _load(bpf_folder / LAYOUT, cache)


@pytest.fixture(scope="session")
def namespace() -> Iterator[Namespace]:
    namespace = Namespace()
    yield namespace
    namespace.close()


@pytest.fixture
def new_namespace() -> Iterator[Callable[[], Namespace]]:
    """Makes namespaces that end with the test."""
    made: list[Namespace] = []

    def make() -> Namespace:
        made.append(Namespace())
        return made[-1]

    yield make
    for namespace in made:
        namespace.close()


@pytest.fixture(scope="session")
def _node(namespace: Namespace, pins: Path) -> Iterator[Node]:
    node = Node(namespace, pins)
    yield node
    node.close()


@pytest.fixture
def node(_node: Node) -> Node:
    """The datapath with fresh tables."""
    _node.reset()
    return _node


@pytest.fixture
def node_of(new_namespace: Callable[[], Namespace]) -> Iterator[Callable[[Path], Node]]:
    """Makes the small node of a datapath that a test has loaded itself."""
    made: list[Node] = []

    def make(pins: Path) -> Node:
        made.append(Node(new_namespace(), pins))
        made[-1].reset()
        return made[-1]

    yield make
    for node in made:
        node.close()


@pytest.fixture(scope="session")
def _live_node(bpf_folder: Path, cache: Path) -> Iterator[Node]:
    namespace = Namespace()
    node = Node(namespace, _load(bpf_folder / "live" / LAYOUT, cache))
    yield node
    node.close()
    namespace.close()


@pytest.fixture
def live_node(_live_node: Node) -> Node:
    """Another datapath, to be attached, with empty tables."""
    _live_node.clear()
    return _live_node


@pytest.fixture(scope="session")
def build() -> Packets:
    return Packets()
