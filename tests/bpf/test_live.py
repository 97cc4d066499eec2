# SPDX-License-Identifier: Apache-2.0
"""The programs attached to real interfaces, with real sockets at both ends and routes between them.

A client workload, the node and a server are three namespaces; each is gone when its thread is.
"""

import contextlib
import errno
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from l7bpf import attach, events, libbpf, loader, routing
from l7bpf.errors import DatapathError
from l7bpf.flows import ConntrackKey
from l7bpf.layouts import MARK_TO_CLIENT, MARK_TO_SERVER, Endpoint, IpcacheEntry, ListenerKey, PolicyEntry, PolicyKey
from l7bpf.maps import Maps

TCP, HTTP = 6, 1
IP_TRANSPARENT, IPV6_TRANSPARENT = 19, 75
CLIENT, SERVER = {4: "192.0.2.10", 6: "2001:db8::10"}, {4: "198.51.100.5", 6: "2001:db8:1::5"}
NODE = {4: ("192.0.2.1", "198.51.100.1"), 6: ("fe80::1", "2001:db8:1::1")}
WEB = 7
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


def sysctl(name: str, value: int) -> None:
    Path("/proc/sys/net", name).write_text(str(value))


def set_up_node(client_fd: int, server_fd: int) -> tuple[int, int]:
    """Both links and the node's addresses; returns the indices of its ends."""
    for name in (
        "ipv4/ip_forward",
        "ipv6/conf/all/forwarding",
        "ipv4/conf/all/rp_filter",
        "ipv4/conf/default/rp_filter",
    ):
        sysctl(name, 1)
    sysctl("ipv6/conf/default/accept_dad", 0)
    with IPRoute() as netlink:
        netlink.link("set", index=1, state="up")
        for name, fd in (("lxc", client_fd), ("ext", server_fd)):
            netlink.link("add", ifname=name, kind="veth", peer={"ifname": "eth0", "net_ns_fd": fd})
        lxc, ext = (netlink.link_lookup(ifname=name)[0] for name in ("lxc", "ext"))
        netlink.addr("add", index=lxc, address=NODE[4][0], prefixlen=32)
        netlink.addr("add", index=ext, address=NODE[4][1], prefixlen=24)
        netlink.addr("add", index=lxc, address=NODE[6][0], prefixlen=64)
        netlink.addr("add", index=ext, address=NODE[6][1], prefixlen=64)
        netlink.link("set", index=lxc, state="up")
        netlink.link("set", index=ext, state="up")
        netlink.route("add", dst=f"{CLIENT[4]}/32", oif=lxc)
        netlink.route("add", dst=f"{CLIENT[6]}/128", oif=lxc)
    return lxc, ext


def set_up_host(address: dict[int, str], bits: dict[int, int], gateway: dict[int, str]) -> None:
    sysctl("ipv6/conf/default/accept_dad", 0)
    sysctl("ipv6/conf/eth0/accept_dad", 0)
    with IPRoute() as netlink:
        index = netlink.link_lookup(ifname="eth0")[0]
        netlink.link("set", index=1, state="up")
        netlink.link("set", index=index, state="up")
        for family in (4, 6):
            netlink.addr("add", index=index, address=address[family], prefixlen=bits[family])
        if bits[4] == 32:
            netlink.route("add", dst=f"{gateway[4]}/32", oif=index, scope=253)
        netlink.route("add", dst="0.0.0.0/0", gateway=gateway[4], oif=index)
        netlink.route("add", dst="::/0", gateway=gateway[6], oif=index)


class Echo:
    """A server that tells each client the address it sees, then sends back what it gets."""

    def __init__(self, namespace, family: int) -> None:
        self.socket = namespace(socket.socket, FAMILY[family])
        self.socket.bind((SERVER[family], 80))
        self.socket.listen(64)
        self._peer = self.socket
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, address = self.socket.accept()
            except OSError:
                return
            with peer:
                self._peer = peer
                try:
                    peer.sendall(f"server sees {address[0]}\n".encode())
                    while data := peer.recv(4096):
                        peer.sendall(data)
                except OSError:
                    pass

    def close(self) -> None:
        for each in (self._peer, self.socket):
            with contextlib.suppress(OSError):  # a revoked client never says goodbye
                each.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self.socket.close()


class Net:
    """The three namespaces, loaded and attached."""

    def __init__(self, node, client, server, tables) -> None:
        self.node, self.client, self.server = node, client, server
        self.pins, self.maps, self.events = tables.pins, tables.maps, tables.reader
        self.lxc, self.ext = node(set_up_node, client.fd, server.fd)
        client(set_up_host, CLIENT, {4: 32, 6: 128}, {4: NODE[4][0], 6: NODE[6][0]})
        server(set_up_host, SERVER, {4: 24, 6: 64}, {4: NODE[4][1], 6: NODE[6][1]})
        for family in (4, 6):
            self.maps.endpoint_by_address.update(CLIENT[family], WEB)
            self.maps.ipcache.update(CLIENT[family], IpcacheEntry(1007))
            for address in NODE[family]:
                self.maps.ipcache.update(address, IpcacheEntry(1))
        self.maps.endpoint_by_ifindex.update(self.lxc, WEB)
        self.maps.endpoints.update(WEB, Endpoint(70, 1007, self.lxc, 1))
        self.maps.config.update(1)

    def allow(self, verdict: int = 0, proxy: int = 0) -> None:
        self.maps.policy.update(PolicyKey(70, 0, 0, TCP, 80, 16), PolicyEntry(verdict, proxy, 1))

    def connect(self, family: int, timeout: float = 5) -> socket.socket:
        new = self.client(socket.socket, FAMILY[family])
        new.settimeout(timeout)
        try:
            new.connect((SERVER[family], 80))
        except BaseException:
            new.close()
            raise
        return new

    def reasons(self) -> set[int]:
        return {event.reason for event in self.events.drain()}


@pytest.fixture
def net(new_namespace, live_node) -> Iterator[Net]:
    """The datapath with empty tables, in namespaces of this test's own."""
    net = Net(new_namespace(), new_namespace(), new_namespace(), live_node)
    yield net
    for pin in (net.pins / "links").iterdir():
        pin.unlink()


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def echo(net, family):
    server = Echo(net.server, family)
    yield server
    server.close()


@pytest.fixture(params=["tcx", "tc"])
def attacher(net, request):
    attacher = attach.Attacher(net.pins, request.param)
    assert attacher.mode == request.param
    net.node(attacher.attach_endpoint, net.lxc, WEB)
    net.node(attacher.attach_uplink, net.ext)
    return attacher


def filters(net) -> str:
    return net.node(lambda: subprocess.check_output(["tc", "filter", "show", "dev", "lxc", "ingress"], text=True))


def test_policy_holds_from_attach_to_detach(net, attacher, echo, family):
    with pytest.raises(TimeoutError):
        net.connect(family, timeout=0.3)
    assert 133 in net.reasons()
    net.allow()
    with net.connect(family) as client:
        assert client.recv(100).decode() == f"server sees {CLIENT[family]}\n"
    net.node(attacher.detach_endpoint, net.lxc, WEB)
    net.node(attacher.detach_endpoint, net.lxc, WEB)  # twice is no error
    net.maps.policy.delete(PolicyKey(70, 0, 0, TCP, 80, 16))
    net.connect(family).close()
    net.node(attacher.detach_uplink, net.ext)
    assert attacher.links() == []
    assert net.node(lambda: subprocess.check_output(["tc", "qdisc", "show"], text=True)).count("clsact") == 0


def test_the_kernel_is_asked_what_is_attached(net, attacher):
    both = {"from_endpoint": True, "to_endpoint": True}
    assert net.node(attacher.on_endpoint, net.lxc, WEB) == both
    assert net.node(attacher.on_uplink, net.ext) == {"from_uplink": True, "to_uplink": True}
    assert net.node(attacher.on_endpoint, net.ext, WEB) == dict.fromkeys(both, False)
    if attacher.mode == "tc":
        net.node(lambda: subprocess.check_call(["tc", "filter", "del", "dev", "lxc", "egress"]))
    else:
        # As `bpftool link detach`: the pin stays, and holds nothing any more.
        link = libbpf.obj_get(net.pins / "links" / f"endpoint_{WEB}_to")
        libbpf.link_detach(link)
        os.close(link)
    assert net.node(attacher.on_endpoint, net.lxc, WEB) == {"from_endpoint": True, "to_endpoint": False}
    net.node(attacher.attach_endpoint, net.lxc, WEB)
    assert net.node(attacher.on_endpoint, net.lxc, WEB) == both
    net.node(attacher.detach_endpoint, net.lxc, WEB)
    assert net.node(attacher.on_endpoint, net.lxc, WEB) == dict.fromkeys(both, False)


def test_a_revocation_reaches_a_connection_that_is_open(net, attacher, echo, family):
    net.allow()
    with net.connect(family, timeout=0.5) as client:
        assert client.recv(100)
        client.sendall(b"before")
        assert client.recv(100) == b"before"
        net.maps.policy.delete(PolicyKey(70, 0, 0, TCP, 80, 16))
        net.maps.config.update(2)
        client.sendall(b"after")
        with pytest.raises(TimeoutError):
            client.recv(100)


def test_an_answer_is_judged_once(net, attacher, echo, family):
    """Where it comes in. Where the workload gets it, it would be counted in its flow once more."""
    net.allow()
    with net.connect(family) as client:
        assert client.recv(100)
        key = ConntrackKey(CLIENT[family], SERVER[family], client.getsockname()[1], 80, TCP)
        before = net.maps.conntrack.get(key)
        for _ in range(10):
            client.sendall(b"x" * 1000)
            assert client.recv(1000)
        crossed = net.maps.conntrack.get(key).octets - before.octets
        assert 20_000 < crossed < 25_000


def test_replacing_the_programs_lets_nothing_through(net, attacher, family):
    """Connections are tried all the while; not one packet may arrive."""
    stop = threading.Event()
    listener = net.server(socket.socket, FAMILY[family], socket.SOCK_DGRAM)
    listener.bind((SERVER[family], 80))
    listener.setblocking(False)

    def flood() -> int:
        sent = 0
        with net.client(socket.socket, FAMILY[family], socket.SOCK_DGRAM) as sender:
            while not stop.is_set():
                sender.sendto(b"x", (SERVER[family], 80))
                sent += 1
        return sent

    with ThreadPoolExecutor(1) as pool, listener:
        flooding = pool.submit(flood)
        try:
            for _ in range(200 if attacher.mode == "tcx" else 20):
                net.node(attacher.attach_endpoint, net.lxc, WEB)
        finally:
            stop.set()
        assert flooding.result() > 100
        with pytest.raises(BlockingIOError):
            listener.recv(1)


def test_a_reload_replaces_programs_and_keeps_flows(net, attacher, echo, family):
    net.allow()
    with net.connect(family) as client:
        assert client.recv(100)
        before = net.maps.conntrack.get(ConntrackKey(CLIENT[family], SERVER[family], client.getsockname()[1], 80, TCP))
        loader.load(net.pins, loader.Constants(max_conntrack=99))  # the table keeps its size
        net.node(attacher.attach_endpoint, net.lxc, WEB)
        net.node(attacher.attach_uplink, net.ext)
        client.sendall(b"still here")
        assert client.recv(100) == b"still here"
        after = net.maps.conntrack.get(ConntrackKey(CLIENT[family], SERVER[family], client.getsockname()[1], 80, TCP))
        assert after.packets > before.packets


def test_changing_the_mode_leaves_one_program_on_each_hook(net, family, echo):
    net.allow()
    for mode in ("tcx", "tc", "tcx", "tc"):
        attacher = attach.Attacher(net.pins, mode)
        net.node(attacher.attach_endpoint, net.lxc, WEB)
        assert len(attacher.links()) == (2 if mode == "tcx" else 0)
        assert filters(net).count("handle") == (0 if mode == "tcx" else 1)
        net.connect(family).close()


def test_an_interface_that_is_gone_is_no_obstacle(net, attacher):
    def remove() -> None:
        with IPRoute() as netlink:
            netlink.link("del", index=net.lxc)

    net.node(remove)
    with pytest.raises(DatapathError, match="interface"):
        net.node(attacher.attach_endpoint, net.lxc, WEB)
    net.node(attacher.detach_endpoint, net.lxc, WEB)
    assert not [name for name in attacher.links() if name.startswith("endpoint")]


def test_an_endpoint_that_comes_back_on_another_interface_is_attached_there(net, attacher):
    def again() -> int:
        with IPRoute() as netlink:
            netlink.link("del", index=net.lxc)
            netlink.link("add", ifname="lxc2", kind="veth", peer={"ifname": "peer2"})
            return netlink.link_lookup(ifname="lxc2")[0]

    index = net.node(again)
    net.node(attacher.attach_endpoint, index, WEB)
    net.node(attacher.attach_endpoint, index, WEB)
    assert sum(name.startswith("endpoint") for name in attacher.links()) == (2 if attacher.mode == "tcx" else 0)


class TestProxy:
    """A relay of a few lines in the proxy's place: listener, original destination, client's address upstream."""

    @pytest.fixture
    def relay(self, net, family, attacher, echo):
        saved = net.node(routing.add)
        net.node(routing.add, saved)  # twice is no error
        net.node(attacher.attach_steer)
        net.node(attacher.attach_steer)
        net.allow(verdict=2, proxy=HTTP)
        listener = net.node(self.transparent, family, MARK_TO_CLIENT)
        listener.bind(("::1" if family == 6 else "127.0.0.1", 0))
        listener.listen(16)
        net.maps.listeners.update(ListenerKey(HTTP, family, TCP), listener.fileno())
        yield listener
        listener.close()
        net.node(routing.remove, saved)
        net.node(routing.remove, saved)
        net.node(attacher.detach_steer)
        net.node(attacher.detach_steer)
        assert net.node(lambda: Path("/proc/sys/net/ipv4/tcp_early_demux").read_text()) == "1\n"
        assert "2004" not in net.node(lambda: subprocess.check_output(["ip", "rule"], text=True))

    @staticmethod
    def transparent(family: int, mark: int) -> socket.socket:
        new = socket.socket(FAMILY[family])
        new.settimeout(5)
        new.setsockopt(
            *((socket.IPPROTO_IPV6, IPV6_TRANSPARENT) if family == 6 else (socket.SOL_IP, IP_TRANSPARENT)), 1
        )
        new.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return new

    @pytest.mark.parametrize("keep_port", [True, False], ids=["clients_port", "own_port"])
    @pytest.mark.parametrize("valid_mark", [0, 1], ids=["ordinary", "src_valid_mark"])
    def test_the_relay_stands_between_unseen(self, net, relay, family, keep_port, valid_mark):
        net.node(sysctl, "ipv4/conf/all/src_valid_mark", valid_mark)
        with net.connect(family) as client:
            accepted, peer = relay.accept()
            with accepted, net.node(self.transparent, family, MARK_TO_SERVER) as upstream:
                assert accepted.getsockname()[:2] == (SERVER[family], 80)
                assert peer[:2] == client.getsockname()[:2]
                upstream.bind((CLIENT[family], peer[1] if keep_port else 0))
                upstream.connect((SERVER[family], 80))
                assert upstream.recv(100).decode() == f"server sees {CLIENT[family]}\n"
                client.sendall(b"ping")
                upstream.sendall(accepted.recv(100) + b" pong")
                accepted.sendall(upstream.recv(100))
                assert client.recv(100) == b"ping pong"

    @pytest.mark.parametrize("attacher", ["tcx"], indirect=True)
    def test_without_a_listener_nobody_else_gets_the_connection(self, net, relay, family):
        """IPv6 is refused. IPv4 waits: the kernel sends no reset from an address that is not the node's own."""
        host = net.node(socket.socket, FAMILY[family])
        host.bind(("::" if family == 6 else "0.0.0.0", 80))
        host.listen()
        relay.close()
        with host, pytest.raises((ConnectionRefusedError, TimeoutError)):
            net.connect(family, timeout=0.3)
        assert 200 in net.reasons()

    @pytest.mark.parametrize("attacher", ["tcx"], indirect=True)
    def test_a_direct_connection_is_reset_when_it_comes_to_need_the_proxy(self, net, relay, family):
        net.allow()
        with net.connect(family) as client:
            assert client.recv(100)
            net.allow(verdict=2, proxy=HTTP)
            net.maps.config.update(2)
            client.sendall(b"more")
            with pytest.raises(ConnectionResetError):
                client.recv(100)

    @pytest.mark.parametrize("attacher", ["tcx"], indirect=True)
    def test_the_workload_cannot_reach_the_listener_itself(self, net, relay, family):
        own = net.client(socket.socket, FAMILY[family])
        own.settimeout(0.3)
        with own, pytest.raises(OSError) as failure:
            own.connect((NODE[family][1], relay.getsockname()[1]))
        assert failure.value.errno in {None, errno.EHOSTUNREACH, errno.ECONNREFUSED}


def test_attaching_without_a_datapath_says_so(bpf_folder):
    with pytest.raises(DatapathError, match="is the datapath loaded"):
        attach.Attacher(bpf_folder / "nothing").attach_endpoint(1, 1)
    with pytest.raises(DatapathError, match="is the datapath loaded"):
        Maps.open(bpf_folder / "nothing")
    with pytest.raises(DatapathError, match="is the datapath loaded"):
        events.EventReader(bpf_folder / "nothing")


def test_steer_can_be_attached_to_a_namespace_that_one_is_not_in(net):
    attacher = attach.Attacher(net.pins)
    attacher.attach_steer(net.node.fd)
    attacher.attach_steer(net.node.fd)
    assert attacher.links() == ["steer"]
    attacher.detach_steer()
    assert os.fstat(net.node.fd).st_ino
