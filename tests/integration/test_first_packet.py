# SPDX-License-Identifier: Apache-2.0
"""A workload that is declared while its own link is down sends no packet that nobody judged: the order of
docs/reference/datapath.md."""

import sys
from collections.abc import Callable

from l7lab.gate import Gate
from l7lab.process import Process, wait_until
from l7lab.topology import GATEWAY_V4, GATEWAY_V6, UPLINK

TARGETS = ("198.51.100.3", "2001:db8:100::3")
PORT = 9999
ENOUGH = 400

# Tries all the time, so that its first packet leaves the moment the link can carry it.
FLOOD = """
import socket, sys
port, targets = int(sys.argv[1]), sys.argv[2:]
sockets = [(socket.socket(socket.AF_INET6 if ":" in a else socket.AF_INET, socket.SOCK_DGRAM), a) for a in targets]
sent = dict.fromkeys(targets, 0)
print("trying", flush=True)
while True:
    for sock, address in sockets:
        try:
            sock.sendto(b"flood", (address, port))
        except OSError:
            continue
        sent[address] += 1
        if sent[address] % 100 == 0:
            print(min(sent.values()), flush=True)
"""

# Every datagram for the port that reaches the other host.
COUNT = """
import socket, struct, sys
port, interface = int(sys.argv[1]), sys.argv[2]
sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
sock.bind((interface, 3))
print("ready", flush=True)
while True:
    data, (_, ethertype, kind, _, _) = sock.recvfrom(2048)
    if kind == socket.PACKET_OUTGOING or ethertype not in (0x0800, 0x86DD):
        continue
    offset = (data[0] & 15) * 4 if ethertype == 0x0800 else 40
    if struct.unpack_from("!H", data, offset + 2)[0] == port:
        print(hex(ethertype), flush=True)
"""


def lines(process: Process) -> list[str]:
    return process.log.read_text().splitlines()


def sent(process: Process) -> int:
    return max((int(line) for line in lines(process) if line.isdecimal()), default=0)


def test_a_workload_declared_before_its_link_is_up_never_sends_unjudged(unstarted_gate: Callable[..., Gate]) -> None:
    gate = unstarted_gate()
    lab = gate.lab
    batch = lab.batch.namespace
    # Addresses and routes are there, the workload's own end of the pair is not up yet.
    batch.sysctl({"net.ipv6.conf.all.keep_addr_on_down": 1})
    batch.ip(["link set eth0 down"])
    gate.start()
    counter = lab.start(lab.outside, [sys.executable, "-I", "-S", "-c", COUNT, str(PORT), UPLINK], "count")
    wait_until(lambda: lines(counter) == ["ready"], "the counter")
    flood = lab.start(lab.batch, [sys.executable, "-I", "-S", "-c", FLOOD, str(PORT), *TARGETS], "flood")
    wait_until(lambda: lines(flood) == ["trying"], "the flood")

    body = {"netns": batch.name, "labels": ["app=batch", "io.kubernetes.pod.namespace=shop"], "name": "batch"}
    status, answer = gate.api("POST", "/v1/endpoints", body)
    assert (status, answer["state"]) == (201, "ready"), answer
    assert gate.status()["problems"] == []
    assert sent(flood) == 0

    batch.ip(
        [
            "link set eth0 up",
            f"route replace {GATEWAY_V4} dev eth0 scope link",
            f"route replace default via {GATEWAY_V4}",
            f"route replace ::/0 via {GATEWAY_V6} dev eth0",
        ]
    )
    wait_until(lambda: sent(flood) >= ENOUGH, "the flood to get going", 15.0)
    assert lines(counter) == ["ready"]
    drops = {row["reason"]: row["packets"] for row in gate.status()["drops"]}
    assert drops["POLICY_DENIED"] > 0

    # What would be seen if nobody judged.
    gate.must("endpoint", "remove", "batch")
    wait_until(lambda: {"0x800", "0x86dd"} <= set(lines(counter)), "packets of a workload that is let go")
