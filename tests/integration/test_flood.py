# SPDX-License-Identifier: Apache-2.0
"""No packet of a workload leaves unjudged: not while rules change, programs are replaced, or processes die."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from l7lab import Lab, traffic
from l7lab.gate import Gate
from l7lab.process import Process, wait_until
from l7lab.topology import IN_CIDR

TARGETS = ("198.51.100.3", "2001:db8:100::3")
PORT = 9999
BATCH_RULES = "30-batch.yaml"

# Datagrams and connection attempts to an address of each family, as fast as a short pause allows.
FLOOD = """
import socket, sys, time
port = int(sys.argv[1])
targets = [(socket.AF_INET6 if ":" in a else socket.AF_INET, a) for a in sys.argv[2:]]
datagrams = [(socket.socket(family, socket.SOCK_DGRAM), address) for family, address in targets]
sent = 0
while True:
    for sock, address in datagrams:
        sock.sendto(b"flood", (address, port))
        sent += 1
    if sent % 50 == 0:
        for family, address in targets:
            with socket.socket(family, socket.SOCK_STREAM) as sock:
                sock.setblocking(False)
                sock.connect_ex((address, port))
        print(sent, flush=True)
    time.sleep(0.0005)
"""

# Every packet for the port that reaches the other host, whatever becomes of it there.
COUNT = """
import socket, struct, sys
port = int(sys.argv[1])
sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
sock.bind(("ext0", 3))
print("ready", flush=True)
while True:
    data, (_, ethertype, kind, _, _) = sock.recvfrom(2048)
    if kind == socket.PACKET_OUTGOING or ethertype not in (0x0800, 0x86DD):
        continue
    offset = (data[0] & 15) * 4 if ethertype == 0x0800 else 40
    protocol = data[9] if ethertype == 0x0800 else data[6]
    if protocol in (6, 17) and struct.unpack_from("!H", data, offset + 2)[0] == port:
        print(ethertype, protocol, flush=True)
"""


def lines(process: Process) -> list[str]:
    return process.log.read_text().splitlines()


def flood(lab: Lab, name: str) -> Process:
    return lab.start(lab.batch, [sys.executable, "-I", "-S", "-c", FLOOD, str(PORT), *TARGETS], name)


def sent(process: Process) -> int:
    said = lines(process)
    return int(said[-1]) if said else 0


def reconfigure(gate: Gate, **settings: object) -> None:
    gate.config.write_text(json.dumps(json.loads(gate.config.read_text()) | settings))


@pytest.mark.parametrize("attach", ["tcx", "tc"])
def test_nothing_gets_through_while_everything_changes(
    unstarted_gate: Callable[..., Gate], tmp_path: Path, attach: str
) -> None:
    gate = unstarted_gate(settings={"attach": attach})
    lab = gate.lab
    counter = lab.start(lab.outside, [sys.executable, "-I", "-S", "-c", COUNT, str(PORT)], "count")
    wait_until(lambda: lines(counter) == ["ready"], "the counter")

    # What would be seen if nobody judged.
    unjudged = flood(lab, "unjudged")
    wanted = {f"{ethertype} {protocol}" for ethertype in (0x0800, 0x86DD) for protocol in (6, 17)}
    wait_until(lambda: wanted <= set(lines(counter)), "packets to arrive")
    unjudged.stop()

    gate.start()
    gate.add_all()
    assert gate.status()["datapath"]["attach"] == attach
    seen = len(lines(counter))
    judged = flood(lab, "judged")
    text = (gate.policies / BATCH_RULES).read_text()

    def reloads(count: int) -> None:
        for number in range(count):
            other = text.replace("- 198.51.100.64/26", f"- 198.51.100.{64 * (number % 2)}/32")
            gate.write(BATCH_RULES, text if number % 3 == 2 else other)
            status, answer = gate.api("POST", "/v1/rules/reload", {})
            assert status == 200, answer

    reloads(9)
    gate.stop_agent()
    gate.start()  # programs are replaced
    reloads(3)
    gate.kill_agent()
    reconfigure(gate, attach="tc" if attach == "tcx" else "tcx")
    gate.start()  # and attached in the other way
    assert gate.status()["datapath"]["attach"] != attach
    for pid in gate.workers().values():
        os.kill(pid, signal.SIGKILL)
    reloads(3)  # waits for those that take their place
    before = sent(judged)
    wait_until(lambda: sent(judged) > before + 500, "the flood to go on")
    judged.stop()
    assert sent(judged) > 2000
    assert lines(counter)[seen:] == []
    assert traffic.connect(lab.batch.namespace, IN_CIDR, 80).open
    drops = {row["reason"]: row["packets"] for row in gate.status()["drops"]}
    assert drops["POLICY_DENIED"] >= sent(judged)
