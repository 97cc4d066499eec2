# SPDX-License-Identifier: Apache-2.0
"""Ways out that a process of the node tries whose cgroup is an endpoint: it is root, and shares the node's network.

Every attempt has a destination of its own and carries a token, which a sniffer on the other side looks for. It must
have seen one that was sent outside the cgroup, after the attempt, before it counts as not seen.
"""

import itertools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from l7lab import traffic
from l7lab.cgroup import Cgroup
from l7lab.gate import Gate
from l7lab.namespace import Namespace
from l7lab.process import Process, wait_until
from l7lab.scenario import API_V4
from l7lab.topology import IN_CIDR

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: jailed}
spec:
  endpointSelector: {matchLabels: {job: jailed}}
  egress:
    - toCIDR: [192.0.2.10/32]
      toPorts:
        - ports: [{port: "53", protocol: ANY}]
          rules: {dns: [{matchName: api.example.com}]}
    - toFQDNs: [{matchName: api.example.com}]
      toPorts:
        - ports: [{port: "80", protocol: TCP}]
          rules: {http: [{method: GET, path: "/public/.*"}]}
"""

SNIFF = """
import re, socket
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
sock.bind(("ext0", 3))
print("ready", flush=True)
while True:
    data, (_, _, kind, _, _) = sock.recvfrom(65535)
    if kind != socket.PACKET_OUTGOING:
        for token in re.findall(rb"token<([^>]*)>", data):
            print(token.decode(), flush=True)
"""

# What every attempt may use. `to` and `to6` are its destinations, `t` its payload.
TOOLS = """
import os, socket, struct, subprocess, sys
name, to, to6, folder = sys.argv[1:]
t = b"token<" + name.encode() + b">" + b"." * 40

def sock(kind=socket.SOCK_DGRAM, v6=False, protocol=0):
    made = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, kind, protocol)
    made.settimeout(0.3)
    return made

def quietly(work, *arguments):
    # A refusal may be told at once; the record is what counts.
    try:
        work(*arguments)
    except OSError as error:
        print(error)

def send(made, where=None, port=7):
    quietly(made.sendto, t, (where or to, port))

def enter():
    with open(folder + "/cgroup.procs", "w") as procs:
        procs.write("0")

"""


@dataclass(frozen=True)
class Attempt:
    """What is tried, and why it is dropped."""

    code: str
    reason: str = "POLICY_DENIED"


ATTEMPTS = {
    "a datagram": Attempt("with sock() as made: send(made)"),
    "a datagram of a connected socket": Attempt(
        "with sock() as made:\n    made.connect((to, 7))\n    quietly(made.send, t)"
    ),
    "a datagram by IPv6": Attempt("with sock(v6=True) as made: send(made, to6)"),
    "a datagram to an IPv4-mapped address": Attempt("with sock(v6=True) as made: send(made, '::ffff:' + to)"),
    "a connection to an IPv4-mapped address": Attempt(
        "with sock(socket.SOCK_STREAM, v6=True) as made: quietly(made.connect, ('::ffff:' + to, 80))"
    ),
    "a connection by IPv6": Attempt("with sock(socket.SOCK_STREAM, v6=True) as made: quietly(made.connect, (to6, 80))"),
    "data with the first packet (TCP fast open)": Attempt(
        "with sock(socket.SOCK_STREAM) as made: quietly(made.sendto, t, 0x20000000, (to, 80))"
    ),
    "fast open by connect": Attempt(
        "with sock(socket.SOCK_STREAM) as made:\n"
        "    made.setsockopt(6, 30, 1)\n"
        "    made.connect((to, 80))\n"
        "    quietly(made.sendall, t)"
    ),
    **{
        f"the mark {mark:#x}": Attempt(
            f"with sock() as made:\n    made.setsockopt(1, 36, struct.pack('I', {mark}))\n    send(made)"
        )
        # All of this project's but 0x300, what surrounds them, and all bits.
        for mark in (0x100, 0x200, 0xA00, 0xB00, 0xF00, 0xFFFFFFFF)
    },
    # The node's own rule leads it to the loopback, where the destination itself is taken for the source.
    "the mark 0x300": Attempt(
        "with sock() as made:\n    made.setsockopt(socket.SOL_SOCKET, 36, 0x300)\n    send(made)", "INVALID_SOURCE_IP"
    ),
    "the mark 0x300, from an address of the node": Attempt(
        "with sock() as made:\n"
        "    made.setsockopt(socket.SOL_SOCKET, 36, 0x300)\n    made.bind(('192.0.2.1', 0))\n    send(made)",
        "FORGED_MARK",
    ),
    "bound to the device": Attempt(
        "with sock() as made:\n    made.setsockopt(socket.SOL_SOCKET, 25, b'ext0\\0')\n    send(made)"
    ),
    "not routed (SO_DONTROUTE)": Attempt(
        "subprocess.run(['ip', 'route', 'add', to, 'dev', 'ext0'], check=True)\n"
        "subprocess.run(['ip', 'neigh', 'add', to, 'lladdr', '02:00:00:00:00:01', 'dev', 'ext0'], check=True)\n"
        "with sock() as made:\n    made.setsockopt(socket.SOL_SOCKET, 5, 1)\n    send(made)"
    ),
    "a raw socket of a protocol": Attempt(
        "with sock(socket.SOCK_RAW, protocol=17) as made:\n"
        "    send_it = struct.pack('!4H', 4000, 7, 8 + len(t), 0) + t\n"
        "    quietly(made.sendto, send_it, (to, 0))",
        "RAW_SOCKET",
    ),
    "a raw socket with a header of its own": Attempt(
        "with sock(socket.SOCK_RAW, protocol=255) as made:\n"
        "    ends = bytes(4), socket.inet_aton(to)\n"
        "    head = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 28 + len(t), 1, 0, 64, 17, 0, *ends)\n"
        "    quietly(made.sendto, head + struct.pack('!4H', 4000, 7, 8 + len(t), 0) + t, (to, 0))",
        "RAW_SOCKET",
    ),
    "another address for its own (IP_TRANSPARENT)": Attempt(
        "with sock() as made:\n    made.setsockopt(0, 19, 1)\n    made.bind(('203.0.113.99', 4000))\n    send(made)",
        "INVALID_SOURCE_IP",
    ),
    "a child process": Attempt("if os.fork() == 0:\n    with sock() as made: send(made)\n    os._exit(0)\nos.wait()"),
    "a session of its own, whose parent has gone": Attempt(
        "done, tell = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        with sock() as made: send(made)\n"
        "        os.write(tell, b'.')\n"
        "    os._exit(0)\n"
        "os.wait()\nos.read(done, 1)"
    ),
    "a cgroup below": Attempt(
        "folder += '/below/further'\nos.makedirs(folder, exist_ok=True)\nenter()\nwith sock() as made: send(made)"
    ),
    "a socket of a process that has left": Attempt(
        "with sock() as made:\n    folder = os.path.dirname(folder)\n    enter()\n    send(made)"
    ),
}


def python(where: Namespace, script: str, *arguments: str) -> str:
    done = where.run([sys.executable, "-I", "-S", "-c", script, *arguments])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def gate(new_gate) -> Iterator[Gate]:
    with new_gate({"jailed.yaml": POLICY}) as running:
        running.lab.node.namespace.sysctl({"net.ipv4.tcp_fastopen": 5})  # data on a SYN without a server's cookie
        running.start()
        running.add_cgroup(running.lab.cgroup("jailed"), job="jailed")
        yield running


@pytest.fixture
def jailed(gate: Gate) -> Cgroup:
    return gate.lab.cgroup("jailed")


@pytest.fixture(scope="module")
def sniffer(gate: Gate) -> Iterator[Process]:
    lab = gate.lab
    started = lab.start(lab.outside, [sys.executable, "-I", "-S", "-c", SNIFF], "sniff")
    started.wait(lambda: "ready" in started.output(), "it sniffs")
    yield started
    started.stop()


_numbers = itertools.count(1)


def arrived(gate: Gate, sniffer: Process) -> set[str]:
    """Every token that was seen, once one that the node itself sends has been, after all others."""
    last = f"last {next(_numbers)}"
    python(gate.lab.node.namespace, TOOLS + "with sock() as made: send(made)", last, IN_CIDR, "::", "")

    def seen() -> set[str]:
        return set(sniffer.log.read_text().splitlines())

    wait_until(lambda: last in seen(), "what the node itself sends to arrive")
    return seen()


@pytest.mark.parametrize("name", ATTEMPTS)
def test_a_way_out_is_closed_and_its_attempt_is_on_record(
    gate: Gate, jailed: Cgroup, sniffer: Process, name: str
) -> None:
    attempt, number = ATTEMPTS[name], list(ATTEMPTS).index(name)
    to, to6 = f"198.51.100.{130 + number}", f"2001:db8:100::{130 + number:x}"
    mark = len(gate.audit())
    python(jailed, TOOLS + attempt.code, name, to, to6, str(jailed.folder))
    record = gate.wait_audit(lambda one: one["destination"]["address"] in (to, to6), name, mark=mark)
    assert (record["reason"], record["endpoint"]["name"]) == (attempt.reason, "jailed")
    assert name not in arrived(gate, sniffer)


OLDER = (
    TOOLS
    + """
made = [sock(), sock(v6=True), sock(socket.SOCK_STREAM)]
made[0].connect((to, 7))
made[0].send(t.replace(b"token", b"other"))
enter()
send(made[0]); quietly(made[0].send, t)
send(made[1], to6)
quietly(made[2].connect, (to, 80))
"""
)


def test_a_socket_keeps_the_cgroup_in_which_it_was_made(gate: Gate, jailed: Cgroup, sniffer: Process) -> None:
    """As the kernel has it, and the reference says: who hands sockets to a process answers for them."""
    python(gate.lab.node.namespace, OLDER, "made elsewhere", "198.51.100.190", "2001:db8:100::be", str(jailed.folder))
    assert "made elsewhere" in arrived(gate, sniffer)


BEFORE = (
    TOOLS
    + """
made = [sock(), sock(v6=True)]
held = socket.create_connection((to, 80), 3)
for one, where in zip(made, (to, to6)):
    one.connect((where, 7))
    one.send(t.replace(b">", b" before>"))
print("ready", flush=True)
sys.stdin.readline()
for one in made:
    # The first may only fetch the error that the other side's "port unreachable" has left for the socket.
    for _ in range(2): quietly(one.send, t)
quietly(held.sendall, t)
print("sent", flush=True)
"""
)


def test_sockets_and_connections_from_before_the_endpoint_are_judged_with_it(gate: Gate, sniffer: Process) -> None:
    cgroup = gate.lab.cgroup("later")
    argv = [sys.executable, "-I", "-S", "-c", BEFORE, "older", IN_CIDR, "2001:db8:100::1", ""]
    with subprocess.Popen(cgroup.inside(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert "older before" in arrived(gate, sniffer)
        gate.add_cgroup(cgroup, job="jailed")
        mark = len(gate.audit())
        process.stdin.write("\n")
        process.stdin.flush()
        while process.stdout.readline() != "sent\n":
            pass
        for where in (("TCP", IN_CIDR), ("UDP", IN_CIDR), ("UDP", "2001:db8:100::1")):
            record = gate.wait_audit(
                lambda one, to=where: (one["protocol"], one["destination"]["address"]) == to, str(where), mark=mark
            )
            assert (record["reason"], record["endpoint"]["name"]) == ("POLICY_DENIED", "later")
        assert "older" not in arrived(gate, sniffer)


# A listener of a proxy is found by its port, on whatever address of the node.
PROXY_PORT = (
    TOOLS
    + """
for port in map(int, name.split(",")):
    for where in ("127.0.0.1", "::1", "192.0.2.1", "2001:db8::1", "0.0.0.0"):
        with sock(socket.SOCK_STREAM, v6=":" in where) as made:
            try:
                made.connect((where, port))
                print("connected", where, port)
            except OSError:
                pass
"""
)


def listening_ports(gate: Gate) -> set[str]:
    said = gate.lab.node.namespace.run(["ss", "-Hltn"]).stdout
    return {line.split()[3].rsplit(":", 1)[1] for line in said.splitlines()}


def test_no_listener_of_a_proxy_can_be_connected_to(gate: Gate, jailed: Cgroup) -> None:
    ports = listening_ports(gate)
    assert ports
    mark = len(gate.audit())
    assert python(jailed, PROXY_PORT, ",".join(sorted(ports)), "0", "::", "") == ""
    reasons = {one["reason"] for one in gate.audit()[mark:]}
    assert "PROXY_PORT" in reasons


def test_another_network_namespace_gives_no_other_rights(gate: Gate, jailed: Cgroup, sniffer: Process) -> None:
    """A socket belongs to its cgroup in whatever namespace it is."""
    where = gate.lab.backend.namespace
    script = TOOLS + (
        "import ctypes\n"
        "with open(folder) as other: assert ctypes.CDLL(None).setns(other.fileno(), 0x40000000) == 0\n"
        "with sock() as made: send(made)\n"
    )
    python(gate.lab.node.namespace, script, "another netns, free", IN_CIDR, "::", str(where.path))
    mark = len(gate.audit())
    python(jailed, script, "another netns", IN_CIDR, "::", str(where.path))
    record = gate.wait_audit(lambda one: one["destination"]["address"] == IN_CIDR, "of the datagram", mark=mark)
    assert record["endpoint"]["name"] == "jailed"
    seen = arrived(gate, sniffer)
    assert "another netns, free" in seen
    assert "another netns" not in seen


FAST = """
import socket, sys
with socket.socket() as sock:
    sock.settimeout(3)
    head = f"GET {sys.argv[2]} HTTP/1.1\\r\\nHost: api.example.com\\r\\nConnection: close\\r\\n\\r\\n"
    sock.sendto(head.encode(), 0x20000000, (sys.argv[1], 80))
    print(sock.recv(4096)[:12].decode())
"""


@pytest.mark.parametrize(("path", "said"), [("/public/", "HTTP/1.1 200"), ("/admin", "HTTP/1.1 403")])
def test_a_request_on_the_syn_is_judged_like_any_other(gate: Gate, jailed: Cgroup, path: str, said: str) -> None:
    gate.lab.outside.namespace.sysctl({"net.ipv4.tcp_fastopen": 0x603})  # a server that would take it
    assert traffic.dns(jailed, "api.example.com").addresses == (API_V4,)
    assert python(jailed, FAST, API_V4, path) == said
