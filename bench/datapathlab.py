# SPDX-License-Identifier: Apache-2.0
"""The path that `bench_datapath` measures, and what can stand in it: nothing, l7gate's programs, iptables or nftables.

    frontend (a workload's namespace) ── node ── outside (nginx, iperf3)

A rule allows one address and one TCP port; the rest is denied. All variants have the same rules, and the traffic that
is measured is allowed by the last of them. iptables and nftables accept what belongs to a known connection first, as
rule sets of this kind do: their rules are asked about a connection's first packet only, like l7gate's.
"""

import ctypes
import os
import socket
import statistics
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import islice, product
from pathlib import Path
from typing import Any, Final, TypeVar

from httplab import NGINX, SERVER

from l7bpf import libbpf, loader
from l7bpf.attach import Attacher
from l7bpf.layouts import ENFORCE_EGRESS, LAYOUT, Endpoint, IpcacheEntry, PolicyEntry, PolicyKey
from l7bpf.maps import Maps
from l7lab import Lab
from l7lab.namespace import LabError, Namespace
from l7lab.topology import UPLINK

T = TypeVar("T")

PORT: Final = 8080
BULK_PORT: Final = 5201
COUNTS: Final = (10, 1_000, 10_000)
NONE: Final = "none"
FIREWALLS: Final = ("iptables", "nftables", "l7gate")
LIVE: Final = ("from_endpoint", "to_uplink", "from_uplink", "to_endpoint")
"""What a request and its answer go through."""
STATISTICS: Final = Path("/proc/sys/kernel/bpf_stats_enabled")
_ENDPOINT: Final = 1
_WORKLOAD_IDENTITY: Final = 256
_FIRST_IDENTITY: Final = 1 << 24
_CLONE_NEWNET: Final = 0x40000000
_CONTEXT_BYTES: Final = 192


def rules(count: int) -> list[tuple[str, int]]:
    """Address and port of each rule. The last two are those of the traffic that is measured."""
    others = ((f"198.51.100.{host}", port) for port, host in product(range(20_000, 21_000), range(2, 252)))
    return [*islice(others, count - 2), (SERVER, BULK_PORT), (SERVER, PORT)]


class DatapathLab:
    """One lab, with every rule set of l7gate in its tables from the beginning."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._node: ThreadPoolExecutor
        self.lab: Lab
        self.maps: Maps
        self.instructions: dict[str, int] = {}

    def __enter__(self) -> "DatapathLab":
        try:
            self._build()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def client(self) -> Namespace:
        """Where load comes from."""
        return self.lab.frontend.namespace

    @contextmanager
    def standing(self, firewall: str, count: int) -> Iterator[None]:
        """Puts one variant into the path for a while."""
        add, remove = {
            NONE: (lambda _: None, lambda: None),
            "iptables": (self._add_iptables, self._remove_iptables),
            "nftables": (self._add_nftables, self._remove_nftables),
            "l7gate": (self._add_l7gate, self._remove_l7gate),
        }[firewall]
        add(count)
        try:
            yield
        finally:
            remove()

    def nanoseconds(self, count: int, frames: Sequence[bytes], repeat: int = 1) -> float:
        """Of `from_endpoint` on these packets, by BPF_PROG_TEST_RUN: the median."""
        self._select(count)
        context = bytearray(_CONTEXT_BYTES)
        struct.pack_into("=I", context, 40, self._ifindex)

        def run() -> list[libbpf.ProgramRun]:
            return [libbpf.run_program(self._from_endpoint, frame, bytes(context), repeat) for frame in frames]

        ran = self._inside(run)
        if any(each.value != 0xFFFFFFFF for each in ran):
            raise LabError(f"a packet was dropped with {count} rules")
        return statistics.median(each.nanoseconds for each in ran)

    def live_nanoseconds(self, work: Callable[[], float]) -> dict[str, float]:
        """Of each program for each of its packets while `work` runs, by the kernel's run-time statistics.

        What those cost themselves is in it.
        """
        pins = self.lab.bpffs / "bench" / LAYOUT / "programs"
        with ExitStack() as opened:
            fds = {}
            for name in LIVE:
                fds[name] = libbpf.obj_get(pins / name)
                opened.callback(os.close, fds[name])
            before = {name: _run_time(fd) for name, fd in fds.items()}
            told = STATISTICS.read_text()
            STATISTICS.write_text("1")
            opened.callback(STATISTICS.write_text, told)
            work()
            after = {name: _run_time(fd) for name, fd in fds.items()}
        spent = {name: (after[name][0] - before[name][0], after[name][1] - before[name][1]) for name in LIVE}
        return {name: taken / runs for name, (taken, runs) in spent.items()}

    def _build(self) -> None:
        self.lab = lab = self._stack.enter_context(Lab())
        folder = lab.folder / "bench"
        folder.mkdir()
        config = folder / "nginx.conf"
        config.write_text(
            NGINX.format(folder=folder, listen=f"listen {PORT} backlog=4096;", certificates=lab.web.folder)
        )
        argv = ["nginx", "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")]
        lab.start(lab.outside, argv, "bench-nginx").wait_listening(PORT)
        lab.start(lab.outside, ["iperf3", "-s"], "iperf3").wait_listening(BULK_PORT)
        self.must(self.client, ["sysctl", "-qw", "net.ipv4.ip_local_port_range=10000 65000", "net.ipv4.tcp_tw_reuse=1"])
        self._node = ThreadPoolExecutor(1, initializer=_enter, initargs=(lab.node.namespace.path,))
        self._stack.callback(self._node.shutdown)
        pins = lab.bpffs / "bench" / LAYOUT
        sizes = loader.Constants(max_policy=32_768, max_conntrack=262_144)
        self.instructions = loader.load(pins, sizes).instructions
        self.maps = self._stack.enter_context(Maps.open(pins))
        self._from_endpoint = libbpf.obj_get(pins / "programs/from_endpoint")
        self._stack.callback(os.close, self._from_endpoint)
        self._attacher = Attacher(pins)
        self._ifindex, self._uplink = (
            self._inside(socket.if_nametoindex, name) for name in (lab.frontend.interface, UPLINK)
        )
        self._fill()

    def _fill(self) -> None:
        maps, identities = self.maps, {}
        maps.endpoint_by_ifindex.update(self._ifindex, _ENDPOINT)
        maps.endpoint_by_address.update(self.lab.frontend.v4, _ENDPOINT)
        maps.ipcache.update(self.lab.frontend.v4, IpcacheEntry(_WORKLOAD_IDENTITY))
        for count in COUNTS:
            for address, port in rules(count):
                if address not in identities:
                    identities[address] = _FIRST_IDENTITY + len(identities)
                    maps.ipcache.update(address, IpcacheEntry(identities[address]))
                maps.policy.update(PolicyKey(count, identities[address], 0, 6, port, 16), PolicyEntry(0, 0, 1))

    def _select(self, count: int) -> None:
        row = Endpoint(count, _WORKLOAD_IDENTITY, self._ifindex, ENFORCE_EGRESS)
        self.maps.endpoints.update(_ENDPOINT, row)
        self.maps.config.update(count)

    def _add_l7gate(self, count: int) -> None:
        self._select(count)
        self._inside(self._attacher.attach_endpoint, self._ifindex, _ENDPOINT)
        self._inside(self._attacher.attach_uplink, self._uplink)

    def _remove_l7gate(self) -> None:
        self._inside(self._attacher.detach_endpoint, self._ifindex, _ENDPOINT)
        self._inside(self._attacher.detach_uplink, self._uplink)

    def _add_iptables(self, count: int) -> None:
        lines = ["*filter", ":FORWARD DROP [0:0]", "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"]
        lines += [f"-A FORWARD -d {address}/32 -p tcp --dport {port} -j ACCEPT" for address, port in rules(count)]
        self.must(self.lab.node.namespace, ["iptables-restore"], "\n".join([*lines, "COMMIT", ""]))

    def _remove_iptables(self) -> None:
        self.must(self.lab.node.namespace, ["iptables-restore"], "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n")
        self.must(self.lab.node.namespace, ["nft", "flush", "ruleset"])

    def _add_nftables(self, count: int) -> None:
        elements = ", ".join(f"{address} . {port}" for address, port in rules(count))
        self.must(
            self.lab.node.namespace,
            ["nft", "-f", "-"],
            f"""table ip bench {{
                set allowed {{ type ipv4_addr . inet_service; elements = {{ {elements} }} }}
                chain forward {{
                    type filter hook forward priority 0; policy drop;
                    ct state established,related accept
                    ip daddr . tcp dport @allowed accept
                }}
            }}
            """,
        )

    def _remove_nftables(self) -> None:
        self.must(self.lab.node.namespace, ["nft", "flush", "ruleset"])

    @staticmethod
    def must(namespace: Namespace, argv: list[str], stdin: str | None = None, timeout: float = 60.0) -> str:
        """Runs a program that has to succeed."""
        done = namespace.run(argv, stdin=stdin, timeout=timeout)
        if done.returncode:
            raise LabError(f"{argv[0]} failed with {done.returncode}: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def _inside(self, work: Callable[..., T], *arguments: Any) -> T:
        return self._node.submit(work, *arguments).result()


def _run_time(program: int) -> tuple[int, int]:
    """Nanoseconds and runs."""
    lines = Path(f"/proc/self/fdinfo/{program}").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines)
    return int(found["run_time_ns"]), int(found["run_cnt"])


def _enter(path: Path) -> None:
    with path.open() as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET) < 0:
            raise OSError(ctypes.get_errno(), "setns")
